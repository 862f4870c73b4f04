"""The key rules of idempotency, uniqueness, locks and concurrency limits.

A key consists of props, by their names or in a template, or is returned by a function of the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter
from typing import Any, TypeAlias, cast

import attrs

from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import why_not_plain

KeyFunction: TypeAlias = Callable[[Any], object]
"""A function of the operation that returns a str or another value with a JSON form."""


@attrs.frozen
class KeyRule:
    """How a key is computed.

    Attributes:
        props: The names of its props; empty for all of them, without a function and a template.
        function: Returns the key instead.
        template: Text with props in braces, instead.
    """

    props: tuple[str, ...] = ()
    function: KeyFunction | None = None
    template: str | None = None

    @classmethod
    def of(cls, by: Sequence[object], where: str, template: object = None) -> KeyRule:
        """Return the rule for a policy's arguments: ``("customer", "month")``, ``(function,)``, ``()`` or a template.

        Raises:
            DeclarationError: They are neither names nor one function, contain a name twice, or the template is invalid.
        """
        policy = where.partition("(")[0]
        if template is not None:
            if by:
                raise DeclarationError(
                    f"{policy}(template={template!r}): expected a template or names of props, got both."
                )
            return cls(template=_checked_template(template, policy))
        if len(by) == 1 and callable(by[0]):
            return cls(function=by[0])
        names = cast("tuple[str, ...]", tuple(by))
        for name in by:
            if not isinstance(name, str) or not name:
                raise DeclarationError(
                    f"{policy}(...): expected names of props, one function of the operation or template=, got {name!r}."
                )
            if set(name) & set("{}"):
                raise DeclarationError(
                    f"{policy}({name!r}): expected names of props, got a template. Write {policy}(template={name!r})."
                )
            if names.count(name) > 1:
                raise DeclarationError(f"{where}: the prop {name!r} is repeated. Name each prop once.")
        return cls(names)

    @property
    def named(self) -> tuple[str, ...]:
        """The props of the key, including those of its template."""
        return self.props if self.template is None else tuple(dict.fromkeys(_fields(self.template)))

    def check(self, where: str, known: Sequence[str], hint: str = "") -> None:
        """Refuse props that the class does not have.

        Args:
            where: The policy, for the message.
            known: The names of the props.
            hint: Another suggestion for the message.

        Raises:
            DeclarationError: A prop is unknown; the message lists the valid ones.
        """
        for name in self.named:
            if name not in known:
                choices = f"expected one of {listed(known)}" if known else "the class has no props"
                raise DeclarationError(f"{where}: unknown prop {name!r}; {choices}.{did_you_mean(name, known)}{hint}")


def check_text(text: object, where: str) -> str:
    """Check a key that the caller passed as text.

    Raises:
        OptionsError: It is not a str, empty, or not storable in JSON and databases.
    """
    if isinstance(text, str) and text:
        plain = str.__str__(text)
        if (reason := why_not_plain(plain)) is not None:
            raise OptionsError(f"{where}: invalid text; it {reason}.")
        return plain
    raise OptionsError(f"{where}: expected a non-empty str or None, got {text!r}.")


def check_group(group: object, policy: str) -> str | None:
    """Check the name of a group of classes that share keys.

    Raises:
        DeclarationError: It is not a name.
    """
    if group is not None and not (isinstance(group, str) and group):
        raise DeclarationError(f"{policy}(group={group!r}): expected a name, a non-empty str.")
    return group


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def _checked_template(template: object, policy: str) -> str:
    if not isinstance(template, str):
        raise DeclarationError(f"{policy}(template={template!r}): expected a str such as 'account:{{account}}'.")
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise DeclarationError(
            f"{policy}(template={template!r}): invalid template: {error}. "
            f"Write {policy}(template='account:{{account}}'), and '{{{{' for a brace."
        ) from None
    if not template:
        raise DeclarationError(f"{policy}(template=''): expected text, got an empty str. Name a prop in braces.")
    for _, name, spec, conversion in parsed:
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise DeclarationError(
                f"{policy}(template={template!r}): expected only names of props in braces, got {{{name}}}. "
                f"For anything else pass a function: {policy}(lambda op: ...)."
            )
    return template
