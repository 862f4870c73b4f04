"""Constraints mean the same in Python and in JSON Schema, and match the type of their prop."""

# ruff: noqa: E501, RUF001 - letters of other scripts that look like ASCII are what is tried

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import pytest
from jsonschema import Draft202012Validator
from labels import label
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Operation, OptRef, PropsError, Ref, Refs, prop, register_type
from dexpy.errors import DeclarationError


class Op(Operation):
    record = False

    def perform(self) -> None: ...


def refused(action: Callable[[], object], kind: type[Exception] = DeclarationError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def taking(annotation: Any, default: Any = attrs.NOTHING) -> Any:
    body = {"__annotations__": {"item": annotation}, "__module__": __name__}
    return type("Takes", (Op,), body if default is attrs.NOTHING else {**body, "item": default})


# ------------------------------------------------------------------------------------------ patterns

TEXTS = [
    *(
        "ada",
        "Ada",
        "ADA",
        "Müller",
        "m_1",
        "é",
        "a b",
        "a\tb",
        "a\nb",
        "ab\n",
        "\n",
        "",
        "٣",
        "12",
        "-",
        "]",
        "\\",
        "/",
    ),
    *("K", "K", "ſ", "s", "İ", "ı", "😀", "a😀b", "\u2028", "\x85", "\xa0", "abab", "aa", "foo", "foobar", "barfoo"),
    *("a-b", "a.b", "a&b", "#", "a #b", "Ｊ", "ß", "SS", "µ", "a\u00ad", "e\u0301", "\x1c", "\ufeff", "x^y", "~", "&&"),
]
PATTERNS: list[str | re.Pattern[str]] = [
    "[a-z]+", "[^a-z]+", "a|b|ada", ".*", "...", "(?s).*", "(?s:.)+", "[a-zäöü]+", "(?x) a \\ [#] b # text", "a{2}",
    "(ab){1,2}", "(?:ab)*?", "a+?", "(?P<x>ab)+", "(?P<x>a)b(?P=x)b", r"(a)b\1b", r"\w+", r"\W+", r"\d+", r"\D+", r"\s",
    r"\S+", r"[\w-]+", r"[^\W]+", r"(?a)\w+", r"(?a:\d)+", r"(?a)\s", r"(?a)\W+", r"\bfoo\b.*", r"\B-\B", r"(?a)\bfoo.*",
    "(?i)ada", "(?i)k", "(?i)s", "(?i)i", "(?i:a)da", r"foo(?=bar).*", r"foo(?!bar).*", r".*(?<=foo)", r".*(?<!bar)",
    r"\Aada\Z", "^ada$", "(?m)^a$", "(?m)a$\nb", "a$", "ab$\n?", "(?!a$).*", "(?!ab$)[a-b\n]*", "a*+", "(?>a+)b?",
    r"[\]\-\\/]", "[]]", r"\.", r"a\-b", r"[a\-b]+", "[&~]+", r"\#", r"\x61", r"\u00e9", r"\N{EM DASH}|a", "[😀-😎]",
    "a😀b", "x\\^y", "(a|b)(?(1)c|d)?", r"[\n\t]", r"a\tb", "", "(?:)", "(?:a?)*", "(a*)*", r"\0?", "[^\\n]+", "[\u2028]",
]  # fmt: skip
FLAGS = [
    re.compile("[a-z]+", re.IGNORECASE), re.compile("a b", re.VERBOSE), re.compile(".+", re.DOTALL),
    re.compile("^a$", re.MULTILINE), re.compile(r"\w+", re.ASCII), re.compile(r"\d", re.ASCII | re.IGNORECASE),
]  # fmt: skip


def parse_accepts(cls: Any, text: str) -> bool:
    try:
        cls.parse({"item": text})
    except PropsError:
        return False
    return True


@pytest.mark.parametrize("pattern", [*PATTERNS, *FLAGS], ids=label)
def test_l6_the_schema_accepts_every_text_that_parse_accepts(pattern: Any) -> None:
    cls = taking(str, prop(pattern=pattern))
    schema = Draft202012Validator(cls.contract.to_json_schema())
    refused_texts = [text for text in TEXTS if parse_accepts(cls, text) and not schema.is_valid({"item": text})]
    assert refused_texts == []


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_l6_a_pattern_means_the_same_in_javascript() -> None:
    pattern_cases = []
    for pattern in (*PATTERNS, *FLAGS):
        cls = taking(str, prop(pattern=pattern))
        exported = cls.contract.to_json_schema()["properties"]["item"].get("pattern")
        if exported is not None:
            pattern_cases.append([exported, [parse_accepts(cls, text) for text in TEXTS]])
    assert len(pattern_cases) > 30
    program = (
        "const [texts, cases] = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const wrong = [];"
        "for (const [pattern, accepted] of cases) texts.forEach((text, i) => {"
        "  if (new RegExp(pattern, 'u').test(text) !== accepted[i]) wrong.push([pattern, text, accepted[i]]); });"
        "console.log(JSON.stringify(wrong));"
    )
    process = subprocess.run(
        ["node", "-e", program],
        input=json.dumps([TEXTS, pattern_cases]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(process.stdout) == []


def test_l6_equivalent_patterns_are_exported_and_others_are_omitted() -> None:
    class Name(Op):
        name: str = prop(pattern=re.compile("[a-z]+", re.IGNORECASE))
        family: str = prop(pattern=r"\w+")
        code: str = prop(pattern=r"[A-Z]{2}-[0-9]+(/[a-z]?)*")
        inside: list[Annotated[str, prop(pattern="[a-z]")]]

    document = Name.contract.to_json_schema("params")["properties"]
    assert "pattern" not in document["name"]
    assert "pattern" not in document["family"]
    assert document["code"]["pattern"] == r"^(?:[A-Z]{2}-[0-9]+(?:\/[a-z]?)*)$"
    assert document["inside"]["items"]["pattern"] == "^(?:[a-z])$"


# --------------------------------------------------------------------- declarations that do not fit


class Model(DeclarativeBase): ...


class User(Model):
    __tablename__ = "constrained_users"
    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


MISFITS: list[tuple[Any, dict[str, Any], str]] = [
    (str, {"ge": 1}, "prop(ge=1) does not fit its type str"),
    (str | None, {"lt": 1}, "prop(lt=1) does not fit its type str"),
    (int | str, {"ge": 1}, "does not fit its type str"),
    (int, {"ge": "1"}, "prop(ge='1') does not fit its type int"),
    (int, {"min_length": 1}, "prop(min_length=1) does not fit its type int"),
    (date, {"ge": 2026}, "does not fit its type date"),
    (date, {"ge": datetime(2026, 1, 1)}, "does not fit its type date"),
    (datetime, {"ge": date(2026, 1, 1)}, "does not fit its type datetime"),
    (timedelta, {"le": 5}, "does not fit its type timedelta"),
    (dict[str, int], {"ge": 1}, "does not fit its type dict"),
    (list[int], {"pattern": "a"}, "prop(pattern='a') does not fit its type list[int]"),
    (int, {"pattern": "a"}, "prop(pattern='a') does not fit its type int"),
    (bytes, {"pattern": "a"}, "does not fit its type bytes"),
    (Colour, {"ge": 1}, "does not fit its type Colour"),
    (Literal["a", "b"], {"ge": 1}, "does not fit its type"),
    (UUID, {"max_length": 3}, "does not fit its type UUID"),
    (float, {"ge": float("nan")}, "does not fit its type float"),
    (Decimal, {"le": Decimal("NaN")}, "does not fit its type Decimal"),
    (int, {"ge": 2, "le": 1}, "prop(ge=2, le=1) leaves no value"),
    (int, {"gt": 1, "lt": 2}, "prop(gt=1, lt=2) leaves no value"),
    (float, {"gt": 1, "le": 1}, "leaves no value"),
    (str, {"min_length": 3, "max_length": 2}, "leaves no value"),
    (datetime, {"ge": datetime(2026, 1, 1), "le": datetime(2027, 1, 1, tzinfo=UTC)}, "the bounds are not comparable"),
    (int, {"choices": ()}, "leaves no value"),
    (int, {"choices": ("1", 2)}, "invalid choice '1'"),
    (str, {"choices": (Colour.RED,)}, "invalid choice"),
    (Colour, {"choices": ("red",)}, "invalid choice"),
    (int, {"choices": (1, 20), "le": 10}, "invalid choice 20"),
    (int, {"default": 20, "le": 10}, "invalid default"),
    (int, {"default": "1"}, "invalid default"),
    (int, {"default": 3, "choices": (1, 2)}, "invalid default"),
    (int, {"default": None}, "invalid default"),
    (int, {"factory": list}, "invalid factory"),
    (list[int], {"factory": lambda: ["a"]}, "invalid factory"),
    (int, {"lock": True}, "prop(lock=True) is only for references"),
    (Ref[User], {"ge": 1}, "does not fit its type Ref[User]"),
    (OptRef[User], {"pattern": "a"}, "does not fit its type OptRef[User]"),
    (Refs[User], {"pattern": "a"}, "does not fit its type Refs[User]"),
    (list[Annotated[str, prop(ge=1)]], {}, "does not fit its type str"),
    (list[Annotated[int, prop(choices=("a",))]], {}, "invalid choice"),
]


@pytest.mark.parametrize(("annotation", "options", "expected"), MISFITS, ids=label)
def test_l12_a_constraint_that_does_not_fit_is_refused_at_the_declaration(
    annotation: Any, options: dict[str, Any], expected: str
) -> None:
    cls = taking(annotation, prop(**options))
    is_made = "factory" in options
    message = refused(cls if is_made or "default" in options else lambda: cls.contract.props)
    assert "Takes.item: " in message
    assert expected in message


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "["},
        {"pattern": b"a"},
        {"pattern": re.compile(b"a")},
        {"pattern": 5},
        {"min_length": -1},
        {"max_length": 1.5},
        {"min_length": True},
        {"sensitive": "yes"},
        {"lock": 1},
        {"desc": 5},
        {"aliases": (5,)},
        {"choices": "ab"},
        {"factory": 5},
    ],
    ids=label,
)
def test_l12_an_invalid_argument_of_prop_is_refused_at_once(options: dict[str, Any]) -> None:
    assert f"prop({next(iter(options))}=" in refused(lambda: prop(**options))


