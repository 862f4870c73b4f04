"""Props: the typed inputs of an operation, ready to be used.

They are resolved at first use: models are often declared after the operations that refer to them.
"""

from __future__ import annotations

from typing import Any

import attrs

from dexpy.declaration.forms import Form, Misfit, form_of
from dexpy.declaration.hints import resolve_annotation
from dexpy.declaration.misfits import misfit
from dexpy.declaration.options import MARK, OWN_NAME, PropOptions
from dexpy.declaration.refs import Reference, mentions_reference, reference_kind, reference_of
from dexpy.foundation.errors import SENSITIVE, DeclarationError


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
