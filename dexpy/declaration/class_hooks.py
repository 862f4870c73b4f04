"""The guards and callbacks of a class, in their order, with those of its bases."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import attrs

from dexpy.declaration.declared_attributes import declared_of
from dexpy.declaration.hooks import HOOK, Callback, Guard
from dexpy.foundation.errors import DeclarationError, did_you_mean, listed


def hooks_of(cls: type) -> Iterator[Guard | Callback]:
    """Yield the hooks of a class, those of its bases first; an overridden method is the one of the subclass.

    Raises:
        DeclarationError: A coroutine function has replaced one.
    """
    declared = declared_of(cls)
    # Names from before a change keep their order, also a name that was deleted and set again.
    names = [*declared.hooks] if declared is not None else []
    for owner in reversed(cls.__mro__):
        owner_declared = declared_of(owner)
        names += owner_declared.hooks if owner_declared is not None else ()
        names += [name for name, value in vars(owner).items() if hasattr(value, HOOK)]
    for name in dict.fromkeys(names):
        hook = _hook_at(cls, name)
        if hook is not None:
            yield hook


def _hook_at(cls: type, name: str) -> Guard | Callback | None:
    """Return the hook of a name, also if a function or a mock has replaced its method."""
    current = getattr(cls, name, None)
    hook_mark: object = getattr(current, HOOK, None)
    if isinstance(hook_mark, (Guard, Callback)):
        return _with_name(hook_mark, name)
    if not callable(current):
        return None
    owner = next(base for base in cls.__mro__ if name in vars(base))
    declared = declared_of(owner) or declared_of(cls)
    hook = declared.hooks.get(name) if declared is not None else None
    if hook is not None and inspect.iscoroutinefunction(current):
        raise DeclarationError(
            f"{cls.__qualname__}.{name}: expected a plain function in place of a guard or callback, "
            "got an `async def`. Write `def`, and await in perform."
        )
    return None if hook is None else _with_name(hook, name)


def _with_name(hook: Guard | Callback, name: str) -> Guard | Callback:
    # The function may have another name than the attribute: a lambda, for example.
    if isinstance(hook, Guard):
        return hook if hook.code == name else attrs.evolve(hook, code=name)
    return hook if hook.method == name else attrs.evolve(hook, method=name)


def check_guards(owner: str, guards: tuple[Guard, ...]) -> None:
    """Refuse guards that require a guard that is not declared before them.

    Raises:
        DeclarationError: A required guard is unknown; the message lists the valid ones.
    """
    codes: list[str] = []
    for guard in guards:
        for code in guard.requires:
            if code not in codes:
                raise DeclarationError(
                    f"{owner}.{guard.code}: unknown guard {code!r} in requires; expected guards declared before it: "
                    f"{listed(codes)}.{did_you_mean(code, codes)}"
                )
        codes.append(guard.code)
