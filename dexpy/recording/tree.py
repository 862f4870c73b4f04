"""The tree of a trace: nested and background runs under those that started them, from one query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.recording.store import Store
from dexpy.recording.tables import records

MILLISECONDS = 13
"""Characters of an id that say when it was made: ``op_`` and ten digits."""

_COLUMNS = (
    "id",
    "name",
    "status",
    "failure",
    "error",
    "num_attempts",
    "parent_id",
    "actor_type",
    "actor_id",
    "created_at",
    "started_at",
    "completed_at",
)


@attrs.frozen(eq=False, repr=False)
class Node:
    """One recorded run and those that it started.

    Attributes:
        id: Of the run.
        operation: Its stable name.
        status: pending, running, done, failed or expired.
        failure: Why it did not end in `done`.
        error: Error code or exception class.
        attempts: How many there have been.
        parent_id: The run that started it; None for one that a program started.
        started_at: When its last attempt began.
        completed_at: When it ended.
        depth: How many runs are above it here.
        is_orphan: Whether the run that started it has no record, any more or at all.
        children: The runs that it started, the first one first.
    """

    id: str
    operation: str
    status: str
    failure: str | None
    error: str | None
    attempts: int
    parent_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    depth: int
    is_orphan: bool
    children: tuple[Node, ...]

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took; None while it has not ended."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()

    def walk(self) -> Iterator[Node]:
        """This run and all below it, each before those that it started."""
        waiting: list[Node] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children[::-1]

    def __repr__(self) -> str:
        return f"<Node {self.operation} {self.id} {self.status}, {len(self.children)} below>"


@attrs.frozen(eq=False, repr=False)
class Tree:
    """The recorded runs of one trace.

    Attributes:
        trace_id: Of the trace.
        actor: Who set it off, ``{"type": "user", "id": "7"}``, if anybody said.
        roots: The runs that nobody of them started, the first one first.
    """

    trace_id: str
    actor: Mapping[str, str | None] | None
    roots: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """Every run, each before those that it started."""
        for root in self.roots:
            yield from root.walk()

    def __len__(self) -> int:
        return sum(1 for _ in self.walk())

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain JSON; each run has its ``children``."""
        made: dict[str, dict[str, Any]] = {}
        for node in self.walk():
            made[node.id] = {
                "id": node.id,
                "operation": node.operation,
                "status": node.status,
                "failure": node.failure,
                "error": node.error,
                "attempts": node.attempts,
                "started_at": None if node.started_at is None else node.started_at.isoformat(),
                "completed_at": None if node.completed_at is None else node.completed_at.isoformat(),
                "children": [],
            }
        for node in self.walk():
            made[node.id]["children"] = [made[child.id] for child in node.children]
        return {
            "trace_id": self.trace_id,
            "actor": None if self.actor is None else dict(self.actor),
            "runs": [made[root.id] for root in self.roots],
        }

    def __str__(self) -> str:
        by = "" if self.actor is None else f" by {self.actor['type']} {self.actor['id'] or ''}".rstrip()
        return "\n".join([f"{self.trace_id}{by}", *_drawn(self.roots)])

    def __repr__(self) -> str:
        return f"<Tree {self.trace_id}, {len(self)} runs>"


def _drawn(roots: Sequence[Node]) -> Iterator[str]:
    waiting = [(root, "", root is roots[-1]) for root in reversed(roots)]
    while waiting:
        node, before, is_last = waiting.pop()
        yield f"{before}{'└─ ' if is_last else '├─ '}{_told(node)}"
        below = before + ("   " if is_last else "│  ")
        waiting += [(child, below, child is node.children[-1]) for child in reversed(node.children)]


def _told(node: Node) -> str:
    said = [node.operation, node.id, node.status]
    if node.failure is not None:
        said.append(f"({node.failure}{': ' + node.error if node.error else ''})")
    if node.seconds is not None:
        said.append(f"{node.seconds:.3f} s")
    if node.attempts > 1:
        said.append(f"attempt {node.attempts}")
    if node.is_orphan:
        said.append("(its parent has no record)")
    return " ".join(said)


def tree_of(store: Store, trace_id: str) -> Tree:
    """The tree of a trace, by one query; empty if no record is of it."""
    query = sa.select(*(records.c[name] for name in _COLUMNS)).where(records.c.trace_id == trace_id)
    # An id is of a millisecond; within it the row that was written first goes first.
    rows = sorted(store.rows(query), key=lambda row: (row.id[:MILLISECONDS], row.created_at, row.id))
    named = next((row for row in rows if row.actor_type is not None), None)
    actor = None if named is None else {"type": named.actor_type, "id": named.actor_id}
    return Tree(trace_id, actor, _grown(rows))


def _grown(rows: Sequence[Row[Any]]) -> tuple[Node, ...]:
    by_id = {row.id: row for row in rows}
    below: dict[str, list[str]] = {}
    for row in rows:
        below.setdefault(row.parent_id, []).append(row.id)
    depths: dict[str, int] = {}

    def reach(root: str) -> None:
        waiting = [(root, 0)]
        while waiting:
            run, depth = waiting.pop()
            if run not in depths:
                depths[run] = depth
                waiting += [(child, depth + 1) for child in below.get(run, ())]

    roots = [row.id for row in rows if row.parent_id not in by_id]
    for root in roots:
        reach(root)
    # What is left goes round in a circle, which only a changed row can: cut where it is oldest.
    for row in rows:
        if row.id not in depths:
            roots.append(row.id)
            reach(row.id)
    nodes: dict[str, Node] = {}
    for run in sorted(depths, key=lambda run: -depths[run]):
        depth = depths[run]
        children = (child for child in below.get(run, ()) if depths[child] == depth + 1)
        nodes[run] = _node(by_id[run], depth, is_orphan=depth == 0, children=_picked(nodes, children))
    return _picked(nodes, roots)


def _picked(nodes: Mapping[str, Node], ids: Iterable[str]) -> tuple[Node, ...]:
    return tuple(nodes[run] for run in ids)


def _node(row: Row[Any], depth: int, *, is_orphan: bool, children: tuple[Node, ...]) -> Node:
    return Node(
        row.id,
        row.name,
        row.status,
        row.failure,
        row.error,
        row.num_attempts,
        row.parent_id,
        row.started_at,
        row.completed_at,
        depth,
        is_orphan and row.parent_id is not None,
        children,
    )
