"""Props: the typed inputs of an operation, on attrs.

attrs keeps the fields; the constructor is dexpy's own, because it tells every problem at once.
Annotations are resolved at first use: models are often declared after the operations that refer to them.
"""

from __future__ import annotations

import builtins
import operator
import re
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, cast

import attrs

from dexpy.declaration.encryption import encryptor_name
from dexpy.declaration.forms import Form, Misfit, form_of
from dexpy.declaration.misfits import misfit
from dexpy.declaration.refs import Reference, mentions_reference, reference_kind, reference_of
from dexpy.foundation.context import current_context, keep_secret
from dexpy.foundation.errors import (
    SENSITIVE,
    DeclarationError,
    NotSerializable,
    Problem,
    PropsError,
    Undecodable,
    did_you_mean,
    listed,
)

MARK = "dexpy"
OWN_NAME = ""
"""Stands for the prop's own name, as the name of an ambient value."""

RESERVED = frozenset(
    """
    acall after_commit async_ call callable check_cancelled clear_once concurrency contract discard_on each encrypt
    errors expires_in explain in_session is_callable lock max_lost on_error on_failure on_lost once parse perform
    record report_progress rescue_from retry_on run_id safe self session step steps timeout transaction unique
    """.split()
)
"""Names that a prop may not have: the methods and policies of an operation, and ``self``."""


@attrs.frozen
class PropOptions:
    """What `prop(...)` was given."""

    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[Any, ...] | None = None
    desc: str | None = None
    sensitive: bool = False
    lock: bool = False
    aliases: tuple[str, ...] = ()
    context: str | None = None
    encrypted: str | None = None

    def problem(self, value: Any) -> str | None:
        """What the value ought to have been, or None if it is within all bounds."""
        if value is None:
            return None
        if self.ge is not None and not _keeps(operator.ge, value, self.ge):
            return f"a value >= {self.ge!r}"
        if self.gt is not None and not _keeps(operator.gt, value, self.gt):
            return f"a value > {self.gt!r}"
        if self.le is not None and not _keeps(operator.le, value, self.le):
            return f"a value <= {self.le!r}"
        if self.lt is not None and not _keeps(operator.lt, value, self.lt):
            return f"a value < {self.lt!r}"
        if self.min_length is not None and len(value) < self.min_length:
            return f"a length of at least {self.min_length}"
        if self.max_length is not None and len(value) > self.max_length:
            return f"a length of at most {self.max_length}"
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            return f"text that matches {self.pattern.pattern!r} as a whole"
        if self.choices is not None and value not in self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        return None

    @property
    def bounded(self) -> bool:
        """Whether there is anything to check."""
        bounds = (self.ge, self.gt, self.le, self.lt, self.min_length, self.max_length, self.pattern, self.choices)
        return any(bound is not None for bound in bounds)


def _keeps(compare: Callable[[Any, Any], Any], value: Any, bound: Any) -> bool:
    """Whether a value keeps to a bound; one that cannot be compared with it does not."""
    try:
        return bool(compare(value, bound))
    except ArithmeticError:  # a Decimal that is not a number
        return False
    except TypeError:
        if type(value) is type(bound):  # one of the two moments is aware
            return False
        raise


