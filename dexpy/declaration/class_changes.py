"""Changes to an operation class after its declaration: each takes effect at once, or is refused.

Tests set attributes of classes (``mock.patch.object``, ``monkeypatch.setattr``), and so do class decorators.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import attrs

from dexpy.codec.annotated_metadata import is_prop
from dexpy.declaration.declared_attributes import DECLARED, READ_ATTRIBUTES, Declared, declared_of
from dexpy.declaration.hooks import HOOK
from dexpy.declaration.misused_attributes import IGNORED_METHODS, decorator_error, is_ignored
from dexpy.foundation.errors import DeclarationError
from dexpy.policies.once import Once
from dexpy.policies.options import AsyncOptions

if TYPE_CHECKING:
    from abc import ABCMeta as _ProtocolType

    from dexpy.declaration.contract import Contract
else:
    # The metaclass of protocols is also that of abstract classes: operations accept mixins of both kinds.
    _ProtocolType = type(Protocol)

_FIXED_ATTRIBUTES = {
    "__annotations__": "the annotations declare its props",
    "__annotate__": "the annotations declare its props",
    "__bases__": "they give it props and policies",
    "__module__": "its name in records and messages derives from it",
    "__name__": "its name in records and messages derives from it",
    "__qualname__": "its name in records and messages derives from it",
    "__slots__": "operations keep their props in __dict__",
    "contract": "it is read from the class. Set the policy itself",
}
_MISSING: Any = attrs.NOTHING
_KEYWORDS = ("name", "aliases")
_DECORATOR_MARKS = {"__dataclass_fields__": "@dataclass", "__attrs_attrs__": "@attrs.define"}
_CALLABLE_POLICIES: dict[str, type | tuple[type, ...]] = {"async_": AsyncOptions, "once": Once, "transaction": ()}
"""Policies that are also called as methods of an operation, and may be mocked."""


class OperationType(_ProtocolType):
    """The metaclass of `Operation`; a metaclass beside it derives from ``type(Operation)``."""

    if not TYPE_CHECKING:

        def __new__(metaclass, name, bases, namespace, /, **keywords):  # noqa: D102
            # type("Pay", (Operation,), {...}): Python would take the module of the frame of ABCMeta.
            namespace = {"__module__": sys._getframe(1).f_globals.get("__name__", "builtins"), **namespace}
            return super().__new__(metaclass, name, bases, namespace, **keywords)

        def __setattr__(cls, name: str, value: Any) -> None:  # noqa: N805 - a metaclass
            if declared_of(cls) is None:
                super().__setattr__(name, value)
            elif value is not vars(cls).get(name, _MISSING):
                _check_attribute(cls, name, value)
                _change(cls, name, value)

        def __delattr__(cls, name: str) -> None:  # noqa: N805
            declared = declared_of(cls)
            if declared is None:
                super().__delattr__(name)
                return
            _check_attribute(cls, name, None)
            # `mock.patch` also deletes an attribute that it could not set.
            if name in vars(cls) or declared.refused != name:
                _change(cls, name, _MISSING)


class FixedAnnotations(dict[str, Any]):
    """The annotations of a class after its class statement: dexpy does not read them again."""

    def __init__(self, owner: str, annotations: Mapping[str, Any]) -> None:
        super().__init__(annotations)
        self.owner = owner

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        reason = _FIXED_ATTRIBUTES["__annotations__"]
        _refuse(
            f"{self.owner}.__annotations__ is fixed after the class statement: {reason}",
            f"class Other({self.owner}): ...",
        )

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _fixed

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def fix_annotations(cls: type) -> None:
    """Refuse changes in place to the annotations of a class."""
    annotations: Any = vars(cls).get("__annotations__")
    if annotations.__class__ is dict:
        type.__setattr__(cls, "__annotations__", FixedAnnotations(cls.__qualname__, annotations))


def contract_of(cls: type[Any]) -> Contract | None:
    """Return the current contract of a class; None for `Operation` itself and in the class statement.

    Raises:
        DeclarationError: The class was changed, and a declaration has become invalid.
    """
    declared = declared_of(cls)
    if declared is None or declared.read is None:
        return None
    if declared.contract is None or declared.is_outdated:
        # A concurrent change by another thread replaces the declaration that stores this contract.
        declared.keep(cls, declared.read())
    return declared.contract


def _change(cls: type, name: str, value: Any) -> None:
    """Set or delete an attribute, and read the affected contracts again.

    Raises:
        DeclarationError: The new declaration is invalid; nothing was changed.
    """
    states: dict[type, Declared] = {
        owner: state for owner in _with_subclasses(cls) if (state := declared_of(owner)) is not None
    }
    current, previous, was_read = states[cls], vars(cls).get(name, _MISSING), _is_read(states, name)
    _set_or_delete(cls, name, value if value is _MISSING else current.freeze(name, value))
    if not (was_read or _is_read(states, name)):
        return
    is_method = name in _CALLABLE_POLICIES and callable(value) and not isinstance(value, _CALLABLE_POLICIES[name])
    methods = current.methods | {name} if is_method else current.methods - {name}
    hooks = {**current.hooks, name: getattr(value, HOOK)} if hasattr(value, HOOK) else current.hooks
    for owner, state in {**states, cls: attrs.evolve(current, methods=methods, hooks=hooks)}.items():
        type.__setattr__(owner, DECLARED, attrs.evolve(state, contract=None, refused=None))
    try:
        for owner in states:
            contract_of(owner)
    except BaseException:
        _set_or_delete(cls, name, previous)
        current.refused = name
        for owner, state in states.items():
            type.__setattr__(owner, DECLARED, state)
        raise


def _set_or_delete(cls: type, name: str, value: Any) -> None:
    if value is _MISSING:
        type.__delattr__(cls, name)
    else:
        type.__setattr__(cls, name, value)


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    subclasses: list[type] = type.__subclasses__(cls)
    for subclass in subclasses:
        yield from _with_subclasses(subclass)


def _is_read(states: Mapping[type, Declared], name: str) -> bool:
    """Return whether one of the classes reads its contract from the attribute, in its current state."""
    return name in READ_ATTRIBUTES or any(
        name in state.hooks or hasattr(getattr(owner, name, None), HOOK) for owner, state in states.items()
    )


def _check_attribute(cls: Any, name: str, value: object) -> None:
    """Refuse a change that would have no effect.

    Raises:
        DeclarationError: The change is refused; the message has the alternative.
    """
    where, subclass_statement = f"{cls.__qualname__}.{name}", f"class Other({cls.__qualname__}"
    if name in {field.name for field in attrs.fields(cls)} if attrs.has(cls) else ():
        _refuse(f"{where}: a prop is fixed after the class statement", f"{subclass_statement}): {name}: ... = ...")
    if is_prop(value):
        _refuse(
            f"{where}: props are declared in the class statement only",
            f"{subclass_statement}): {name}: int = prop(...)",
        )
    if name in _DECORATOR_MARKS:
        raise decorator_error(cls, _DECORATOR_MARKS[name])
    if name in _FIXED_ATTRIBUTES:
        reason = _FIXED_ATTRIBUTES[name]
        _refuse(f"{where} is fixed after the class statement: {reason}", f"{subclass_statement}, name=...): ...")
    if name in _KEYWORDS and not hasattr(cls, name):
        _refuse(
            f"{where}: {name!r} is a keyword of the class statement only",
            f"{subclass_statement}, {name}=...): ...",
        )
    if name in IGNORED_METHODS and is_ignored(name, value):
        raise DeclarationError(
            f"{where} would be ignored: {IGNORED_METHODS[name]}. Write a guard, a callback "
            "(@before) or a functools.cached_property, or prop(factory=...) for a default."
        )


def _refuse(problem: str, instead: str) -> NoReturn:
    raise DeclarationError(f"{problem}. Declare a subclass: {instead}")
