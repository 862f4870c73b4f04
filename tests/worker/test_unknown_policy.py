"""How long a message of an unknown class is deferred."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dexpy.worker import unknown_operations
from dexpy.worker.unknown_operations import UnknownPolicy, unknown_policy


def test_without_a_database_the_first_wait_is_short_because_no_worker_makes_messages_due() -> None:
    grace = timedelta(hours=2)

    assert unknown_policy(grace).first_wait_s == 30.0
    assert unknown_policy(grace, is_alone=True) == UnknownPolicy(first_wait_s=1.0, grace_s=7200.0)


def test_without_a_database_a_shorter_first_wait_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_operations, "DEFAULT_POLICY", UnknownPolicy(first_wait_s=0.2))

    assert unknown_policy(None, is_alone=True).first_wait_s == 0.2