def prop(
    *,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    ge: Any = None,
    gt: Any = None,
    le: Any = None,
    lt: Any = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    choices: Collection[Any] | None = None,
    desc: str | None = None,
    sensitive: bool = False,
    lock: bool = False,
    aliases: Collection[str] = (),
    context: str | bool | None = None,
    encrypted: bool | str = False,
) -> Any:
    """Say more about a prop than its type.

    Args:
        default: The value when none is given.
        factory: Makes that value anew each time.
        ge: Smallest value.
        gt: Bound that the value must exceed.
        le: Largest value.
        lt: Bound that the value must stay below.
        min_length: Of text and containers.
        max_length: Of text and containers.
        pattern: A regular expression that the whole text must match.
        choices: The only values allowed.
        desc: For people who read the contract.
        sensitive: Shown as ``<sensitive>`` in every repr, log line and message.
        lock: For a `Ref`: load its row FOR UPDATE.
        aliases: Earlier names, under which stored params may still have it.
        context: The name of the ambient value that it takes when none is given, before the default; True for a value
            of its own name. With it ``default=...`` says to type checkers that it may be left out, and gives none.
        encrypted: Stored and sent encrypted, by the default encryptor or the one of this name; sensitive too.

    Raises:
        DeclarationError: Arguments that cannot be together.

    Example:
        >>> from dexpy import Operation, prop
        >>> class Greet(Operation):
        ...     times: int = prop(default=1, ge=1, le=10)
        ...     def perform(self) -> str:
        ...         return "hi " * self.times
        >>> Greet(times=0)
        Traceback (most recent call last):
        ...
        dexpy.PropsError: Greet cannot be made, its props have 1 problem:
          times: wants a value >= 1, got int 0
    """
    if default is not attrs.NOTHING and factory is not None:
        raise DeclarationError("prop(default=, factory=) were both given. Give one.")
    if context is not None and type(context) is not bool and not (isinstance(context, str) and context):
        raise DeclarationError(
            f"prop(context={context!r}) wants the name of an ambient value, or True for the prop's own name."
        )
    if default is ... and context:
        default = attrs.NOTHING
    if factory is not None and not builtins.callable(factory):
        raise DeclarationError(f"prop(factory={factory!r}) wants a function without arguments.")
    if _is_shared(default):
        raise DeclarationError(
            f"prop(default={default!r}) would be shared by all operations. "
            f"Write prop(factory={type(default).__name__}) or a lambda."
        )
    if isinstance(aliases, str):
        raise DeclarationError(f"prop(aliases={aliases!r}) wants names in a tuple. Write aliases=({aliases!r},).")
    if isinstance(choices, str):
        raise DeclarationError(f"prop(choices={choices!r}) wants values in a tuple. Write choices=({choices!r},).")
    try:
        compiled = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise DeclarationError(f"prop(pattern={pattern!r}) is no regular expression: {error}.") from None
    by = encryptor_name(encrypted, "prop(encrypted=)")
    options = PropOptions(
        ge,
        gt,
        le,
        lt,
        min_length,
        max_length,
        compiled,
        None if choices is None else tuple(choices),
        desc,
        sensitive or by is not None,
        lock,
        tuple(aliases),
        OWN_NAME if context is True else context or None,
        by,
    )
    made = attrs.Factory(factory) if factory is not None else default
    return attrs.field(default=made, kw_only=True, metadata={MARK: options})


def _is_shared(default: object) -> bool:
    """Whether a default is one that all operations would change together."""
    return isinstance(default, (list, dict, set))


@attrs.frozen
class Prop:
    """One prop of an operation, ready to be used.

    Attributes:
        name: Its name.
        type: Its annotation, resolved.
        form: How its values are checked and travel.
        options: What `prop(...)` said.
        required: Whether it must be given.
        reference: What it refers to, if it is a `Ref`, `OptRef` or `Refs`.
    """

    name: str
    type: Any
    form: Form
    options: PropOptions
    required: bool
    reference: Reference | None
    _default: Any

    @property
    def is_made(self) -> bool:
        """Whether its default is made anew each time."""
        return isinstance(self._default, attrs.Factory)  # type: ignore[arg-type]

    def default(self) -> Any:
        """The value when none is given, checked."""
        default = self._default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            return self.check(default.factory())
        return self.check(default)

    def check(self, value: Any) -> Any:
        """A value as the operation keeps it.

        Raises:
            Misfit: Everything that is wrong with it.
        """
        checked = self.form.check(value)
        if self.options.bounded:
            self._check_bounds(checked)
        return checked

    def _check_bounds(self, value: Any) -> None:
        try:
            wanted = self.options.problem(value)
        except TypeError as error:
            raise DeclarationError(
                f"prop {self.name}: its bounds do not fit its type {self.form.label}: {error}. Change one of them."
            ) from None
        if wanted is not None:
            raise misfit(wanted, value)

    def shown(self, value: Any) -> str:
        """A value for people: never a secret, never a query."""
        if self.options.sensitive:
            return SENSITIVE
        if self.reference is None or value is None:
            return repr(value)
        items = value if self.reference.many else [value]
        keys = [self.reference.shown(item) for item in items]
        return f"[{', '.join(keys)}]" if self.reference.many else keys[0]


