"""What `self.each` walks over: pages of items, each with the cursor to go on from behind it.

A page is read in the transaction that its items are worked on in, and its cursor is committed with their effects.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

import attrs

from dexpy.declaration.forms import Misfit, form_of
from dexpy.foundation.errors import NotSerializable, OptionsError, StepError

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from dexpy.declaration.models import SqlAlchemyLoader

TAGGED: dict[str, type] = {"$uuid": UUID, "$datetime": datetime, "$date": date, "$decimal": Decimal}
"""Cursors that JSON has no form of its own for."""
CURSORS = "int, str, float, UUID, datetime, date, Decimal, or a tuple of them"
WANTED = (
    "a list, a tuple or a range; a select of one model; or a function of the cursor that gives (cursor, item) pairs"
)


@attrs.frozen
class Page:
    """Some items, worked on in one transaction.

    Attributes:
        items: In order.
        cursor: To go on from after them, as JSON; None for a loop over nothing.
        is_last: Whether nothing comes after them.
    """

    items: Sequence[Any]
    cursor: Any
    is_last: bool


class Walk(Protocol):
    """A source of items that can be gone on with."""

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """The pages after a cursor, from the beginning if that is None; the next one is read when it is asked for."""
        ...


def walk_over(source: Any, operation: str, name: str) -> Walk:
    """How to walk over what `each` was given.

    Raises:
        OptionsError: It is something that cannot be gone on with in the middle.
        StepError: It is a select whose order is not that of its keys.
    """
    if isinstance(source, (list, tuple, range)):
        return Listed(cast("Sequence[Any]", source), operation, name)
    if inspect.isfunction(source) or inspect.ismethod(source) or inspect.isbuiltin(source):
        return Called(source, operation, name)
    from sqlalchemy import Select

    if isinstance(source, Select):
        return Selected.of(cast("Select[Any]", source), operation, name)
    raise OptionsError(
        f"{operation}.each({name!r}, ...) wants {WANTED}; got {type(source).__name__}, "
        "which another attempt could not go on with in the middle."
    )


@attrs.frozen
class Listed:
    """A sequence that is the same in every attempt; its cursor is how many items are behind."""

    items: Sequence[Any]
    operation: str
    name: str

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Walk`."""
        start: int = cursor or 0
        if start > len(self.items):
            raise StepError(
                self.operation,
                self.name,
                f"has {start} items behind it, and the list has only {len(self.items)} now. "
                "A list has to be the same in every attempt; give a select, or a function of the cursor.",
            )
        while True:
            end = min(start + batch, len(self.items))
            yield Page(self.items[start:end], end, end == len(self.items))
            start = end


