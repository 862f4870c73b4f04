"""Exception groups and their members."""

from __future__ import annotations

from collections.abc import Iterator


def is_group(error: BaseException) -> bool:
    """Return whether an exception is a group."""
    return isinstance(error, BaseExceptionGroup)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, at any depth, in order; a single exception yields itself."""
    pending = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseExceptionGroup):
            members: tuple[BaseException, ...] = current.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            pending += reversed(members)
        else:
            yield current