class _Missing(dict[str, Any]):
    """Names for an annotation that is looked at early: what is not there yet is a stand-in."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        if name in self._module:
            return self._module[name]
        return getattr(builtins, name, _StandIn)


class _StandInMeta(type):
    def __getattr__(cls, name: str) -> Any:
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls


class _StandIn(metaclass=_StandInMeta):
    """Any name that does not exist yet."""


def _module_of(cls: type) -> Mapping[str, Any]:
    module = sys.modules.get(cls.__module__)
    return vars(module) if module is not None else {}


def _early(annotation: Any, owner: type) -> Any:
    """An annotation as far as it can be known while its module is still being read."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Missing(_module_of(owner)))  # noqa: S307 - the class's own annotation
    except Exception:  # noqa: BLE001 - whatever it is, it is told in full when it is resolved
        return _StandIn


def define(cls: type) -> None:
    """Make a class an attrs class of props, and its references descriptors.

    Raises:
        DeclarationError: A prop that cannot be: its name, its default, its place.
    """
    annotations: dict[str, Any] = vars(cls).get("__annotations__") or getattr(cls, "__annotations__", {})
    own = {
        name: early
        for name, annotation in annotations.items()
        if not _is_classvar(early := _early(annotation, cls), annotation)
    }
    for name in own:
        _check_name(cls, name)
    _check_bases(cls, own)
    try:
        attrs.define(cls, init=False, repr=False, frozen=True, slots=False, auto_attribs=True, eq=False, kw_only=True)
    except attrs.exceptions.UnannotatedAttributeError as error:
        names = ", ".join(sorted(name for name, value in vars(cls).items() if _is_field(value) and name not in own))
        raise DeclarationError(
            f"{cls.__qualname__}: {names or error} is a prop() without a type. "
            f"Write {names or 'name'}: int = prop(...)."
        ) from None
    for field in attrs.fields(cls):
        if field.name in own and _is_shared(field.default):
            raise DeclarationError(
                f"{cls.__qualname__}.{field.name}: the default {field.default!r} would be shared by all operations. "
                f"Write prop(factory={type(field.default).__name__}) or a lambda."
            )
    for name, annotation in own.items():
        kind = reference_kind(annotation)
        if kind is not None:
            setattr(cls, name, kind(name))


def keep_ambient_secrets(cls: type, *, is_encrypted: bool) -> None:
    """Let no ambient value travel that one of the props of a class keeps secret.

    Args:
        cls: The class.
        is_encrypted: Whether it keeps all of them secret.
    """
    for field in attrs.fields(cls):
        options: PropOptions = field.metadata.get(MARK) or PropOptions()
        if options.context is not None and (options.sensitive or is_encrypted):
            keep_secret(options.context or field.name, f"{cls.__qualname__}.{field.name}")


def _is_field(value: object) -> bool:
    return type(value).__name__ == "_CountingAttr"


def _is_classvar(annotation: object, text: object) -> bool:
    if typing.get_origin(annotation) is ClassVar or annotation is ClassVar:
        return True
    return isinstance(text, str) and re.match(r"(typing\.|t\.)?ClassVar\b", text) is not None


