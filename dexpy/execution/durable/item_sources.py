"""Sources of items for `self.each`: pages of items, each with the cursor after its last item.

A page is read in the transaction that processes its items, and its cursor is committed with their effects.
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

from dexpy.codec.codecs import InvalidValue, codec_of
from dexpy.declaration.model_loaders import SqlAlchemyLoader
from dexpy.foundation.errors import NotSerializable, OptionsError, StepError

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

TAGGED: dict[str, type] = {"$uuid": UUID, "$datetime": datetime, "$date": date, "$decimal": Decimal}
"""Cursor types without a JSON form, by their tag."""
CURSOR_TYPES = "int, str, float, UUID, datetime, date, Decimal, or a tuple of them"
EXPECTED_SOURCE = (
    "a list, tuple or range; a select of one model; or a function of the cursor that yields (cursor, item) pairs"
)


@attrs.frozen
class Page:
    """Items that are processed in one transaction.

    Attributes:
        items: The items in order.
        cursor: The cursor after the last item, as JSON; None if there are no items.
        is_last: Whether no page follows.
    """

    items: Sequence[Any]
    cursor: Any
    is_last: bool


class Source(Protocol):
    """A source of items that can be read from a cursor."""

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """Yield the pages after a cursor, or all for None; each page is read when it is needed."""
        ...


def source_of(source: Any, operation: str, name: str) -> Source:
    """Return the source for an argument of `each`.

    Raises:
        OptionsError: The type of the source is not supported.
        StepError: The source is a select with its own order, limit or grouping, or not of one model.
    """
    if isinstance(source, (list, tuple, range)):
        return ListSource(cast("Sequence[Any]", source), operation, name)
    if inspect.isfunction(source) or inspect.ismethod(source) or inspect.isbuiltin(source):
        return FunctionSource(source, operation, name)
    from sqlalchemy import Select

    if isinstance(source, Select):
        return QuerySource.of(cast("Select[Any]", source), operation, name)
    raise OptionsError(
        f"{operation}.each({name!r}, ...): expected {EXPECTED_SOURCE}; got {type(source).__name__}, "
        "which a retry could not resume."
    )


@attrs.frozen
class ListSource:
    """A sequence that is the same in every attempt; its cursor is the number of processed items."""

    items: Sequence[Any]
    operation: str
    name: str

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Source`."""
        start: int = cursor or 0
        if start > len(self.items):
            raise StepError(
                self.operation,
                self.name,
                f"has already processed {start} items, but the list now has {len(self.items)}. "
                "Pass the same list in every attempt, or a select or a function of the cursor.",
            )
        while True:
            end = min(start + batch, len(self.items))
            yield Page(self.items[start:end], end, end == len(self.items))
            start = end