FITS: list[tuple[Any, dict[str, Any], Any]] = [
    (int, {"ge": 1, "lt": Decimal(3)}, 2),
    (Decimal, {"ge": 1.5}, Decimal(2)),
    (float, {"choices": (1, 2)}, 1.0),
    (int | None, {"gt": 1}, None),
    (Level, {"ge": 1}, Level.LOW),
    (Literal[1, 2], {"le": 2}, 1),
    (datetime, {"ge": datetime(2026, 1, 1, tzinfo=UTC)}, datetime(2026, 1, 1, tzinfo=UTC)),
    (timedelta, {"le": timedelta(1)}, timedelta(0)),
    (Sequence[int], {"min_length": 1}, (1,)),
    (Refs[User], {"max_length": 2}, [1]),
    (list[int], {"choices": ([1], [2])}, [1]),
    (Any, {"ge": 1}, 2),
    (str, {"pattern": re.compile("A", re.IGNORECASE)}, "a"),
    (int, {"ge": 2, "le": 2}, 2),
]


@pytest.mark.parametrize(("annotation", "options", "value"), FITS, ids=label)
def test_l12_a_constraint_that_fits_is_kept(annotation: Any, options: dict[str, Any], value: Any) -> None:
    cls = taking(annotation, prop(**options))
    operation = cls(item=value)
    assert repr(operation)


