"""Models of pydantic, validated by pydantic; it is used only if the application has imported it.

JSON is validated in pydantic's strict mode for JSON: text is valid for a date, but not for an int.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any, Literal, cast, get_args, get_origin

from dexpy.codec.annotated_metadata import is_prop
from dexpy.codec.annotations import label_of
from dexpy.codec.base import JSON_TYPES, Conversion, Hook, Shape
from dexpy.codec.plain_json import plain_json
from dexpy.codec.problems import InvalidValue, changed, describe_value, invalid_value, shorten
from dexpy.foundation.errors import DeclarationError, NotSerializable, Problem


def is_pydantic_model(annotation: Any) -> bool:
    """Return True for a pydantic model with fields or a root."""
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)
    return base is not None and isinstance(annotation, type) and issubclass(annotation, base) and annotation is not base


def pydantic_shape(cls: Any) -> Shape:
    """Return the shape of a pydantic model."""
    label, is_root = label_of(cls), bool(getattr(cls, "__pydantic_root_model__", False))
    _check_model(cls)
    kinds = frozenset(JSON_TYPES.keys() - {"null"}) if is_root else frozenset({"object"})
    json_types = tuple(json_type for kind in kinds for json_type in JSON_TYPES[kind])

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is not cls:
            raise invalid_value(label, value, cls)
        try:
            value.model_dump(warnings="error")  # raises for values that were assigned after validation
            return value.model_copy(deep=True)
        except RecursionError:
            raise
        except Exception as error:
            raise InvalidValue([Problem("", f"{label} with valid values", _error_text(error))]) from error

    def decode(value: Any, _: Any = None) -> Any:
        return _decode(cls, is_json(value))

    def is_json(value: Any) -> Any:
        if type(value) not in json_types:
            raise invalid_value(f"object for {label}", value, cls)
        return value

    def structure(conversion: Conversion) -> Hook:
        if not conversion.takes_json:
            return check
        if not conversion.takes_python:
            return decode

        def parse(value: Any, _: Any = None) -> Any:
            return check(value) if type(value) is cls else _validate(cls, is_json(value))

        return parse

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise changed(value, label, cls)
        return _encode(cls, value, label)

    def key(conversion: Conversion) -> Hook:
        def make_key(value: Any) -> Any:
            stored = encode(value)
            try:
                return _key_of(value.model_dump(mode="python", round_trip=True), conversion)
            except NotSerializable:
                # A type of pydantic is compared by its stored form.
                return stored

        return make_key

    return Shape(
        kinds,
        structure,
        lambda _: encode,
        types=frozenset({cls}),
        mutable=True,
        tag="" if is_root else cls.__name__,
        key=key,
    )


def _key_of(value: Any, conversion: Conversion) -> Any:
    """Return the result of `model_dump` as JSON that is the same for equal values."""
    if isinstance(value, (list, tuple)):
        return [_key_of(item, conversion) for item in cast("list[Any]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted((_key_of(item, conversion) for item in cast("set[Any]", value)), key=json.dumps)
    if isinstance(value, dict):
        items: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {json.dumps(_key_of(name, conversion)): _key_of(item, conversion) for name, item in items.items()}
    kind: Any = value.__class__
    return conversion.encoder(kind)(value)


def _check_model(cls: Any) -> None:
    try:
        if not cls.__pydantic_complete__:
            cls.model_rebuild()
    except Exception as error:
        raise DeclarationError(f"{cls.__qualname__} cannot be resolved: {str(error).splitlines()[0]}") from error
    for name, field in cls.model_fields.items():
        if any(map(is_prop, field.metadata)) or is_prop(field.default) or _has_prop(field.annotation):
            raise DeclarationError(
                f"{cls.__qualname__}.{name}: prop() is not supported in a pydantic model. Write pydantic.Field(...)."
            )


def _has_prop(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    arguments = [get_origin(annotation), *get_args(annotation)] if get_args(annotation) else []
    return any(map(is_prop, metadata)) or any(_has_prop(argument) for argument in arguments if argument is not None)


def _decode(cls: Any, value: Any) -> Any:
    """Return the model of stored JSON, which may contain names of fields as well as aliases."""
    takes_names = "by_name" in inspect.signature(cls.model_validate_json).parameters  # since pydantic 2.11
    return _validate(cls, value, **({"by_alias": True, "by_name": True} if takes_names else {}))


def _validate(cls: Any, value: Any, **how: bool) -> Any:
    try:
        return cls.model_validate_json(json.dumps(value), strict=True, **how)
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - a validator of the application may raise anything
        problem = Problem("", got=_error_text(error), reason=f"{cls.__name__} refuses the values")
        raise InvalidValue(_problems(error) or [problem]) from None


def _problems(error: Exception) -> list[Problem]:
    """Return the errors of pydantic as problems, each with its path."""
    errors: Any = getattr(error, "errors", None)
    if not callable(errors):
        return []
    entries: Any = errors(include_url=False, include_context=False)
    return [
        Problem(
            "".join(_path_step(location) for location in entry["loc"]),
            got=describe_value(entry["input"]),
            reason=f"{entry['msg']} ({entry['type']})",
        )
        for entry in entries
    ]


def _path_step(location: Any) -> str:
    return f"[{location}]" if isinstance(location, int) else f".{location}"


def _error_text(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 200)


def _encode(cls: Any, value: Any, label: str) -> Any:
    """Return a model as JSON by aliases, or else by field names, if it decodes to an equal model."""
    reason = "it does not decode to an equal model, because a field is excluded or masked"
    for by_alias in (True, False):
        try:
            data = plain_json(value.model_dump(mode="json", by_alias=by_alias, round_trip=True, warnings="error"))
            if _decode(cls, data) == value:
                return data
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - a serializer of the application may raise anything
            reason = _reason_without_values(error)
    raise NotSerializable(f"is a {label} without a JSON form: {reason}")


def _reason_without_values(error: Exception) -> str:
    """Return why a model has no JSON form, without any of its values."""
    if isinstance(error, InvalidValue):
        paths = ", ".join(problem.path.lstrip(".") or "the model" for problem in error.problems)
        return f"its validation refuses its own JSON: {paths}"
    return str(error) if isinstance(error, NotSerializable) else f"pydantic raised {type(error).__name__}"


def schema_of(cls: Any, side: Literal["in", "out"], template: str) -> dict[str, Any]:
    """Return the JSON Schema of a model; only a title if pydantic has no schema for one of its fields."""
    generator: Any = sys.modules["pydantic"].json_schema.GenerateJsonSchema
    generator_class = type("Quiet", (generator,), {"ignored_warning_kinds": _KINDS_OF_WARNINGS})
    try:
        schema: dict[str, Any] = cls.model_json_schema(
            mode="validation" if side == "in" else "serialization",
            ref_template=template,
            schema_generator=generator_class,
        )
    except Exception:  # noqa: BLE001 - a field that pydantic has no schema for
        return {"title": label_of(cls)}
    return schema


_KINDS_OF_WARNINGS = frozenset({"skipped-choice", "non-serializable-default", "skipped-discriminator"})
