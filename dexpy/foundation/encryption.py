"""Encryption of params and results in storage and in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from dexpy.foundation.errors import ConfigurationError, DeclarationError, EncryptorMissing, MissingExtra, did_you_mean
from dexpy.foundation.services import Provider

DEFAULT = "default"
"""The encryptor of classes and props that name none."""


class Encryptor(Protocol):
    """Encrypts and decrypts bytes.

    The result of `encrypt` differs from call to call, and `decrypt` raises for anything that `encrypt` did not return:
    an authenticated cipher does both. Both may be called from many threads at once.
    """

    def encrypt(self, data: bytes) -> bytes:
        """Return the data encrypted."""
        ...

    def decrypt(self, data: bytes) -> bytes:
        """Return the data that was encrypted."""
        ...


class FernetEncryptor:
    """AES-128 with HMAC-SHA-256, by `cryptography`: the extra ``crypto``.

    Args:
        keys: As ``cryptography.fernet.Fernet.generate_key()`` makes them: the first one encrypts, each decrypts.
            To rotate, put a new key first, and leave the old one until nothing is stored by it.

    Raises:
        ConfigurationError: A key that is none; the message does not show it.
        MissingExtra: The package is not installed.
    """

    def __init__(self, *keys: str | bytes) -> None:
        try:
            from cryptography.fernet import Fernet, MultiFernet
        except ImportError:
            raise MissingExtra("Encryption by FernetEncryptor", "cryptography", "crypto") from None
        if not keys:
            raise ConfigurationError("FernetEncryptor() got no key. Make one: Fernet.generate_key().")
        fernets: list[Fernet] = []
        for number, key in enumerate(keys, 1):
            try:
                fernets.append(Fernet(key))
            except (ValueError, TypeError):
                raise ConfigurationError(
                    f"FernetEncryptor(...): its key {number} of {len(keys)} is no key: 32 bytes in URL-safe base64. "
                    "Make one: Fernet.generate_key()."
                ) from None
        self._fernet = MultiFernet(fernets)

    def encrypt(self, data: bytes) -> bytes:
        """See `Encryptor`."""
        return self._fernet.encrypt(data)

    def decrypt(self, data: bytes) -> bytes:
        """See `Encryptor`."""
        return self._fernet.decrypt(data)


class Encryptors(Mapping[str, Encryptor]):
    """Every encryptor of a runtime, by its name.

    Args:
        named: The application's own.
        keys: Of the default one, by Fernet, joined by commas.
        accepts_unbound: Whether ciphertext that does not name its operation, column and run is opened.

    Raises:
        ConfigurationError: Something without both methods, a name that is none, or two default ones.
    """

    def __init__(
        self,
        named: Mapping[str, Encryptor] | None = None,
        keys: str | None = None,
        *,
        accepts_unbound: bool = False,
    ) -> None:
        self.accepts_unbound = accepts_unbound
        self._named: dict[str, Encryptor] = {}
        for name, encryptor in cast("Mapping[Any, Any]", named or {}).items():
            if not (isinstance(name, str) and name):
                raise ConfigurationError(f"configure(encryptors=...): {name!r} is no name of an encryptor.")
            if not all(callable(getattr(encryptor, method, None)) for method in ("encrypt", "decrypt")):
                raise ConfigurationError(
                    f"configure(encryptors={{{name!r}: ...}}) wants an object with encrypt(bytes) and decrypt(bytes), "
                    f"got {type(encryptor).__name__}."
                )
            self._named[name] = encryptor
        if keys:
            if DEFAULT in self._named:
                raise ConfigurationError(
                    "There are encryption keys and an encryptor of the name 'default'. Leave one of them out."
                )
            key_texts = (key_text.strip() for key_text in keys.split(","))
            self._named[DEFAULT] = FernetEncryptor(*filter(None, key_texts))

    def __getitem__(self, name: str) -> Encryptor:
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def __repr__(self) -> str:
        return f"<Encryptors {', '.join(self._named) or 'none'}>"

    def require(self, name: str, operation: str) -> Encryptor:
        """Return the encryptor of a name.

        Raises:
            EncryptorMissing: There is none in this process.
        """
        encryptor = self._named.get(name)
        if encryptor is None:
            raise EncryptorMissing(operation, name, did_you_mean(name, self._named))
        return encryptor


current_encryptors: Provider[Encryptors] = Provider("encryptors")
"""The encryptors of the current runtime."""


def encryptor_name(declared: object, where: str) -> str | None:
    """Return the name of the encryptor that was declared: True for the default one, False for none.

    Raises:
        DeclarationError: It is neither a bool nor a name.
    """
    if declared is True:
        return DEFAULT
    if declared is False:
        return None
    if isinstance(declared, str) and declared:
        return declared
    raise DeclarationError(f"{where} = {declared!r} wants True, False or the name of an encryptor.")
