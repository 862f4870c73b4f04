"""Loaders of the rows of a `Ref`: for models of SQLAlchemy, and for others by registration."""

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
"""A primary key: a value, or a tuple of values for a composite key."""


class ModelLoader(Protocol):
    """The key and row functions of one model, for references."""

    def key_of(self, instance: Any) -> Key | None:
        """Return the key of an instance; None if it has none yet."""
        ...

    def check_key(self, key: Any) -> Key:
        """Return a key of a valid type, or raise `InvalidValue`."""
        ...

    def encode_key(self, key: Key) -> Any:
        """Return the key as JSON."""
        ...

    def comparable_key(self, key: Key) -> Any:
        """Return the key as JSON that is the same for equal keys."""
        ...

    def decode_key(self, data: Any) -> Key:
        """Return the key of its JSON, or raise `InvalidValue`."""
        ...

    def load(
        self, session: Callable[[], Any], keys: Sequence[Key], lock: bool, options: Mapping[str, Any]
    ) -> Mapping[Key, Any]:
        """Return the existing rows of these keys."""
        ...

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Return whether an instance belongs to the session of the run and needs no loading."""
        ...


@attrs.frozen
class SqlAlchemyLoader:
    """Loads a mapped class through the session of the run.

    Attributes:
        model: The mapped class.
        columns: Its primary key, as mapped attributes.
        forms: The codecs of the columns of the key.
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
        """Return a key with the types of the columns of the primary key."""
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
        """Return the rows of these keys, compared by the database; with *lock*, locked FOR UPDATE in order."""
        from dexpy.declaration.row_loading import RowLoader

        return RowLoader(self.model, self.columns, session(), lock, options).load(keys)

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Return whether the instance belongs to the session of the run."""
        from sqlalchemy.orm import object_session

        owner = object_session(instance)
        return owner is not None and owner is session()


def _key_values(key: object) -> tuple[Any, ...]:
    """Return the values of a key, one for each column."""
    return cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)


def _tuple_of(data: object) -> Any:
    """Return the tuple of a composite key, which is a list in JSON."""
    return tuple(cast("list[object]", data)) if isinstance(data, list) else data


@attrs.frozen
class RegisteredLoader:
    """Loads models of another kind by two functions of the application."""

    model: type
    load_rows: Callable[[type, Sequence[Any]], Mapping[Any, Any] | Iterable[Any]]
    read_key: Callable[[Any], Any]

    def key_of(self, instance: Any) -> Key | None:
        """Return the result of the registered function."""
        key: Key | None = self.read_key(instance)
        return key

    def check_key(self, key: Any) -> Key:
        """Return a value of a usual type, or a tuple of such values."""
        for value in _key_values(key):
            check_plain_key(value, f"{EXPECTED}, or a tuple of them")
        checked: Key = key
        return checked

    def encode_key(self, key: Key) -> Any:
        """Return the key as JSON, with its type if JSON does not support it."""
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
            DeclarationError: The reference has options that only models of SQLAlchemy support.
        """
        if lock or options:
            raise DeclarationError(
                f"Ref[{self.model.__name__}]: prop({'lock' if lock else 'execution_options'}=) is only for mapped "
                "classes of SQLAlchemy. Remove it."
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
    """Register functions by which `Ref` loads models of another kind.

    Args:
        base: The base class of the models; the functions load its subclasses.
        load: A function of a model and a list of keys; returns the existing rows, as a mapping by key or an iterable.
        key: A function of an instance; returns its key, or None if it has none yet.

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
        DeclarationError: It has no loader.
    """
    for base, load, key in reversed(_registered):
        if issubclass(model, base):
            return RegisteredLoader(model, load, key)
    if hasattr(model, "__mapper__"):
        return SqlAlchemyLoader.of(model)
    raise DeclarationError(
        f"Ref[{model.__name__}]: expected a mapped class of SQLAlchemy, or a model with a registered loader. "
        "Map it, or call dexpy.register_model_loader(base, load=, key=)."
    )
