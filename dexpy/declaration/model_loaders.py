"""How the rows behind a `Ref` are named and loaded: SQLAlchemy's models out of the box, others by registration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from uuid import UUID

import attrs

from dexpy.codec.codecs import Codec, InvalidValue
from dexpy.declaration.model_keys import (
    EXPECTED,
    check_plain_key,
    codec_of_column,
    decode_plain_key,
    encode_plain_key,
    plain_key,
)
from dexpy.foundation.errors import DeclarationError, Problem

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper

Key: TypeAlias = int | str | UUID | tuple[int | str | UUID | date, ...]
"""A primary key: a value, or a tuple of them for a composite one."""


class ModelLoader(Protocol):
    """The key and row functions of one model, for references."""

    def key_of(self, instance: Any) -> Key | None:
        """Return the key of an instance, None while it has none."""
        ...

    def check_key(self, key: Any) -> Key:
        """Return a key of the right type, or `InvalidValue`."""
        ...

    def encode_key(self, key: Key) -> Any:
        """Return the key as JSON."""
        ...

    def comparable_key(self, key: Key) -> Any:
        """Return the key as JSON that is the same of equal keys."""
        ...

    def decode_key(self, data: Any) -> Key:
        """Return the key from JSON, or `InvalidValue`."""
        ...

    def load(
        self, session: Callable[[], Any], keys: Sequence[Key], lock: bool, options: Mapping[str, Any]
    ) -> Mapping[Key, Any]:
        """Return the rows of these keys; a missing one is left out."""
        ...

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Return whether an instance belongs to the run's session and needs no loading."""
        ...


@attrs.frozen
class SqlAlchemyLoader:
    """Loads a mapped class through the run's session.

    Attributes:
        model: The mapped class.
        columns: Its primary key, as mapped attributes.
        forms: A codec for each column of the key.
    """

    model: type[Any]
    columns: tuple[Any, ...]
    forms: tuple[Codec, ...]

    @classmethod
    def of(cls, model: type) -> SqlAlchemyLoader:
        """Return the loader of a mapped class."""
        from sqlalchemy import inspect

        mapper: Mapper[Any] = inspect(model)
        columns = tuple(getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key)
        return cls(model, columns, tuple(codec_of_column(model, mapper, column) for column in mapper.primary_key))

    def key_of(self, instance: Any) -> Key | None:
        """Return the identity of an instance that has been flushed."""
        from sqlalchemy import inspect

        identity: tuple[Any, ...] | None = inspect(instance).identity
        if identity is None:
            return None
        key: Key = identity[0] if len(identity) == 1 else tuple(identity)
        return key

    def check_key(self, key: Any) -> Key:
        """Return a key with the types of the primary key's columns."""
        return self._each(key, [codec.check for codec in self.forms])

    def encode_key(self, key: Key) -> Any:
        """Return a value, or a list for a composite key."""
        if len(self.forms) == 1:
            return self.forms[0].encode(key)
        return [codec.encode(value) for codec, value in zip(self.forms, _key_values(key), strict=True)]

    def comparable_key(self, key: Key) -> Any:
        """Return a value, or a list for a composite key."""
        if len(self.forms) == 1:
            return self.forms[0].key(key)
        return [codec.key(value) for codec, value in zip(self.forms, _key_values(key), strict=True)]

    def decode_key(self, data: Any) -> Key:
        """Return the key that `encode_key` wrote."""
        return self._each(_tuple_of(data), [codec.decode for codec in self.forms])

    def _each(self, key: Any, functions: Sequence[Callable[[Any], Any]]) -> Key:
        if len(functions) == 1:
            single: Key = functions[0](key)
            return single
        values = _key_values(key)
        if len(values) != len(functions):
            raise InvalidValue((Problem("", f"a tuple of {len(functions)} values", f"a tuple of {len(values)}"),))
        return tuple(function(value) for function, value in zip(functions, values, strict=True))

    def load(
        self, session: Callable[[], Any], keys: Sequence[Key], lock: bool, options: Mapping[str, Any]
    ) -> Mapping[Key, Any]:
        """Return the rows of these keys, as the database compares them; with *lock*, locked FOR UPDATE in order."""
        from dexpy.declaration.row_loading import RowLoader

        return RowLoader(self.model, self.columns, session(), lock, options).load(keys)

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Return whether the instance already lives in the run's session."""
        from sqlalchemy.orm import object_session

        owner = object_session(instance)
        return owner is not None and owner is session()


