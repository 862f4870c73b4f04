"""The values of an operation's props: made, parsed from outside, copied, written as JSON and read again.

The constructor is dexpy's own and not attrs', because it tells every problem at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import attrs

from dexpy.declaration.misfits import Misfit
from dexpy.declaration.props import Prop
from dexpy.foundation.context import current_context
from dexpy.foundation.errors import NotSerializable, Problem, PropsError, Undecodable, did_you_mean, listed


def construct(owner: str, props: tuple[Prop, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an operation's props.

    Raises:
        PropsError: Everything that is wrong, at once.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    taken = 0
    for one in props:
        name = one.name
        try:
            if name in given:
                taken += 1
                values[name] = one.check(given[name])
            elif (asked := one.options.context) is not None and asked in (ambient := current_context()):
                values[name] = _from_context(one, asked, ambient[asked])
            elif one.required:
                problems.append(Problem("." + name, f"{one.form.label}, nothing was given"))
            else:
                values[name] = one.default()
        except Misfit as misfit:
            problems += _named(one, misfit)
    if taken != len(given):
        problems += _unknown(props, given)
    if problems:
        raise PropsError(owner, problems)
    return values


def _from_context(one: Prop, asked: str, value: Any) -> Any:
    try:
        return one.check(value)
    except Misfit as misfit:
        where = f", as the ambient value {asked!r}"
        raise Misfit(attrs.evolve(problem, wanted=problem.wanted + where) for problem in misfit.problems) from None


def parsed(owner: str, props: tuple[Prop, ...], data: Mapping[str, Any]) -> dict[str, Any]:
    """The props in a JSON object from outside, as Python values.

    Raises:
        PropsError: Everything that does not fit, at once, with unknown keys.
    """
    if not isinstance(data, Mapping):
        raise PropsError(owner, (), advice=f"parse wants a mapping of its props, got {type(data).__name__}.")
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for one in props:
        try:
            if one.name in data:
                values[one.name] = one.form.parse(data[one.name])
                one.check(values[one.name])
            elif one.required and one.options.context not in current_context():
                problems.append(Problem("." + one.name, f"{one.form.label}, nothing was given"))
        except Misfit as misfit:
            problems += _named(one, misfit)
    problems += _unknown(props, data)
    if problems:
        raise PropsError(owner, problems)
    return values


def copied(owner: str, props: tuple[Prop, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of these props in containers of their own.

    Raises:
        PropsError: Somebody has put something into one that does not belong there.
    """
    own: dict[str, Any] = {}
    problems: list[Problem] = []
    for one in props:
        try:
            own[one.name] = one.form.check(values[one.name])
        except Misfit as misfit:
            problems += _named(one, misfit)
    if problems:
        raise PropsError(owner, problems)
    return own


def encoded(owner: str, props: tuple[Prop, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """The props as a JSON object.

    Raises:
        NotSerializable: One of them cannot travel; names its path.
    """
    data: dict[str, Any] = {}
    for one in props:
        try:
            data[one.name] = one.form.encode(values[one.name])
        except NotSerializable as error:
            raise error.under("." + one.name).of(owner) from None
    return data


def decoded(owner: str, props: tuple[Prop, ...], data: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The props in stored params, as Python values, and the keys that are no props any more.

    A key that is missing is left to the prop's default.

    Raises:
        Undecodable: They no longer fit.
    """
    if not isinstance(data, Mapping):
        raise Undecodable(owner, [Problem("", "a JSON object", type(data).__name__)])
    stored = cast("Mapping[str, Any]", data)
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    for one in props:
        key = next((key for key in (one.name, *one.options.aliases) if key in stored), None)
        if key is None:
            continue
        used.add(key)
        try:
            values[one.name] = one.form.decode(stored[key])
        except Misfit as misfit:
            problems += _named(one, misfit)
    if problems:
        raise Undecodable(owner, problems)
    return values, tuple(sorted(set(stored) - used))


def _named(one: Prop, misfit: Misfit) -> list[Problem]:
    if one.options.sensitive:
        # Not even its path: the keys of a dict are a part of the value.
        return [attrs.evolve(problem.hidden(), path="." + one.name) for problem in misfit.problems]
    return list(misfit.under("." + one.name))


def _unknown(props: tuple[Prop, ...], given: Mapping[str, Any]) -> list[Problem]:
    known = [one.name for one in props]
    wanted = f"to be one of the props {listed(known)}." if known else "to be left out, for there are no props"
    return [Problem("." + str(name), wanted + did_you_mean(str(name), known)) for name in given if name not in known]
