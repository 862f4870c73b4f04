"""The tree of a trace: its runs under the runs that started them, from one query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.database.tables import records
from dexpy.foundation.safe_text import is_plain_text
from dexpy.recording.store import Store

MILLISECONDS = 13
"""The length of the prefix of an id that contains its time: ``op_`` and ten digits."""

_UNKNOWN = datetime.min.replace(tzinfo=timezone.utc)
"""The time of a row with an unreadable timestamp."""

MOST_NESTED = 50
"""The deepest level that is indented in text, and nested in JSON."""

_COLUMNS = (
    "id",
    "operation",
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
    """One recorded run and the runs that it started.

    Attributes:
        id: The id of the run.
        operation: The operation's stable name.
        status: pending, running, done, failed, expired or cancelled.
        failure: The reason why it did not end in `done`.
        error: The error code or exception class.
        attempts: The number of attempts so far.
        parent_id: The id of the run that started it, or None.
        started_at: The time when its last attempt started.
        completed_at: The time when it ended.
        depth: The number of its ancestors in the tree.
        is_orphan: Whether the run that started it has no record.
        children: The runs that it started, the oldest first.
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
        """The duration of its last attempt, in seconds; None before its end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()

    def walk(self) -> Iterator[Node]:
        """Iterate over this run and its descendants, parents first."""
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children[::-1]

    def __repr__(self) -> str:
        return f"<Node {self.operation} {self.id} {self.status}, {len(self.children)} below>"


@attrs.frozen(eq=False, repr=False)
class Tree:
    """The recorded runs of one trace.

    Attributes:
        trace_id: The id of the trace.
        actor: The actor of the trace, ``{"type": "user", "id": "7"}``, if any.
        roots: The runs without a parent in the tree, the oldest first.
    """

    trace_id: str
    actor: Mapping[str, str | None] | None
    roots: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """Iterate over all runs, parents first."""
        for root in self.roots:
            yield from root.walk()

    def __len__(self) -> int:
        return sum(1 for _ in self.walk())

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as plain JSON; each run has its ``children``.

        JSON encoders limit the depth, so runs below level 50 are in the list ``deeper`` instead, with their
        ``parent_id``. Other trees have no such list.
        """
        runs: dict[str, dict[str, Any]] = {}
        deeper: list[dict[str, Any]] = []
        for node in self.walk():
            runs[node.id] = {
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
            children = [runs[child.id] for child in node.children]
            if (node.depth + 1) % MOST_NESTED:
                runs[node.id]["children"] = children
            else:
                deeper += [{**run, "parent_id": node.id} for run in children]
                runs |= {run["id"]: run for run in deeper[len(deeper) - len(children) :]}
        return {
            "trace_id": self.trace_id,
            "actor": None if self.actor is None else dict(self.actor),
            "runs": [runs[root.id] for root in self.roots],
            **({"deeper": deeper} if deeper else {}),
        }

    def __str__(self) -> str:
        by = "" if self.actor is None else f" by {self.actor['type']} {self.actor['id'] or ''}".rstrip()
        return "\n".join([f"{self.trace_id}{by}", *_lines(self.roots)])

    def __repr__(self) -> str:
        return f"<Tree {self.trace_id}, {len(self)} runs>"


def _lines(roots: Sequence[Node]) -> Iterator[str]:
    stack = [(root, "", root is roots[-1]) for root in reversed(roots)]
    while stack:
        node, prefix, is_last = stack.pop()
        yield f"{prefix}{'└─ ' if is_last else '├─ '}{_label(node)}"
        child_prefix = prefix + ("   " if is_last else "│  ")
        if node.depth >= MOST_NESTED:
            # The indentation must not grow with the depth of the tree.
            child_prefix = f"{prefix[: 3 * MOST_NESTED]}[{node.depth + 1}] "
        stack += [(child, child_prefix, child is node.children[-1]) for child in reversed(node.children)]


def _label(node: Node) -> str:
    words = [node.operation, node.id, node.status]
    if node.failure is not None:
        words.append(f"({node.failure}{': ' + node.error if node.error else ''})")
    if node.seconds is not None:
        words.append(f"{node.seconds:.3f} s")
    if node.attempts > 1:
        words.append(f"attempt {node.attempts}")
    if node.is_orphan:
        words.append("(its parent has no record)")
    return " ".join(words)


def tree_of(store: Store, trace_id: str) -> Tree:
    """Return the tree of a trace by one query; it is empty if the trace has no records."""
    if not is_plain_text(trace_id):
        return Tree(trace_id, None, ())
    query = sa.select(*(records.c[name] for name in _COLUMNS)).where(records.c.trace_id == trace_id)
    # The time in an id is in milliseconds; within one, rows are ordered by their creation time.
    rows = sorted(store.rows(query), key=lambda row: (row.id[:MILLISECONDS], row.created_at or _UNKNOWN, row.id))
    with_actor = next((row for row in rows if row.actor_type is not None), None)
    actor = None if with_actor is None else {"type": with_actor.actor_type, "id": with_actor.actor_id}
    return Tree(trace_id, actor, _build_nodes(rows))


def _build_nodes(rows: Sequence[Row[Any]]) -> tuple[Node, ...]:
    by_id = {row.id: row for row in rows}
    children_of: dict[str, list[str]] = {}
    for row in rows:
        children_of.setdefault(row.parent_id, []).append(row.id)
    depths: dict[str, int] = {}

    def reach(root: str) -> None:
        stack = [(root, 0)]
        while stack:
            run, depth = stack.pop()
            if run not in depths:
                depths[run] = depth
                stack += [(child, depth + 1) for child in children_of.get(run, ())]

    roots = [row.id for row in rows if row.parent_id not in by_id]
    for root in roots:
        reach(root)
    # The remaining runs are in a cycle, which only a manipulated row can cause: its oldest run becomes a root.
    for row in rows:
        if row.id not in depths:
            roots.append(row.id)
            reach(row.id)
    nodes: dict[str, Node] = {}
    for run in sorted(depths, key=lambda run: -depths[run]):
        depth = depths[run]
        children = (child for child in children_of.get(run, ()) if depths[child] == depth + 1)
        nodes[run] = _node(by_id[run], depth, is_orphan=depth == 0, children=_nodes_by_id(nodes, children))
    return _nodes_by_id(nodes, roots)


def _nodes_by_id(nodes: Mapping[str, Node], ids: Iterable[str]) -> tuple[Node, ...]:
    return tuple(nodes[run] for run in ids)


def _node(row: Row[Any], depth: int, *, is_orphan: bool, children: tuple[Node, ...]) -> Node:
    return Node(
        row.id,
        row.operation,
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
