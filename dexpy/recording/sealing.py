"""Sealing: params and results on their way to rows and messages, and back, where a class has them encrypted.

What is sealed lies in one entry of the JSON that no prop can have, by the name of its encryptor::

    {"customer": 7, "$encrypted": {"default": "Z0FBQUFBQm..."}}

so what was stored before a class was encrypted, or after it no longer is, is read by the same function.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, cast

from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.declaration.encryption import Encryptors
from dexpy.foundation.door import encryptors_in_force
from dexpy.foundation.errors import SENSITIVE, DecryptionFailed, EncryptorMissing, UnknownOperation
from dexpy.foundation.redaction import class_path

SEAL = "$encrypted"
"""The entry of what is encrypted; no prop can have this name."""

UNREADABLE = (EncryptorMissing, DecryptionFailed)
"""What `opened` raises; nothing is lost by it."""


def check_sealable(contract: Contract) -> None:
    """Refuse a class whose encryptor this process does not have, before anything of it is done.

    Raises:
        EncryptorMissing: Says what to configure.
    """
    encryptors: Encryptors = encryptors_in_force()
    for name in {*contract.sealed_props.values(), *([contract.encryptor] if contract.encryptor else [])}:
        encryptors.require(name, contract.name)


def sealed(contract: Contract, params: dict[str, Any]) -> dict[str, Any]:
    """Encoded params as they are stored and sent.

    Raises:
        EncryptorMissing: The class has them encrypted, and its encryptor is not there.
    """
    if not contract.sealed_props:
        return params
    by_encryptor: dict[str, dict[str, Any]] = {}
    for name, encryptor in contract.sealed_props.items():
        by_encryptor.setdefault(encryptor, {})[name] = params[name]
    clear = {name: value for name, value in params.items() if name not in contract.sealed_props}
    return {**clear, SEAL: {name: _encrypted(contract.name, name, data) for name, data in by_encryptor.items()}}


def sealed_result(contract: Contract, envelope: dict[str, Any]) -> dict[str, Any]:
    """The envelope of a result as it is stored.

    Raises:
        EncryptorMissing: The class has it encrypted, and its encryptor is not there.
    """
    if contract.encryptor is None:
        return envelope
    return {SEAL: {contract.encryptor: _encrypted(contract.name, contract.encryptor, envelope)}}


def opened(operation: str, stored: Any) -> Any:
    """Stored params, or the envelope of a result, in the clear.

    Args:
        operation: The operation's name, for messages.
        stored: As a row or a message has it; what is not sealed stays as it is.

    Raises:
        EncryptorMissing: The encryptor that it was sealed by is not there.
        DecryptionFailed: It has no key for it, or it is not what was stored.
    """
    if not is_sealed(stored):
        return stored
    entries: Mapping[str, Any] = stored
    found = {name: value for name, value in entries.items() if name != SEAL}
    if not isinstance(entries[SEAL], Mapping):
        raise DecryptionFailed(operation, "none", "what names its encryptor is no JSON object")
    for name, token in cast("Mapping[str, Any]", entries[SEAL]).items():
        found |= _decrypted(operation, name, token)
    return found


def shown(operation: str, stored: Any) -> Any:
    """Stored params for people: what is sensitive or encrypted is not shown.

    Args:
        operation: The operation's stable name.
        stored: As the row has it.
    """
    if not isinstance(stored, dict):
        return stored
    params = cast("dict[str, Any]", stored)
    try:
        hidden: tuple[str, ...] = registry.find(operation).contract.sensitive_props
    except UnknownOperation:
        hidden = ()
    if SEAL not in params:
        return {name: SENSITIVE if name in hidden else value for name, value in params.items()} if hidden else params
    shown = {name: value for name, value in params.items() if name != SEAL} | dict.fromkeys(hidden, SENSITIVE)
    return shown if hidden else {**shown, SEAL: SENSITIVE}


def explanation(contract: Contract) -> dict[str, Any] | None:
    """What of a class is encrypted, and what is sensitive and readable in the row; None for nothing of both."""
    readable = [name for name in contract.sensitive_props if name not in contract.sealed_props]
    if not (contract.sealed_props or contract.encryptor or readable):
        return None
    encryptors: Encryptors = encryptors_in_force()
    used = {*contract.sealed_props.values(), *([contract.encryptor] if contract.encryptor else [])}
    return {
        "props": dict(contract.sealed_props),
        "result": contract.encryptor,
        "missing": sorted(used - set(encryptors)),
        "readable": readable,
    }


def is_sealed(stored: Any) -> bool:
    """Whether a part of stored JSON is encrypted."""
    return isinstance(stored, Mapping) and SEAL in stored


def _encrypted(operation: str, name: str, data: dict[str, Any]) -> str:
    encryptors: Encryptors = encryptors_in_force()
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(encryptors.require(name, operation).encrypt(text.encode())).decode("ascii")


def _decrypted(operation: str, name: str, token: Any) -> dict[str, Any]:
    encryptors: Encryptors = encryptors_in_force()
    encryptor = encryptors.require(name, operation)
    try:
        data: Any = json.loads(encryptor.decrypt(base64.b64decode(token, validate=True)))
    except Exception as error:  # noqa: BLE001 - each encryptor has its own
        # Without the exception itself: nobody knows what an encryptor puts into its messages.
        raise DecryptionFailed(operation, name, class_path(error)) from None
    if not isinstance(data, dict):
        raise DecryptionFailed(operation, name, "what was encrypted is no JSON object")
    return cast("dict[str, Any]", data)
