"""Encryption of the params and results of a class in rows and messages.

One entry of the JSON has the encrypted values, by the name of their encryptor; no prop can have its name::

    {"customer": 7, "$encrypted": {"default": "Z0FBQUFBQm..."}}

`decrypt` reads both forms, so encryption of a class may be turned on and off while rows are stored.
The encrypted text contains its operation, column, run and encryptor, and is not decrypted anywhere else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, cast

from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.foundation.encryption import current_encryptors
from dexpy.foundation.errors import SENSITIVE, DecryptionFailed, EncryptorMissing
from dexpy.foundation.redaction import Redactor, class_path

ENCRYPTED = "$encrypted"
"""The entry of the encrypted values; no prop can have this name."""

BOUND, DATA = "$bound", "$data"
"""The entries inside the ciphertext: where it is stored, and the encrypted data."""

DECRYPT_ERRORS = (EncryptorMissing, DecryptionFailed)
"""The errors of `decrypt`, after which the stored value is unchanged."""


def check_encryptable(contract: Contract) -> None:
    """Refuse a class whose encryptor is not configured in this process.

    Raises:
        EncryptorMissing: An encryptor is missing.
    """
    encryptors = current_encryptors.get()
    for name in {*contract.encrypted_props.values(), *([contract.encryptor] if contract.encryptor else [])}:
        encryptors.require(name, contract.name)


def encrypt_params(contract: Contract, params: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Encrypt the params that the class declares as encrypted.

    Args:
        contract: The contract of the operation.
        params: The params as JSON; those of a recurring task may lack some.
        run_id: The id of the run, or of the recurring task.

    Raises:
        EncryptorMissing: The encryptor is not configured.
    """
    if not contract.encrypted_props:
        return params
    by_encryptor: dict[str, dict[str, Any]] = {}
    for name, encryptor in contract.encrypted_props.items():
        if name in params:
            by_encryptor.setdefault(encryptor, {})[name] = params[name]
    if not by_encryptor:
        return params
    clear = {name: value for name, value in params.items() if name not in contract.encrypted_props}
    return {
        **clear,
        ENCRYPTED: {name: _encrypt(contract.name, name, data, run_id, "params") for name, data in by_encryptor.items()},
    }


def encrypt_result(
    contract: Contract, envelope: dict[str, Any], operation: str, run_id: str, column: str = "result"
) -> dict[str, Any]:
    """Encrypt the envelope of a result, if the class has an encryptor.

    Args:
        contract: The contract of the operation.
        envelope: The envelope as JSON.
        operation: The name of the operation in the run's row, which may be an earlier name.
        run_id: The id of the run.
        column: The column that stores it.

    Raises:
        EncryptorMissing: The encryptor is not configured.
    """
    if contract.encryptor is None:
        return envelope
    return {ENCRYPTED: {contract.encryptor: _encrypt(operation, contract.encryptor, envelope, run_id, column)}}


def decrypt(operation: str, stored: Any, run_id: str, column: str) -> Any:
    """Decrypt stored params, or the envelope of a result.

    Args:
        operation: The operation's name in the row or message.
        stored: The JSON of a row or message; plain values are returned unchanged.
        run_id: The id of the run in the row or message.
        column: The column that stores it.

    Raises:
        EncryptorMissing: The encryptor is not configured.
        DecryptionFailed: The encryptor has no key for the value, or the value was changed or stored elsewhere.
    """
    if not is_encrypted(stored):
        return stored
    entries: Mapping[str, Any] = stored
    clear = {name: value for name, value in entries.items() if name != ENCRYPTED}
    if not isinstance(entries[ENCRYPTED], Mapping):
        raise DecryptionFailed(operation, "none", f"the entry {ENCRYPTED!r} is not a JSON object")
    for name, token in cast("Mapping[str, Any]", entries[ENCRYPTED]).items():
        clear |= _bound_data(operation, name, _decrypt(operation, name, token), run_id, column)
    return clear


def redactor_of(contract: Contract, params: Any, run_id: str, redactor: Redactor) -> Redactor:
    """Return a redactor of the sensitive values of stored params, for a run whose params are invalid."""
    try:
        clear: Any = decrypt(contract.name, params, run_id, "params")
        return redactor.knowing([clear[name] for name in contract.sensitive_props if name in clear])
    except Exception:  # noqa: BLE001 - unreadable params are not shown either
        return redactor