def _key_values(key: object) -> tuple[Any, ...]:
    """Return the values of a key, one for each column."""
    return cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)


def _tuple_of(data: object) -> Any:
    """JSON has lists where a composite key is a tuple."""
    return tuple(cast("list[object]", data)) if isinstance(data, list) else data


@attrs.frozen
class RegisteredLoader:
    """Loads models of another kind by two functions of the application's."""

    model: type
    load_rows: Callable[[type, Sequence[Any]], Mapping[Any, Any] | Iterable[Any]]
    read_key: Callable[[Any], Any]

    def key_of(self, instance: Any) -> Key | None:
        """Return the result of the registered function."""
        key: Key | None = self.read_key(instance)
        return key

    def check_key(self, key: Any) -> Key:
        """Return a value of a usual type, or a tuple of them."""
        for value in _key_values(key):
            check_plain_key(value, f"{EXPECTED}, or a tuple of them")
        checked: Key = key
        return checked

    def encode_key(self, key: Key) -> Any:
        """Return the key; a type that JSON has not is named with it."""
        if isinstance(key, tuple):
            return [encode_plain_key(value) for value in key]
        return encode_plain_key(key)

    def comparable_key(self, key: Key) -> Any:
        """Return a value, or a list of them."""
        return [plain_key(value) for value in _key_values(key)] if isinstance(key, tuple) else plain_key(key)

    def decode_key(self, data: Any) -> Key:
        """Return the key that `encode_key` wrote."""
        if isinstance(data, list):
            return tuple(decode_plain_key(value) for value in cast("list[object]", data))
        key: Key = decode_plain_key(data)
        return key

    def load(
        self, session: Callable[[], Any], keys: Sequence[Key], lock: bool, options: Mapping[str, Any]
    ) -> Mapping[Key, Any]:
        """Return the rows, by key.

        Raises:
            DeclarationError: The reference has options that only SQLAlchemy's models support.
        """
        if lock or options:
            raise DeclarationError(
                f"Ref[{self.model.__name__}]: prop({'lock' if lock else 'execution_options'}=) is for mapped classes "
                "of SQLAlchemy; this model is loaded by a registered function. Leave it out."
            )
        rows = self.load_rows(self.model, keys)
        if isinstance(rows, Mapping):
            return cast("Mapping[Key, Any]", rows)
        return {self.read_key(instance): instance for instance in rows}

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Return True: an instance is always used unchanged."""
        return True


_registered: list[tuple[type, Any, Any]] = []


def register_model_loader(
    base: type,
    *,
    load: Callable[[type, Sequence[Any]], Mapping[Any, Any] | Iterable[Any]],
    key: Callable[[Any], Any],
) -> None:
    """Teach `Ref` to load models of another kind.

    Args:
        base: The models' base class; its subclasses are loaded by these functions.
        load: Takes a model and a list of keys, returns the rows found: a mapping by key, or the rows themselves.
        key: Takes an instance, returns its key, or None while it has none.

    Example:
        >>> class Page:
        ...     def __init__(self, slug):
        ...         self.slug = slug
        >>> register_model_loader(Page, load=lambda model, keys: [model(key) for key in keys], key=lambda p: p.slug)
    """
    _registered.append((base, load, key))
    loader_of.cache_clear()


def is_model(cls: object) -> bool:
    """Return whether a class has a loader."""
    if not isinstance(cls, type):
        return False
    return hasattr(cls, "__mapper__") or any(issubclass(cls, base) for base, _, _ in _registered)


@cache
def loader_of(model: type) -> ModelLoader:
    """Return the loader of a model.

    Raises:
        DeclarationError: There is none.
    """
    for base, load, key in reversed(_registered):
        if issubclass(model, base):
            return RegisteredLoader(model, load, key)
    if hasattr(model, "__mapper__"):
        return SqlAlchemyLoader.of(model)
    raise DeclarationError(
        f"Ref[{model.__name__}]: {model.__qualname__} is no mapped class of SQLAlchemy, and no loader is registered "
        "for it. Map it, or call dexpy.register_model_loader(base, load=, key=)."
    )
