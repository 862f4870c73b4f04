"""The insert of a record, as a statement that is made once and parameters that are made each time.

To put an insert of thirty values together takes SQLAlchemy longer than the database takes to do it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from dexpy.recording.metadata import after, seconds_parameter
from dexpy.recording.tables import records

_PREFIX = "from_now_"


def insertion(values: Mapping[str, Any]) -> tuple[sa.Insert, dict[str, Any]]:
    """A statement and its parameters.

    Args:
        values: Of a row; a moment may be an `after` of so many seconds.
    """
    moments = {name: value.seconds for name, value in values.items() if isinstance(value, after)}
    parameters = {name: value for name, value in values.items() if name not in moments}
    parameters |= {_PREFIX + name: seconds for name, seconds in moments.items()}
    return _statement(frozenset(moments)), parameters


@functools.lru_cache(maxsize=128)
def _statement(moments: frozenset[str]) -> sa.Insert:
    return sa.insert(records).values({name: after(seconds_parameter(_PREFIX + name)) for name in sorted(moments)})
