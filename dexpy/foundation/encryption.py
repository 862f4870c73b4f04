"""Encryption of params and results in storage and in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from dexpy.foundation.errors import ConfigurationError, DeclarationError, EncryptorMissing, MissingExtra, did_you_mean
from dexpy.foundation.services import Provider

DEFAULT = "default"
"""The name of the default encryptor."""


class Encryptor(Protocol):
    """Encrypts and decrypts bytes.

    Use an authenticated cipher: the result of `encrypt` must differ from call to call, and `decrypt` must raise for
    anything that `encrypt` did not return. Several threads may call both methods at once.
    """

    def encrypt(self, data: bytes) -> bytes:
        """Return the encrypted data."""
        ...

    def decrypt(self, data: bytes) -> bytes:
        """Return the decrypted data."""
        ...


class FernetEncryptor:
    """AES-128 with HMAC-SHA-256 of the package `cryptography`; requires the extra ``crypto``.

    Args:
        keys: Results of ``cryptography.fernet.Fernet.generate_key()``: the first one encrypts, all of them decrypt.
            To rotate, insert a new key at the beginning, and keep the old one until no stored data uses it.

    Raises:
        ConfigurationError: A key is invalid; the message does not contain it.
        MissingExtra: The package is not installed.
    """

    def __init__(self, *keys: str | bytes) -> None:
        try:
            from cryptography.fernet import Fernet, MultiFernet
        except ImportError:
            raise MissingExtra("Encryption by FernetEncryptor", "cryptography", "crypto") from None
        if not keys:
            raise ConfigurationError(
                "FernetEncryptor(): expected a key, got none. Generate one with Fernet.generate_key()."
            )
        fernets: list[Fernet] = []
        for number, key in enumerate(keys, 1):
            try:
                fernets.append(Fernet(key))
            except (ValueError, TypeError):
                raise ConfigurationError(
                    f"FernetEncryptor(...): key {number} of {len(keys)} is invalid; expected 32 bytes in URL-safe "
                    "base64. Generate one with Fernet.generate_key()."
                ) from None
        self._fernet = MultiFernet(fernets)

    def encrypt(self, data: bytes) -> bytes:
        """See `Encryptor`."""
        return self._fernet.encrypt(data)

    def decrypt(self, data: bytes) -> bytes:
        """See `Encryptor`."""
        return self._fernet.decrypt(data)


class Encryptors(Mapping[str, Encryptor]):
    """The encryptors of a runtime by name.

    Args:
        named: Encryptors of the application.
        keys: Fernet keys of the default encryptor, joined by commas.
        accepts_unbound: Whether ciphertext that is not bound to an operation, column and run is decrypted.

    Raises:
        ConfigurationError: A method is missing, a name is invalid, or there are two default encryptors.
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
                raise ConfigurationError(f"configure(encryptors=...): invalid name {name!r}; expected a non-empty str.")
            if not all(callable(getattr(encryptor, method, None)) for method in ("encrypt", "decrypt")):
                raise ConfigurationError(
                    f"configure(encryptors={{{name!r}: ...}}): expected an object with encrypt(bytes) and "
                    f"decrypt(bytes), got {type(encryptor).__name__}."
                )
            self._named[name] = encryptor
        if keys:
            if DEFAULT in self._named:
                raise ConfigurationError(
                    "configure(): expected encryption keys or the encryptor 'default', got both. Remove one of them."
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
        """Return the encryptor with a name.

        Raises:
            EncryptorMissing: It is not configured in this process.
        """
        encryptor = self._named.get(name)
        if encryptor is None:
            raise EncryptorMissing(operation, name, did_you_mean(name, self._named))
        return encryptor


current_encryptors: Provider[Encryptors] = Provider("encryptors")
"""The encryptors of the current runtime."""


def encryptor_name(declared: object, where: str) -> str | None:
    """Return the name of the declared encryptor: True is the default one, False is none.

    Raises:
        DeclarationError: It is neither a bool nor a name.
    """
    if declared is True:
        return DEFAULT
    if declared is False:
        return None
    if isinstance(declared, str) and declared:
        return declared
    raise DeclarationError(f"{where}: expected True, False or the name of an encryptor, got {declared!r}.")