@attrs.frozen
class Called:
    """A function of the cursor; called once in an attempt, and walked as its items are wanted."""

    source: Callable[[Any], Iterable[tuple[Any, Any]]]
    operation: str
    name: str

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Walk`."""
        pairs = iter(self.source(decoded_cursor(cursor)))
        while True:
            items: list[Any] = []
            for pair in islice(pairs, batch):
                reached, item = self._parted(pair)
                following = self._encoded(reached)
                if following == cursor:
                    raise StepError(
                        self.operation,
                        self.name,
                        f"was given the cursor {reached!r} twice in a row, so nobody could tell after which of the "
                        "two to go on. Each item needs a cursor of its own.",
                    )
                cursor = following
                items.append(item)
            yield Page(items, cursor, len(items) < batch)

    def _parted(self, pair: Any) -> tuple[Any, Any]:
        parts: tuple[Any, ...] = cast("tuple[object, ...]", pair) if isinstance(pair, tuple) else ()
        if len(parts) != 2:
            got = type(cast("object", pair)).__name__
            raise StepError(self.operation, self.name, f"wants (cursor, item) pairs of its function, got {got}.")
        return parts[0], parts[1]

    def _encoded(self, cursor: Any) -> Any:
        try:
            return encoded_cursor(cursor)
        except NotSerializable as error:
            raise StepError(self.operation, self.name, f"has a cursor that {error.reason}.") from None


@attrs.frozen
class Selected:
    """A select of one model, in the order of its primary key; its cursor is the key of the last row."""

    query: Select[Any]
    loader: SqlAlchemyLoader
    columns: tuple[Any, ...]

    @classmethod
    def of(cls, query: Select[Any], operation: str, name: str) -> Selected:
        """A walk over what a select finds.

        Raises:
            StepError: It is of no model, or has an order or an end of its own.
        """
        from sqlalchemy import inspect as inspected

        from dexpy.declaration.models import SqlAlchemyLoader

        described = query.column_descriptions
        entity: Any = described[0]["expr"] if len(described) == 1 else None
        found: Any = inspected(entity, raiseerr=False)
        if not (getattr(found, "is_mapper", False) or getattr(found, "is_aliased_class", False)):
            raise StepError(operation, name, "wants a select of one model, as in select(Order).where(...).")
        clauses = {
            "order_by": "_order_by_clauses",
            "limit": "_limit_clause",
            "offset": "_offset_clause",
            "fetch": "_fetch_clause",
            "group_by": "_group_by_clauses",
            "distinct": "_distinct",
        }
        own = [word for word, attribute in clauses.items() if _is_said(getattr(query, attribute, None))]
        if getattr(getattr(query, "_for_update_arg", None), "skip_locked", False):
            own.append("with_for_update(skip_locked=True)")
        if own:
            raise StepError(
                operation,
                name,
                f"has a select with {', '.join(own)}. The loop goes by the primary key, so that it can go on after "
                "any row and leaves none out: give the select without it.",
            )
        loader = SqlAlchemyLoader.of(found.mapper.class_)
        return cls(query, loader, tuple(getattr(entity, column.key) for column in loader.columns))

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Walk`."""
        ordered = self.query.order_by(*self.columns).limit(batch)
        while True:
            query = ordered if cursor is None else ordered.where(self._after(self.loader.decode_key(cursor)))
            rows: list[Any] = session().scalars(query).unique().all()  # type: ignore[assignment]
            if rows:
                # Before anybody works on them, and perhaps deletes them.
                key = self.loader.key_of(rows[-1])
                assert key is not None  # noqa: S101 - it has just been read
                cursor = self.loader.encode_key(key)
            # A page may be short because rows came up twice, in a join: only an empty one is the end.
            yield Page(rows, cursor, not rows)

    def _after(self, key: Any) -> Any:
        from sqlalchemy import and_, false, or_

        parts: tuple[Any, ...] = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
        following: Any = false()
        for column, part in zip(reversed(self.columns), reversed(parts), strict=True):
            following = or_(column > part, and_(column == part, following))
        return following


def _is_said(clause: Any) -> bool:
    # An expression has no truth; a tuple of them is empty where nothing was said.
    return bool(cast("object", clause)) if isinstance(clause, (bool, tuple)) else clause is not None


def encoded_cursor(cursor: Any) -> Any:
    """A cursor as JSON.

    Raises:
        NotSerializable: It has no form that comes back the same.
    """
    if isinstance(cursor, tuple):
        return [encoded_cursor(part) for part in cast("tuple[object, ...]", cursor)]
    for plain in (int, str, float):
        if type(cursor) is plain:
            return form_of(plain).encode(cursor)
    for tag, cls in TAGGED.items():
        if type(cursor) is cls:
            return {tag: form_of(cls).encode(cursor)}
    raise NotSerializable(f"is of type {type(cursor).__name__}; it wants {CURSORS}")


def decoded_cursor(stored: Any) -> Any:
    """The cursor that `encoded_cursor` wrote; None for none.

    Raises:
        Misfit: It is none.
    """
    if isinstance(stored, list):
        return tuple(decoded_cursor(part) for part in cast("list[object]", stored))
    if isinstance(stored, dict):
        for tag, text in cast("dict[str, Any]", stored).items():
            if tag in TAGGED:
                return form_of(TAGGED[tag]).decode(text)
        raise Misfit(())
    return stored