def test_l12_an_earlier_name_of_two_props_is_refused() -> None:
    class Odd(Op):
        one: int = prop(aliases=("two",))
        two: int = 1

    assert "Odd.one: its alias 'two' is a name of the prop 'two'" in refused(lambda: Odd(one=1))


class Strange(Exception):
    """An exception of the application."""


@attrs.frozen
class Checked:
    value: int = attrs.field(default=0)

    @value.validator
    def check(self, attribute: Any, value: int) -> None:
        if value < 0:
            raise Strange("negative")


@attrs.frozen(eq=False)
class Moody:
    value: int = 0

    def __eq__(self, other: object) -> bool:
        raise Strange("compared")

    def __hash__(self) -> int:
        raise Strange("hashed")

    def __ge__(self, other: object) -> bool:
        raise Strange("ordered")

    def __len__(self) -> int:
        raise Strange("measured")


def read_strangely(value: Any) -> Fraction:
    raise Strange(value)


class Ratio(Fraction): ...


register_type(Ratio, to_json=str, from_json=read_strangely)

SENT: list[tuple[Any, dict[str, Any], Any]] = [
    (Checked, {}, {"value": -1}),
    (list[Checked], {}, [{"value": -1}]),
    (Ratio, {}, "1/2"),
    (dict[str, Ratio], {}, {"a": 1}),
    (set[Moody], {}, [{"value": 1}]),
    (Moody, {"ge": 1}, {"value": 1}),
    (Moody, {"min_length": 1}, {"value": 1}),
    (Any, {"ge": 1}, "text"),
    (Any, {"max_length": 1}, 5),
    (Any, {"pattern": "a"}, 5),
    (Decimal, {"ge": 1}, "NaN"),
    (datetime, {"ge": datetime(2026, 1, 1)}, "2026-01-01T00:00:00Z"),
]


@pytest.mark.parametrize(("annotation", "options", "value"), SENT, ids=label)
def test_l12_invalid_input_of_a_user_raises_a_props_error(annotation: Any, options: Any, value: Any) -> None:
    cls = taking(annotation, prop(**options))
    assert "item" in refused(lambda: cls.parse({"item": value}), PropsError)


def test_l12_invalid_input_of_a_user_at_construction_raises_a_props_error() -> None:
    for annotation, options, value in [
        (Moody, {"ge": 1}, Moody()),
        (set[Moody], {}, [Moody()]),
        (Checked, {}, object.__new__(Checked)),
        (int, {"choices": (1, 2)}, 3),
    ]:
        assert "item" in refused(lambda: taking(annotation, prop(**options))(item=value), PropsError)  # noqa: B023
