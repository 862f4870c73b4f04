"""The signature of an operation class for tools and people, and the error for changes of an operation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

import attrs

from dexpy.codec.constraints import MARK, PropOptions
from dexpy.foundation.errors import DeclarationError, FrozenOperation


class _FactoryDefault:
    """Stands for the default of a factory in a signature."""

    def __repr__(self) -> str:
        return "<factory>"


FACTORY_DEFAULT = _FactoryDefault()


class SignatureDescriptor:
    """The descriptor of ``Op.__signature__``, which `inspect.signature` reads: the props as keywords."""

    def __get__(self, obj: Any, owner: type[Any]) -> inspect.Signature | None:
        if obj is not None or not attrs.has(owner):
            return None
        return inspect.Signature(list(_parameters(owner)))


def _parameters(cls: Any) -> Iterator[inspect.Parameter]:
    try:
        types = {prop.name: prop.type for prop in cls.contract.props}
    except DeclarationError:
        # An unresolved type raises an error at the first use; tools see its text.
        types = {}
    for field in attrs.fields(cls):
        options: PropOptions = field.metadata.get(MARK) or PropOptions()
        if field.name in types:
            # Like `attrs.resolve_types`, because tools that support attrs classes read the type there.
            object.__setattr__(field, "type", types[field.name])
        default: Any = field.default
        if default is attrs.NOTHING:
            default = inspect.Parameter.empty if options.context is None else ...
        elif isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = FACTORY_DEFAULT
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=field.type,
        )


class _PropsFunction:
    """A function with the props of a class as keywords in its signature."""

    def __init__(self, function: Callable[..., Any], cls: type[Any]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._cls = function, cls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._function)
        if not attrs.has(self._cls):
            return signature
        parameters = [
            parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
        ]
        return signature.replace(parameters=[*parameters, *_parameters(self._cls)])


if TYPE_CHECKING:
    takes_props = classmethod
else:

    class takes_props(classmethod):  # noqa: N801 - a decorator, as the one that it extends
        """A class method that takes the props of its class as keywords."""

        def __get__(self, obj: Any, owner: Any = None) -> Any:
            cls = type(obj) if owner is None else owner
            return MethodType(_PropsFunction(self.__func__, cls), cls)


def frozen_error(cls: type[Any], name: str) -> FrozenOperation:
    """Return the error for setting or deleting an attribute of an operation, with the alternative."""
    static = inspect.getattr_static(cls, name, FACTORY_DEFAULT)
    if any(field.name == name for field in attrs.fields(cls)):
        advice = f"Make a copy with another value: op.replace({name}=...)."
    elif isinstance(static, functools.cached_property):
        advice = "A cached_property is computed at its first use and stored."
    elif static is not FACTORY_DEFAULT:
        advice = f"Declare it in the class, or in a subclass: {name} = ..."
    else:
        advice = f"Keep it in a local variable, or write {name} as a functools.cached_property."
    return FrozenOperation(cls.__qualname__, name, advice)
