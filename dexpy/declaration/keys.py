"""Keys: what makes two calls of an operation the same, for idempotency, uniqueness, locks and limits.

A key is made of props, by their names, or by a function of the operation; props are taken as they are stored,
so that a reference counts by its key and makes no query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.values import encoded
from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed

KeyFunction: TypeAlias = Callable[[Any], object]
"""Gets the operation; returns a str, or anything that has a JSON form."""


@attrs.frozen
class KeyRule:
    """How a key is made.

    Attributes:
        props: The names of the props that it is made of; empty with no function for all of them.
        function: Makes it instead.
    """

    props: tuple[str, ...] = ()
    function: KeyFunction | None = None

    @classmethod
    def of(cls, by: Sequence[object], where: str) -> KeyRule:
        """The rule that a policy was declared with: ``("customer", "month")``, ``(function,)`` or ``()``.

        Raises:
            DeclarationError: It is neither names nor one function, or names one twice.
        """
        if len(by) == 1 and callable(by[0]):
            return cls(function=by[0])
        names = cast("tuple[str, ...]", tuple(by))
        for name in by:
            if not isinstance(name, str) or not name:
                raise DeclarationError(f"{where} takes names of props, or one function of the operation: got {name!r}.")
            if names.count(name) > 1:
                raise DeclarationError(f"{where} names {name!r} twice. Name each prop once.")
        return cls(names)

    def check(self, where: str, known: Sequence[str]) -> None:
        """Refuse props that the class does not have.

        Raises:
            DeclarationError: Names the prop, and those that there are.
        """
        for name in self.props:
            if name not in known:
                raise DeclarationError(
                    f"{where} names {name!r}, which is no prop. The props are {listed(known)}."
                    + did_you_mean(name, known)
                )

    def parts(self, operation: Any, contract: Contract, where: str) -> Any:
        """What the key is made of, as JSON: the text or value of the function, or the props by name.

        Raises:
            OptionsError: The function gave None, or something without a JSON form.
            NotSerializable: A prop has no JSON form.
        """
        if self.function is None:
            wanted = tuple(one for one in contract.props if not self.props or one.name in self.props)
            return encoded(contract.cls.__qualname__, wanted, operation.__dict__)
        made = self.function(operation)
        if made is None:
            raise OptionsError(f"{where}: its function gave None, which is no key. Return a str, a number or a tuple.")
        try:
            json.dumps(made, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OptionsError(
                f"{where}: its function gave {type(made).__name__}, which has no JSON form ({error}). "
                "Return a str, a number or a tuple of them."
            ) from None
        return made


def digest(*parts: Any) -> str:
    """SHA-256 of the canonical JSON of what a key is made of, as 64 hexadecimal digits.

    Example:
        >>> digest("once", "shop.Pay", {"order": 7}) == digest("once", "shop.Pay", {"order": 7})
        True
        >>> len(digest("once"))
        64
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
