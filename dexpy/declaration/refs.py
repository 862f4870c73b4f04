"""`Ref`, `OptRef` and `Refs`: props that take an instance or its key and are instances inside a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, overload

import attrs

from dexpy.declaration.annotations import is_union
from dexpy.declaration.forms import Form, Misfit
from dexpy.declaration.models import Key, ModelLoader, is_model, loader_of
from dexpy.foundation.errors import DeclarationError, NotRunning, NotSerializable, Problem

if TYPE_CHECKING:
    from typing import Self

M = TypeVar("M")


class _Reference:
    """What the three kinds share at run time: reading what the run has loaded."""

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
            f"{type(obj).__qualname__}.{self.name} was given as the key {unloaded[0]!r} and is loaded inside a run. "
            "Read it in perform, a guard or a callback, or give the instance itself."
        )

    def __set__(self, obj: object, value: Any) -> None:
        raise attrs.exceptions.FrozenInstanceError


def is_key(value: object) -> bool:
    """Whether a stored reference is still a key."""
    return isinstance(value, Keyed)


@attrs.frozen(repr=False)
class Keyed:
    """A reference that was given by its key."""

    key: Any

    def __repr__(self) -> str:
        return repr(self.key)


if TYPE_CHECKING:

    class Ref(Generic[M]):
        """A row of *M*: an instance or its primary key goes in, an instance is there inside a run.

        A missing row ends the run with `RefNotFound` before guards and `perform`; such a job is discarded.
        """

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> M: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...
        def __set__(self, obj: object, value: M | Key) -> None: ...

    class OptRef(Generic[M]):
        """A row of *M* or None."""

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> M | None: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...
        def __set__(self, obj: object, value: M | Key | None) -> None: ...

    class Refs(Generic[M]):
        """A list of rows of *M*, loaded by one query."""

        @overload
        def __get__(self, obj: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> list[M]: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...
        def __set__(self, obj: object, value: Sequence[M | Key]) -> None: ...

else:

    class Ref(_Reference, Generic[M]):
        """A row of *M*: an instance or its primary key goes in, an instance is there inside a run.

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
    """`Ref`, `OptRef` or `Refs` if an annotation is one of them, else None."""
    kind = get_origin(annotation) or annotation
    return kind if kind in KINDS else None


def reference_for(annotation: object) -> Any:
    """The reference that stands for a model where a function asks for its row; None for what is no model.

    ``Order`` is ``Ref[Order]``, ``Order | None`` is ``OptRef[Order]``, ``list[Order]`` is ``Refs[Order]``.
    """
    kinds: dict[str, Any] = {"one": Ref, "optional": OptRef, "many": Refs}
    inner = get_args(annotation)
    if is_model(annotation):
        return kinds["one"][annotation]
    if get_origin(annotation) is list and is_model(inner[0]):
        return kinds["many"][inner[0]]
    if is_union(annotation) and len(inner) == 2 and NoneType in inner:
        model = next(member for member in inner if member is not NoneType)
        return kinds["optional"][model] if is_model(model) else None
    return None


def mentions_reference(annotation: object) -> type | None:
    """A reference somewhere inside another type, where no checker would see through it."""
    for inner in get_args(annotation):
        if (kind := reference_kind(inner)) or (kind := mentions_reference(inner)):
            return kind
    return None


@attrs.frozen
class Reference:
    """One reference of an operation.

    Attributes:
        prop: The prop's name.
        model: The model.
        many: Whether it is a list.
        lock: Whether its rows are loaded FOR UPDATE.
    """

    prop: str
    model: type
    many: bool
    optional: bool
    lock: bool

    @property
    def loader(self) -> ModelLoader:
        """How its rows are loaded."""
        return loader_of(self.model)

    @property
    def label(self) -> str:
        """As it is written: ``Ref[Customer]``."""
        word = "Refs" if self.many else "OptRef" if self.optional else "Ref"
        return f"{word}[{self.model.__name__}]"

    def form(self) -> Form:
        """The form of the prop."""
        return Form(
            type=self.model,
            label=self.label,
            kinds=frozenset(),
            mutable=self.many,
            check=self._over(self._check),
            encode=self._encode,
            decode=self._over(self._decode),
            parse=self._over(self._decode),
        )

    def _over(self, one: Any) -> Any:
        def over(value: Any) -> Any:
            if self.many:
                return self._list(one, value)
            if value is None and self.optional:
                return None
            return one(value)

        return over

    def _list(self, one: Any, value: Any) -> list[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise Misfit((Problem("", f"a list for {self.label}", type(value).__name__),))
        found: list[Any] = []
        problems: list[Problem] = []
        for index, item in enumerate(cast("Sequence[object]", value)):
            try:
                found.append(one(item))
            except Misfit as misfit:
                problems += [problem.under(f"[{index}]") for problem in misfit.problems]
        if problems:
            raise Misfit(tuple(problems))
        return found

    def _check(self, value: Any) -> Any:
        return self._taken(self.loader.check_key, value.key if isinstance(value, Keyed) else value)

    def _decode(self, value: Any) -> Any:
        return self._taken(self.loader.decode_key, value)

    def _taken(self, read_key: Callable[[Any], Key], value: Any) -> Any:
        if isinstance(value, self.model):
            return value
        wanted = f"a {self.model.__name__} or its key"
        if value is None:
            raise Misfit((Problem("", wanted, "None"),))
        try:
            return Keyed(read_key(value))
        except Misfit as refused:
            told = [attrs.evolve(problem, wanted=f"{wanted} ({problem.wanted})") for problem in refused.problems]
        raise Misfit(told)

    def shown(self, item: Any) -> str:
        """One stored item for people: its key."""
        key = self.key_of(item)
        return f"<{self.model.__name__} without a key>" if key is None else repr(key)

    def key_of(self, item: Any) -> Any:
        """The key behind one stored item, None for an instance that has none yet."""
        return item.key if isinstance(item, Keyed) else self.loader.key_of(item)

    def compared(self, value: Any) -> Any:
        """A stored value as operations compare it: by its keys; an instance without a key is only itself."""
        items = value if self.many else () if value is None else (value,)
        keys = tuple(("new", id(item)) if (key := self.key_of(item)) is None else key for item in items)
        return keys if self.many or value is not None else None

    def _encode(self, value: Any) -> Any:
        if self.many:
            return [self._encode_one(item, f"[{index}]") for index, item in enumerate(value)]
        return None if value is None else self._encode_one(value, "")

    def _encode_one(self, item: Any, path: str) -> Any:
        key = self.key_of(item)
        if key is None:
            raise NotSerializable(
                f"is a {self.model.__name__} that has no key yet. Flush its session first.", path=path
            )
        return self.loader.encode_key(key)


def reference_of(prop: str, annotation: object, lock: bool, owner: str) -> Reference:
    """The reference that an annotation declares.

    Raises:
        DeclarationError: It names no model.
    """
    kind: Any = reference_kind(annotation)
    arguments = get_args(annotation)
    if len(arguments) != 1 or not isinstance(arguments[0], type):
        raise DeclarationError(f"{owner}.{prop}: {kind.__name__} wants one model, as in {kind.__name__}[Customer].")
    return Reference(prop, arguments[0], kind.many, kind.optional, lock)
