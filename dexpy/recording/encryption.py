"""Encryption of the params and results of a class in rows and messages.

Encrypted values are in one entry of the JSON, by the name of their encryptor; no prop can have its name::

    {"customer": 7, "$encrypted": {"default": "Z0FBQUFBQm..."}}

`decrypt` reads both forms, so a class may become encrypted, or stop being so, while rows are stored.
The encrypted text contains the operation, the column, the run and the encryptor that it is for:
copied anywhere else it is not decrypted.
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
"""Inside the ciphertext: where it is stored, and what was encrypted."""

DECRYPT_ERRORS = (EncryptorMissing, DecryptionFailed)
"""The errors of `decrypt`; the stored value stays as it is."""


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
        contract: Of the operation.
        params: As JSON.
        run_id: Of their run.

    Raises:
        EncryptorMissing: Their encryptor is not configured.
    """
    if not contract.encrypted_props:
        return params
    by_encryptor: dict[str, dict[str, Any]] = {}
    for name, encryptor in contract.encrypted_props.items():
        by_encryptor.setdefault(encryptor, {})[name] = params[name]
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
        contract: Of the operation.
        envelope: As JSON.
        operation: The name in the run's row, which may be an earlier one.
        run_id: Of its run.
        column: Where it is stored.

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
        stored: JSON of a row or message; what is not encrypted is returned as it is.
        run_id: Of the row or message.
        column: Where it is stored.

    Raises:
        EncryptorMissing: Its encryptor is not configured.
        DecryptionFailed: The encryptor has no key for it, it was changed, or it was stored elsewhere.
    """
    if not is_encrypted(stored):
        return stored
    entries: Mapping[str, Any] = stored
    clear = {name: value for name, value in entries.items() if name != ENCRYPTED}
    if not isinstance(entries[ENCRYPTED], Mapping):
        raise DecryptionFailed(operation, "none", "what names its encryptor is no JSON object")
    for name, token in cast("Mapping[str, Any]", entries[ENCRYPTED]).items():
        clear |= _bound_data(operation, name, _decrypt(operation, name, token), run_id, column)
    return clear


def redactor_of(contract: Contract, params: Any, run_id: str, redactor: Redactor) -> Redactor:
    """Return a redactor of the sensitive values of stored params, for a run whose params are invalid."""
    try:
        clear: Any = decrypt(contract.name, params, run_id, "params")
        return redactor.knowing([clear[name] for name in contract.sensitive_props if name in clear])
    except Exception:  # noqa: BLE001 - params that cannot be read are not shown either
        return redactor


def redact_params(operation: str, stored: Any) -> Any:
    """Return stored params without sensitive and encrypted values.

    Args:
        operation: The operation's stable name.
        stored: The column of the row.
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
    """Return what a class encrypts, and what is sensitive but readable in the row; None for neither."""
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
    """Return whether all params that a class encrypts are encrypted, and none of them is in the clear too."""
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
        # Without the exception itself: an encryptor's messages may contain secrets.
        raise DecryptionFailed(operation, name, class_path(error)) from None
    if not isinstance(data, dict):
        raise DecryptionFailed(operation, name, "what was encrypted is no JSON object")
    return cast("dict[str, Any]", data)


def _bound_data(operation: str, name: str, decrypted: dict[str, Any], run_id: str, column: str) -> dict[str, Any]:
    """Return what was encrypted, if it was for this operation, column, run and encryptor."""
    contract: Contract | None = registry.contract_of(operation)
    if BOUND in decrypted:
        names = {operation} if contract is None else {operation, contract.name, *contract.aliases}
        bound, data = decrypted[BOUND], decrypted.get(DATA)
        if not any(bound == [known, column, run_id, name] for known in names) or not isinstance(data, dict):
            raise DecryptionFailed(
                operation,
                name,
                "it was encrypted for another operation, column or run",
                "Restore what was stored; nothing of it was opened.",
            )
        return cast("dict[str, Any]", data)
    encryptors = current_encryptors.get()
    encrypts = contract is not None and bool(contract.encrypted_props if column == "params" else contract.encryptor)
    if encrypts and encryptors.accepts_unbound:
        return decrypted
    raise DecryptionFailed(
        operation,
        name,
        "it does not say which run it was encrypted for",
        "If an earlier release stored it, and the class encrypts, set configure(accept_unbound_ciphertext=True) "
        "and retry.",
    )