def redact_params(operation: str, stored: Any) -> Any:
    """Return stored params without sensitive and encrypted values.

    Args:
        operation: The operation's stable name.
        stored: The stored params.
    """
    if not isinstance(stored, dict):
        return stored
    params = cast("dict[str, Any]", stored)
    contract: Contract | None = registry.contract_of(operation)
    sensitive = () if contract is None else contract.sensitive_props
    if ENCRYPTED not in params:
        return (
            {name: SENSITIVE if name in sensitive else value for name, value in params.items()} if sensitive else params
        )
    redacted = {name: value for name, value in params.items() if name != ENCRYPTED} | dict.fromkeys(
        sensitive, SENSITIVE
    )
    return redacted if sensitive else {**redacted, ENCRYPTED: SENSITIVE}


def explain_encryption(contract: Contract) -> dict[str, Any] | None:
    """Return the encrypted props of a class and its sensitive props in plain text; None without either."""
    readable = [name for name in contract.sensitive_props if name not in contract.encrypted_props]
    if not (contract.encrypted_props or contract.encryptor or readable):
        return None
    encryptors = current_encryptors.get()
    required = {*contract.encrypted_props.values(), *([contract.encryptor] if contract.encryptor else [])}
    return {
        "props": dict(contract.encrypted_props),
        "result": contract.encryptor,
        "missing": sorted(required - set(encryptors)),
        "readable": readable,
    }


def is_encrypted(stored: Any) -> bool:
    """Return whether stored JSON has encrypted values."""
    return isinstance(stored, Mapping) and ENCRYPTED in stored


def is_encrypted_for(contract: Contract, params: Mapping[str, Any]) -> bool:
    """Return whether all params that a class encrypts are encrypted, and none is also in plain text."""
    if not contract.encrypted_props:
        return True
    by_encryptor: object = params.get(ENCRYPTED)
    if not isinstance(by_encryptor, Mapping) or not set(contract.encrypted_props.values()) <= by_encryptor.keys():
        return False
    encrypted_props = [prop for prop in contract.props if prop.name in contract.encrypted_props]
    names = {name for prop in encrypted_props for name in (prop.name, *prop.options.aliases)}
    return not names & params.keys()


def _encrypt(operation: str, name: str, data: dict[str, Any], run_id: str, column: str) -> str:
    encryptors = current_encryptors.get()
    bound = {BOUND: [operation, column, run_id, name], DATA: data}
    text = json.dumps(bound, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(encryptors.require(name, operation).encrypt(text.encode())).decode("ascii")


def _decrypt(operation: str, name: str, token: Any) -> dict[str, Any]:
    encryptors = current_encryptors.get()
    encryptor = encryptors.require(name, operation)
    try:
        data: Any = json.loads(encryptor.decrypt(base64.b64decode(token, validate=True)))
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - each encryptor has its own
        # Without the exception as its cause: the message of an encryptor may contain secrets.
        raise DecryptionFailed(operation, name, class_path(error)) from None
    if not isinstance(data, dict):
        raise DecryptionFailed(operation, name, "the decrypted data is not a JSON object")
    return cast("dict[str, Any]", data)


def _bound_data(operation: str, name: str, decrypted: dict[str, Any], run_id: str, column: str) -> dict[str, Any]:
    """Return the decrypted data if it was encrypted for this operation, column, run and encryptor."""
    contract: Contract | None = registry.contract_of(operation)
    if BOUND in decrypted:
        names = {operation} if contract is None else {operation, contract.name, *contract.aliases}
        bound, data = decrypted[BOUND], decrypted.get(DATA)
        if not any(bound == [known, column, run_id, name] for known in names) or not isinstance(data, dict):
            raise DecryptionFailed(
                operation,
                name,
                "it was encrypted for another operation, column or run",
                "Restore the stored value.",
            )
        return cast("dict[str, Any]", data)
    encryptors = current_encryptors.get()
    encrypts = contract is not None and bool(contract.encrypted_props if column == "params" else contract.encryptor)
    if encrypts and encryptors.accepts_unbound:
        return decrypted
    raise DecryptionFailed(
        operation,
        name,
        "it has no reference to its run",
        "If an earlier release stored it, set configure(accept_unbound_ciphertext=True) and retry.",
    )
