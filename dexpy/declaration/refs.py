"""`Ref`, `OptRef` and `Refs`: props that accept an instance or its key, and are instances inside a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, overload

import attrs

from dexpy.codec.codecs import Codec, InvalidValue
from dexpy.codec.generics import is_union
from dexpy.declaration.model_loaders import Key, ModelLoader, is_model, loader_of
from dexpy.foundation.errors import DeclarationError, NotRunning, NotSerializable, Problem

if TYPE_CHECKING:
    from typing import Self

M = TypeVar("M")


class _Reference:
    """The common base of the three descriptors at run time: it reads the rows that the run has loaded."""

    many = False
    optional = False

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __get__(self, obj: Any, owner: Any) -> Any:
        if obj is None:
            return self
        value = obj.__dict__[self.name]
        unloaded = [item for item in value if is_key(item)] if self.many else ([value] if is_key(value) else [])
        if not unloaded:
            return value
        raise NotRunning(
            f"{type(obj).__qualname__}.{self.name}: the row of the key {unloaded[0]!r} is loaded inside a run only. "
            "Read it in perform, a guard or a callback, or pass the instance. Outside of a run, use "
            f"{type(obj).__qualname__}.{self.name}.key_of(op) for its key, op.replace(...) for a copy with other "
            "props, or op.to_dict() for all props as JSON."
        )

    def key_of(self, obj: Any) -> Any:
        """Return the key that was passed, or that of the instance, inside and outside of a run, without a query.

        Raises:
            NotSerializable: The instance has no key yet.
        """
        cls = cast("Any", type(obj))
        reference: Reference = next(candidate for candidate in cls.contract.references if candidate.prop == self.name)
        return reference.keys_of(obj.__dict__[self.name])

    def __set__(self, obj: object, value: Any) -> None:
        raise attrs.exceptions.FrozenInstanceError


def is_key(value: object) -> bool:
    """Return whether a stored reference is a key, and not loaded."""
    return isinstance(value, Keyed)


@attrs.frozen(repr=False)
class Keyed:
    """A reference that was passed as a key."""

    key: Any

    def __repr__(self) -> str:
        return repr(self.key)


MYPY: bool = False
"""True for mypy only.

