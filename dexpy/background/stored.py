"""From what a row or a message keeps of a run to what running it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy.engine import Row

from dexpy.declaration.contract import Contract
from dexpy.declaration.values import decoded
from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.trace import Frame
from dexpy.recording.sealing import check_sealable, opened


def counts_of(row: Row[Any]) -> Mapping[str, int]:
    """Attempts so far for each retry rule; none where what is stored has a form that nobody knows."""
    stored: object = row.retry_counts
    return cast("dict[str, int]", stored) if isinstance(stored, dict) else {}


def frame_of(trace: Any, trace_id: str | None) -> Frame:
    """The frame that was stored; one of the same trace where its form is not known here: no run fails for that."""
    try:
        return Frame.from_dict(trace)
    except (KeyError, TypeError, ValueError):
        return Frame(trace_id or new_id("tr"))


def build(contract: Contract, params: Any, run_id: str) -> Any:
    """An operation from its stored params.

    Raises:
        EncryptorMissing: They are encrypted, or are to be now, and this process has not got what it takes.
        DecryptionFailed: They do not decrypt.
        Undecodable: They no longer fit.
        PropsError: They no longer are within the bounds.
    """
    if contract.sealed_props:
        # Its result is to be encrypted: that must be known before it runs.
        check_sealable(contract)
    clear = opened(contract.name, params)
    values, ignored = decoded(contract.cls.__qualname__, contract.props, clear)
    if ignored:
        line(logging.INFO, "params.ignored", operation=contract.name, run=run_id, keys=",".join(ignored))
    return contract.cls(**values)


def crashed_early(error: Exception, contract: Contract, run_id: str, redactor: Redactor) -> None:
    """Say of an exception that came before the pipeline what the pipeline would have said."""
    facts = {"operation": contract.name, "run": run_id, "error": class_path(error), "message": redactor.of(error)}
    line(logging.ERROR, "crashed", **facts)
