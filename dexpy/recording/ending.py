"""The ending of a run, read from its row: the outcome that it came to, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dexpy.declaration import registry
from dexpy.declaration.forms import Misfit
from dexpy.foundation.errors import OperationFailed, ResultNotStored, UnknownOperation
from dexpy.foundation.outcome import Err, Ok
from dexpy.recording.sealing import UNREADABLE, opened


def outcome_of(name: str, facts: Mapping[str, Any]) -> Ok[Any] | Err | None:
    """What a run came to; None while it is neither `Ok` nor `Err`, or where its result cannot be read.

    Args:
        name: The operation's stable name.
        facts: The row, by the names of its columns.
    """
    if facts.get("status") == "done":
        try:
            envelope = _envelope(name, facts)
        except UNREADABLE:
            return None
        return Ok(_decoded(name, envelope["value"])) if "value" in envelope else None
    if facts.get("status") == "failed" and facts.get("failure") in ("business", "rejected"):
        return Err(
            facts["error"],
            facts.get("error_message") or facts["error"],
            facts.get("error_details") or {},
            rejected=facts["failure"] == "rejected",
        )
    return None


def ending_of(id: str, name: str, facts: Mapping[str, Any]) -> Ok[Any] | Err:
    """What a run that has ended came to.

    Args:
        id: Of the run.
        name: The operation's stable name.
        facts: The row, by the names of its columns.

    Raises:
        OperationFailed: It ended in neither `Ok` nor `Err`.
        ResultNotStored: It is done, and its result was not kept.
        EncryptorMissing: It is done, and its result is encrypted by what this process has not got.
        DecryptionFailed: It is done, and its result does not decrypt.
    """
    outcome = outcome_of(name, facts)
    if outcome is not None:
        return outcome
    if facts["status"] == "done":
        envelope = _envelope(name, facts)
        why = envelope.get("unstorable", "its record keeps no result: record = Record(result=False)")
        raise ResultNotStored(f"{name} {id} is done, but its result was not stored: {why}.")
    raise OperationFailed(
        id,
        name,
        facts.get("failure") or facts["status"],
        facts.get("error"),
        facts.get("error_message"),
    )


def _envelope(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    envelope: dict[str, Any] = opened(name, facts.get("result")) or {}
    return envelope


def _decoded(name: str, value: Any) -> Any:
    try:
        form = registry.find(name).contract.success
    except UnknownOperation:
        return value
    try:
        return value if form is None else form.decode(value)
    except Misfit:
        # The class has changed since: what was stored is better than nothing.
        return value