For both checkers the parameter of `__set__` is the type of a constructor's argument; for mypy it is also the type of an
inherited attribute of a frozen class. Therefore mypy sees `Any` in addition to the row, and pyright the keys.
"""

if TYPE_CHECKING:

    class Ref(Generic[M]):
        """A row of *M*: accepts an instance or its primary key, and is an instance inside a run.

        A missing row ends the run with `RefNotFound` before guards and `perform`; such a job is discarded.
        """

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> M: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

        if MYPY:

            def __set__(self, obj: object, value: M | Any) -> None: ...
        else:

            def __set__(self, obj: object, value: M | Key) -> None: ...

        def key_of(self, obj: Any) -> Key:
            """Return the key that was passed, or that of the instance, inside and outside of a run, without a query."""
            ...

    class OptRef(Generic[M]):
        """A row of *M* or None."""

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> M | None: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

        if MYPY:

            def __set__(self, obj: object, value: M | Any | None) -> None: ...
        else:

            def __set__(self, obj: object, value: M | Key | None) -> None: ...

        def key_of(self, obj: Any) -> Key | None:
            """Return the key as `Ref.key_of` does, or None."""
            ...

    class Refs(Generic[M]):
        """A list of rows of *M*, loaded by one query."""

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> list[M]: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...

        if MYPY:

            def __set__(self, obj: object, value: list[M] | Any) -> None: ...
        else:

            def __set__(self, obj: object, value: Sequence[M | Key]) -> None: ...

        def key_of(self, obj: Any) -> list[Key]:
            """Return the keys as `Ref.key_of` does."""
            ...

else:

    class Ref(_Reference, Generic[M]):
        """A row of *M*: accepts an instance or its primary key, and is an instance inside a run.

        A missing row ends the run with `RefNotFound` before guards and `perform`; such a job is discarded.
        """

    class OptRef(_Reference, Generic[M]):
        """A row of *M* or None."""

        optional = True

    class Refs(_Reference, Generic[M]):
        """A list of rows of *M*, loaded by one query."""

        many = True


KINDS: tuple[type, ...] = (Ref, OptRef, Refs)


def reference_kind(annotation: object) -> type | None:
    """Return `Ref`, `OptRef` or `Refs` if an annotation is one of them, else None."""
    kind = get_origin(annotation) or annotation
    return kind if kind in KINDS else None


def reference_for(annotation: object) -> Any:
    """Return the reference for a model in the annotation of a function; None for anything else.

    ``Order`` is ``Ref[Order]``, ``Order | None`` is ``OptRef[Order]``, ``list[Order]`` is ``Refs[Order]``.
    """
    kinds: dict[str, Any] = {"one": Ref, "optional": OptRef, "many": Refs}
    arguments = get_args(annotation)
    if is_model(annotation):
        return kinds["one"][annotation]
    if get_origin(annotation) is list and is_model(arguments[0]):
        return kinds["many"][arguments[0]]
    if is_union(annotation) and len(arguments) == 2 and NoneType in arguments:
        model = next(member for member in arguments if member is not NoneType)
        return kinds["optional"][model] if is_model(model) else None
    return None


def mentions_reference(annotation: object) -> type | None:
    """Return a reference inside another type, which type checkers do not support; else None."""
    for argument in get_args(annotation):
        if (kind := reference_kind(argument)) or (kind := mentions_reference(argument)):
            return kind
    return None


@attrs.frozen
class Reference:
    """A reference of an operation.

    Attributes:
        prop: The name of the prop.
        model: The model.
        many: Whether it is a list.
        lock: Whether its rows are loaded FOR UPDATE.
        options: Execution options of the loading statement, as sorted pairs.
    """

    prop: str
    model: type
    many: bool
    optional: bool
    lock: bool
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def loader(self) -> ModelLoader:
        """The loader of its rows."""
        return loader_of(self.model)

    @property
    def label(self) -> str:
        """The annotation as text: ``Ref[Customer]``."""
        kind = "Refs" if self.many else "OptRef" if self.optional else "Ref"
        return f"{kind}[{self.model.__name__}]"

    def form(self) -> Codec:
        """Return the codec of the prop."""
        return Codec(
            type=self.model,
            label=self.label,
            kinds=frozenset(),
            mutable=self.many,
            sensitive=False,
            check=self._over(self._check),
            encode=lambda value: self._encode(value, self.loader.encode_key),
            key=lambda value: self._encode(value, self.loader.comparable_key),
            decode=self._over(self._decode),
            parse=self._over(self._decode),
        )

    def _over(self, read_item: Any) -> Any:
        def over(value: Any) -> Any:
            if self.many:
                return self._list(read_item, value)
            if value is None and self.optional:
                return None
            return read_item(value)

        return over

    def _list(self, read_item: Any, value: Any) -> list[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise InvalidValue((Problem("", f"a list for {self.label}", type(value).__name__),))
        items: list[Any] = []
        problems: list[Problem] = []
        for index, item in enumerate(cast("Sequence[object]", value)):
            try:
                items.append(read_item(item))
            except InvalidValue as invalid:
                problems += [problem.under(f"[{index}]") for problem in invalid.problems]
        if problems:
            raise InvalidValue(tuple(problems))
        return items

    def _check(self, value: Any) -> Any:
        return self._taken(self.loader.check_key, value.key if isinstance(value, Keyed) else value)

    def _decode(self, value: Any) -> Any:
        return self._taken(self.loader.decode_key, value)

    def _taken(self, read_key: Callable[[Any], Key], value: Any) -> Any:
        if isinstance(value, self.model):
            return value
        expected = f"a {self.model.__name__} or its key"
        if value is None:
            raise InvalidValue((Problem("", expected, "None"),))
        try:
            return Keyed(read_key(value))
        except InvalidValue as refused:
            problems = [
                attrs.evolve(problem, expected=f"{expected} ({problem.expected})" if problem.expected else expected)
                for problem in refused.problems
            ]
        raise InvalidValue(problems)

    def display(self, item: Any) -> str:
        """Return a stored item for people: its key."""
        key = self.key_of(item)
        return f"<{self.model.__name__} without a key>" if key is None else repr(key)

    def key_of(self, item: Any) -> Any:
        """Return the key of a stored item; None for an instance that has none yet."""
        return item.key if isinstance(item, Keyed) else self.loader.key_of(item)

    def keys_of(self, value: Any) -> Any:
        """Return the key of a stored value, a list for many, or None.

        Raises:
            NotSerializable: An instance has no key yet.
        """
        return self._encode(value, lambda key: key)

    def comparison_value(self, value: Any) -> Any:
        """Return the keys of a stored value for comparison; an instance without a key equals only itself."""
        items = value if self.many else () if value is None else (value,)
        keys = tuple(("new", id(item)) if (key := self.key_of(item)) is None else key for item in items)
        return keys if self.many or value is not None else None

    def _encode(self, value: Any, write: Callable[[Any], Any]) -> Any:
        if self.many:
            return [self._encode_one(item, f"[{index}]", write) for index, item in enumerate(value)]
        return None if value is None else self._encode_one(value, "", write)

    def _encode_one(self, item: Any, path: str, write: Callable[[Any], Any]) -> Any:
        key = self.key_of(item)
        if key is None:
            raise NotSerializable(
                f"is a {self.model.__name__} without a primary key. Call session.flush() first.", path=path
            )
        return write(key)


def reference_of(
    prop: str, annotation: object, lock: bool, owner: str, options: tuple[tuple[str, Any], ...] = ()
) -> Reference:
    """Return the reference that an annotation declares.

    Raises:
        DeclarationError: It does not have exactly one model.
    """
    kind: Any = reference_kind(annotation)
    arguments = get_args(annotation)
    if len(arguments) != 1 or not isinstance(arguments[0], type):
        raise DeclarationError(f"{owner}.{prop}: {kind.__name__} expects one model. Write {kind.__name__}[Customer].")
    return Reference(prop, arguments[0], kind.many, kind.optional, lock, options)
