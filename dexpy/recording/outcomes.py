"""The outcome of a run, read from its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dexpy.codec.codecs import InvalidValue
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import OperationFailed, ResultNotStored
from dexpy.foundation.outcome import Err, Ok
from dexpy.recording.encryption import DECRYPT_ERRORS, decrypt


def outcome_of(id: str, name: str, columns: Mapping[str, Any]) -> Ok[Any] | Err | None:
    """Return the outcome of a run; None if it has none, or if its result is unreadable.

    Args:
        id: The id of the run.
        name: The operation's stable name.
        columns: The row, by column.
    """
    if columns.get("status") == "done":
        try:
            envelope = _envelope(id, name, columns)
        except DECRYPT_ERRORS:
            return None
        return Ok(_decoded(name, envelope["value"])) if "value" in envelope else None
    if columns.get("status") == "failed" and columns.get("failure") in ("business", "rejected"):
        return Err(
            columns["error"],
            columns.get("error_message") or columns["error"],
            columns.get("error_details") or {},
            rejected=columns["failure"] == "rejected",
        )
    return None


def require_outcome(id: str, name: str, columns: Mapping[str, Any]) -> Ok[Any] | Err:
    """Return the outcome of a run that has ended.

    Args:
        id: The id of the run.
        name: The operation's stable name.
        columns: The row, by column.

    Raises:
        OperationFailed: The run ended in neither `Ok` nor `Err`.
        ResultNotStored: The run is done, and its result was not stored.
        EncryptorMissing: The run is done, and this process does not have the encryptor of its result.
        DecryptionFailed: The run is done, and its result does not decrypt.
    """
    outcome = outcome_of(id, name, columns)
    if outcome is not None:
        return outcome
    if columns["status"] == "done":
        envelope = _envelope(id, name, columns)
        reason = envelope.get("unstorable", "its class has record = Recording(result=False)")
        raise ResultNotStored(f"{name} {id}: done, but the result was not stored: {reason}.")
    raise OperationFailed(
        id,
        name,
        columns.get("failure") or columns["status"],
        columns.get("error"),
        columns.get("error_message"),
    )


def _envelope(id: str, name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    # Use the operation of the row: classes of one key group share records, so the ticket may be of another class.
    envelope: object = decrypt(columns.get("operation") or name, columns.get("result"), id, "result")
    return cast("dict[str, Any]", envelope) if isinstance(envelope, dict) else {}


def _decoded(name: str, value: Any) -> Any:
    contract: Contract | None = registry.contract_of(name)
    codec = None if contract is None else contract.success
    try:
        return value if codec is None else codec.decode(value)
    except InvalidValue:
        # The class has changed since: return the stored JSON.
        return value