@attrs.frozen
class FunctionSource:
    """A function of the cursor; called once in an attempt, and iterated lazily."""

    source: Callable[[Any], Iterable[tuple[Any, Any]]]
    operation: str
    name: str

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Source`."""
        pairs = iter(self.source(decode_cursor(cursor)))
        while True:
            items: list[Any] = []
            for pair in islice(pairs, batch):
                pair_cursor, item = self._split_pair(pair)
                next_cursor = self._encoded(pair_cursor)
                if next_cursor == cursor:
                    raise StepError(
                        self.operation,
                        self.name,
                        f"got the cursor {pair_cursor!r} twice in a row, so a retry could not resume between the two "
                        "items. Yield a different cursor for each item.",
                    )
                cursor = next_cursor
                items.append(item)
            yield Page(items, cursor, len(items) < batch)

    def _split_pair(self, pair: Any) -> tuple[Any, Any]:
        parts: tuple[Any, ...] = cast("tuple[object, ...]", pair) if isinstance(pair, tuple) else ()
        if len(parts) != 2:
            got = type(cast("object", pair)).__name__
            raise StepError(self.operation, self.name, f"expected (cursor, item) pairs from its function, got {got}.")
        return parts[0], parts[1]

    def _encoded(self, cursor: Any) -> Any:
        try:
            return encode_cursor(cursor)
        except NotSerializable as error:
            raise StepError(self.operation, self.name, f"has a cursor that {error.reason}.") from None


@attrs.frozen
class QuerySource:
    """A select of one model, in the order of its primary key; its cursor is the key of the last row."""

    query: Select[Any]
    loader: SqlAlchemyLoader
    columns: tuple[Any, ...]

    @classmethod
    def of(cls, query: Select[Any], operation: str, name: str) -> QuerySource:
        """Return the source for a select.

        Raises:
            StepError: The select is not of one model, or has its own order or limit.
        """
        from sqlalchemy import inspect as sa_inspect

        described = query.column_descriptions
        entity: Any = described[0]["expr"] if len(described) == 1 else None
        inspected_entity: Any = sa_inspect(entity, raiseerr=False)
        if not (getattr(inspected_entity, "is_mapper", False) or getattr(inspected_entity, "is_aliased_class", False)):
            raise StepError(operation, name, "expected a select of one model, for example select(Order).where(...).")
        clauses = {
            "order_by": "_order_by_clauses",
            "limit": "_limit_clause",
            "offset": "_offset_clause",
            "fetch": "_fetch_clause",
            "group_by": "_group_by_clauses",
            "distinct": "_distinct",
        }
        extra = [word for word, attribute in clauses.items() if _is_set(getattr(query, attribute, None))]
        if getattr(getattr(query, "_for_update_arg", None), "skip_locked", False):
            extra.append("with_for_update(skip_locked=True)")
        if extra:
            raise StepError(
                operation,
                name,
                f"has a select with {', '.join(extra)}. Remove it: the loop orders the rows by primary key, so that a "
                "retry resumes after the last processed row.",
            )
        loader = SqlAlchemyLoader.of(inspected_entity.mapper.class_)
        return cls(query, loader, tuple(getattr(entity, column.key) for column in loader.columns))

    def pages(self, cursor: Any, session: Callable[[], Session], batch: int) -> Iterator[Page]:
        """See `Source`."""
        ordered = self.query.order_by(*self.columns).limit(batch)
        while True:
            query = ordered if cursor is None else ordered.where(self._after(self.loader.decode_key(cursor)))
            rows: list[Any] = session().scalars(query).unique().all()  # type: ignore[assignment]
            if rows:
                # Before the rows are processed, and perhaps deleted.
                key = self.loader.key_of(rows[-1])
                assert key is not None  # noqa: S101 - it has just been read
                cursor = self.loader.encode_key(key)
            # A page may be short because a join returned rows twice: only an empty one is the end.
            yield Page(rows, cursor, not rows)

    def _after(self, key: Any) -> Any:
        from sqlalchemy import and_, false, or_

        parts: tuple[Any, ...] = cast("tuple[object, ...]", key) if isinstance(key, tuple) else (key,)
        next_cursor: Any = false()
        for column, part in zip(reversed(self.columns), reversed(parts), strict=True):
            next_cursor = or_(column > part, and_(column == part, next_cursor))
        return next_cursor


def _is_set(clause: Any) -> bool:
    # SQL expressions have no truth value; a tuple of clauses is empty if there is none.
    return bool(cast("object", clause)) if isinstance(clause, (bool, tuple)) else clause is not None


def encode_cursor(cursor: Any) -> Any:
    """Return a cursor as JSON.

    Raises:
        NotSerializable: Its type is not supported.
    """
    if isinstance(cursor, tuple):
        return [encode_cursor(part) for part in cast("tuple[object, ...]", cursor)]
    for plain in (int, str, float):
        if type(cursor) is plain:
            return codec_of(plain).encode(cursor)
    for tag, cls in TAGGED.items():
        if type(cursor) is cls:
            return {tag: codec_of(cls).encode(cursor)}
    raise NotSerializable(f"is of type {type(cursor).__name__}; expected {CURSOR_TYPES}")


def decode_cursor(stored: Any) -> Any:
    """Return the cursor that `encode_cursor` encoded; None for None.

    Raises:
        InvalidValue: The value is not an encoded cursor.
    """
    if isinstance(stored, list):
        return tuple(decode_cursor(part) for part in cast("list[object]", stored))
    if isinstance(stored, dict):
        for tag, text in cast("dict[str, Any]", stored).items():
            if tag in TAGGED:
                return codec_of(TAGGED[tag]).decode(text)
        raise InvalidValue(())
    return stored
