"""How the rows behind a `Ref` are named and loaded: SQLAlchemy's models out of the box, others by registration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from uuid import UUID

import attrs

from dexpy.declaration.forms import Form, Misfit, form_of
from dexpy.declaration.misfits import misfit
from dexpy.foundation.errors import DeclarationError, Problem

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Mapper

Key: TypeAlias = int | str | UUID | tuple[int | str | UUID | date, ...]
"""A primary key: a value, or a tuple of them for a composite one."""


class ModelLoader(Protocol):
    """What references need to know of one model."""

    def key_of(self, instance: Any) -> Key | None:
        """The key of an instance, None while it has none."""
        ...

    def check_key(self, key: Any) -> Key:
        """A key of the right type, or `Misfit`."""
        ...

    def encode_key(self, key: Key) -> Any:
        """The key as JSON."""
        ...

    def decode_key(self, data: Any) -> Key:
        """The key from JSON, or `Misfit`."""
        ...

    def load(self, session: Callable[[], Any], keys: Sequence[Key], lock: bool) -> Mapping[Key, Any]:
        """The rows of these keys; a missing one is left out."""
        ...

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Whether an instance belongs to the run's session and needs no loading."""
        ...


@attrs.frozen
class SqlAlchemyLoader:
    """Loads a mapped class through the run's session.

    Attributes:
        model: The mapped class.
        columns: Its primary key, as mapped attributes.
        forms: A form for each column of the key.
    """

    model: type[Any]
    columns: tuple[Any, ...]
    forms: tuple[Form, ...]

    @classmethod
    def of(cls, model: type) -> SqlAlchemyLoader:
        """The loader of a mapped class."""
        from sqlalchemy import inspect

        mapper: Mapper[Any] = inspect(model)
        columns = tuple(getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key)
        return cls(model, columns, tuple(form_of(_python_type(column)) for column in mapper.primary_key))

    def key_of(self, instance: Any) -> Key | None:
        """The identity of an instance that has been flushed."""
        from sqlalchemy import inspect

        identity: tuple[Any, ...] | None = inspect(instance).identity
        if identity is None:
            return None
        key: Key = identity[0] if len(identity) == 1 else tuple(identity)
        return key

    def check_key(self, key: Any) -> Key:
        """A key with the types of the primary key's columns."""
        return self._each(key, [form.check for form in self.forms])

    def encode_key(self, key: Key) -> Any:
        """A value, or a list for a composite key."""
        if len(self.forms) == 1:
            return self.forms[0].encode(key)
        return [form.encode(part) for form, part in zip(self.forms, _parts(key), strict=True)]

    def decode_key(self, data: Any) -> Key:
        """The key that `encode_key` wrote."""
        return self._each(_tuple_of(data), [form.decode for form in self.forms])

    def _each(self, key: Any, steps: Sequence[Callable[[Any], Any]]) -> Key:
        if len(steps) == 1:
            made: Key = steps[0](key)
            return made
        parts = _parts(key)
        if len(parts) != len(steps):
            raise Misfit((Problem("", f"a tuple of {len(steps)} values", f"{len(parts)} of them"),))
        return tuple(step(part) for step, part in zip(steps, parts, strict=True))

    def load(self, session: Callable[[], Any], keys: Sequence[Key], lock: bool) -> Mapping[Key, Any]:
        """One query for all keys; with *lock* they are taken FOR UPDATE, in the order of their keys."""
        from sqlalchemy import select, tuple_

        column = self.columns[0] if len(self.columns) == 1 else tuple_(*self.columns)
        query: Select[Any] = select(self.model).where(column.in_(keys))
        if lock:
            query = query.order_by(*self.columns).with_for_update().execution_options(populate_existing=True)
        found: dict[Key, Any] = {}
        for instance in session().scalars(query).unique():
            key = self.key_of(instance)
            if key is not None:
                found[key] = instance
        return found

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """Whether the instance already lives in the run's session."""
        from sqlalchemy.orm import object_session

        owner = object_session(instance)
        return owner is not None and owner is session()


def _parts(key: object) -> tuple[Any, ...]:
    """The values of a key, one for each column."""
    return cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)


def _tuple_of(data: object) -> Any:
    """JSON has lists where a composite key is a tuple."""
    return tuple(cast("list[object]", data)) if isinstance(data, list) else data


def _python_type(column: Any) -> type:
    try:
        kind: type = column.type.python_type
    except NotImplementedError:
        return object
    return kind


@attrs.frozen
class RegisteredLoader:
    """Loads models of another kind by two functions of the application's."""

    model: type
    load_rows: Callable[[type, Sequence[Any]], Mapping[Any, Any] | Iterable[Any]]
    read_key: Callable[[Any], Any]

    def key_of(self, instance: Any) -> Key | None:
        """What the registered function says."""
        key: Key | None = self.read_key(instance)
        return key

    def check_key(self, key: Any) -> Key:
        """An int, str or UUID, or a tuple of them."""
        for part in _parts(key):
            if type(part) not in (int, str, UUID):
                raise misfit("int, str, UUID or a tuple of them", part)
        checked: Key = key
        return checked

    def encode_key(self, key: Key) -> Any:
        """The key, with a UUID marked as such."""
        if isinstance(key, tuple):
            return [self.encode_key(cast("Key", part)) for part in key]
        return {"$uuid": str(key)} if isinstance(key, UUID) else key

    def decode_key(self, data: Any) -> Key:
        """The key that `encode_key` wrote."""
        if isinstance(data, list):
            parts = cast("list[object]", data)
            return tuple(cast("int | str | UUID", self.decode_key(part)) for part in parts)
        if isinstance(data, dict) and "$uuid" in data:
            return self.check_key(UUID(cast("dict[str, Any]", data)["$uuid"]))
        return self.check_key(data)

    def load(self, session: Callable[[], Any], keys: Sequence[Key], lock: bool) -> Mapping[Key, Any]:
        """The rows, by key."""
        found = self.load_rows(self.model, keys)
        if isinstance(found, Mapping):
            return cast("Mapping[Key, Any]", found)
        return {self.read_key(instance): instance for instance in found}

    def is_usable(self, session: Callable[[], Any], instance: Any) -> bool:
        """An instance is always used as it is."""
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
        load: Gets a model and a list of keys, gives the rows found: a mapping by key, or the rows themselves.
        key: Gets an instance, gives its key, or None while it has none.

    Example:
        >>> class Page:
        ...     def __init__(self, slug):
        ...         self.slug = slug
        >>> register_model_loader(Page, load=lambda model, keys: [model(key) for key in keys], key=lambda p: p.slug)
    """
    _registered.append((base, load, key))
    loader_of.cache_clear()


def is_model(cls: object) -> bool:
    """Whether somebody knows how to load a class."""
    if not isinstance(cls, type):
        return False
    return hasattr(cls, "__mapper__") or any(issubclass(cls, base) for base, _, _ in _registered)


@cache
def loader_of(model: type) -> ModelLoader:
    """The loader of a model.

    Raises:
        DeclarationError: Nobody knows how to load it.
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