def _check_bases(cls: type, own: Collection[str]) -> None:
    """Refuse what would be silently ignored: a prop of a class that is no operation, a new value for an old prop."""
    for base in cls.__mro__[1:]:
        if not attrs.has(base):
            for name, value in vars(base).items():
                if _is_field(value):
                    raise DeclarationError(
                        f"{cls.__qualname__}: {base.__qualname__}.{name} is a prop(), and {base.__qualname__} is no "
                        f"Operation, so nobody would read it. Write: class {base.__name__}(Operation)."
                    )
            continue
        for field in attrs.fields(base):
            if field.name in vars(cls) and field.name not in own:
                raise DeclarationError(
                    f"{cls.__qualname__}.{field.name}: it is a prop of {base.__qualname__}, and would stay as it is "
                    f"there. Declare it with its type, {field.name}: ... = ..., or choose another name."
                )


def _check_name(cls: type, name: str) -> None:
    if name.startswith("_"):
        raise DeclarationError(
            f"{cls.__qualname__}.{name}: a prop's name cannot begin with an underscore. Write {name.lstrip('_')!r}, "
            "or ClassVar[...] for what is not a prop."
        )
    if name in RESERVED:
        raise DeclarationError(reserved_name(cls.__qualname__, name, "no prop"))


def reserved_name(owner: str, name: str, what: str) -> str:
    """The message for something that has a reserved name."""
    return (
        f"{owner}.{name}: {name!r} is a name that operations need themselves, so {what} can have it. "
        f"The reserved names are {listed(RESERVED)}. Choose another."
    )


def resolve(cls: type) -> tuple[Prop, ...]:
    """The props of a class, with their annotations resolved.

    Raises:
        DeclarationError: An annotation that names nothing, or a type that cannot be.
    """
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)
    return tuple(_resolve_one(cls, field) for field in fields)


def _resolve_one(cls: type, field: attrs.Attribute[Any]) -> Prop:
    owner = next(base for base in cls.__mro__ if field.name in vars(base).get("__annotations__", {}))
    where = f"{owner.__qualname__}.{field.name}"
    annotation = resolve_annotation(vars(owner)["__annotations__"][field.name], owner, where)
    options: PropOptions = field.metadata.get(MARK) or PropOptions()
    if options.context == OWN_NAME:
        options = attrs.evolve(options, context=field.name)
    reference = None
    if (kind := reference_kind(annotation)) is not None:
        reference = reference_of(field.name, annotation, options.lock, owner.__qualname__)
        form = reference.form()
        if field.name not in vars(owner):
            # The annotation is text that could not be read before: an alias declared below the class.
            setattr(owner, field.name, kind(field.name))
    else:
        if (inner := mentions_reference(annotation)) is not None:
            raise DeclarationError(
                f"{where}: {inner.__name__}[...] cannot stand inside another type. "
                "Write OptRef[Customer] for one that may be None, Refs[Customer] for a list."
            )
        if options.lock:
            raise DeclarationError(f"{where}: prop(lock=True) is for references. Leave it out, or write Ref[...].")
        form = form_of(annotation)
    resolved = Prop(field.name, annotation, form, options, field.default is attrs.NOTHING, reference, field.default)
    if not resolved.required and not isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        try:
            resolved.check(field.default)
        except Misfit as misfit:
            told = "; ".join(str(problem) for problem in misfit.under("." + field.name))
            raise DeclarationError(
                f"{where}: its default does not fit: {told}. Change the default or the type."
            ) from None
    return resolved


def resolve_annotation(annotation: Any, owner: type, where: str) -> Any:
    """An annotation with its names looked up, as `typing.get_type_hints` does it.

    Raises:
        DeclarationError: It names something that does not exist at run time.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        hints = typing.get_type_hints(holder, dict(_module_of(owner)), {owner.__name__: owner}, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{where}: its type {annotation!r} names {error.name!r}, which does not exist at run time. "
            "Import it outside of `if TYPE_CHECKING:` and on module level "
            "(ruff's flake8-type-checking: runtime-evaluated-base-classes = ['dexpy.Operation'])."
        ) from None
    except TypeError as error:
        raise DeclarationError(f"{where}: its type {annotation!r} cannot be understood: {error}.") from None
    return hints["it"]


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
