"""Keys, tokens and slots that were stored under earlier names of a class and of its props."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from servers import database
from sqlalchemy.orm import Session

import dexpy
from dexpy import Concurrency, Lock, Once, Operation, Unique, defer, deferrable, enqueue_all, prop, records
from dexpy.declaration.key_digests import concurrency_key, lock_key
from dexpy.testing import Isolated, isolated

runs: list[Any] = []


def declare(name: str, aliases: Sequence[str] = (), props: Sequence[str] = ("shop",), **policies: Any) -> type[Any]:
    """Declare one version of the class; `props` are the current name of its prop and its earlier names."""
    now, *before = props

    def perform(self: Any) -> int:
        runs.append(getattr(self, now))
        return int(getattr(self, now))

    body = {
        "__annotations__": {now: int, "note": str},
        "__module__": __name__,
        "__qualname__": "Sync",
        now: prop(aliases=before),
        "note": prop(default=""),
        "perform": perform,
        **policies,
    }
    return types.new_class(
        "Sync", (Operation,), {"name": name, "aliases": tuple(aliases)}, lambda namespace: namespace.update(body)
    )


OLD, NEW = {"name": "sync"}, {"name": "sync2", "aliases": ("sync",)}
RENAMED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (OLD, NEW),
    ({"name": "sync", "props": ("shop",)}, {"name": "sync", "props": ("shop_id", "shop")}),
    ({**OLD, "props": ("shop",)}, {**NEW, "props": ("shop_id", "shop")}),
    (NEW, {"name": "sync3", "aliases": ("sync", "sync2")}),
    (NEW, {"name": "sync3", "aliases": ("sync2", "sync")}),
    ({"name": "sync2"}, {"name": "sync3", "aliases": ("sync", "sync2")}),
    ({"name": "sync2"}, NEW),
    (
        {"name": "sync", "props": ("shop_id", "shop")},
        {"name": "sync", "props": ("shop_no", "shop_id", "shop")},
    ),
]
IDS = ["class", "prop", "both", "twice", "newest first", "the middle one", "an alias that came later", "prop twice"]
KINDS = [
    *((old, new, "named") for old, new in RENAMED),
    *((old, new, "all") for old, new in (*RENAMED[:3], RENAMED[-1])),
    *((*RENAMED[2], kind) for kind in ("template", "function")),
]


@pytest.fixture
def isolated_runtime(isolated_runtime: Isolated) -> Isolated:
    runs.clear()
    return isolated_runtime


def build(cls: type[Any], shop: int = 1) -> Any:
    return cls(**{cls.contract.props[0].name: shop})


def rule(policy: type[Any], version: dict[str, Any], kind: str) -> Any:
    name = version.get("props", ("shop",))[0]
    by: tuple[Any, ...] = {"named": (name,), "all": (), "template": (), "function": (lambda op: getattr(op, name),)}[
        kind
    ]
    options = {"template": f"shop:{{{name}}}"} if kind == "template" else {}
    return policy(*by, **options)


@pytest.mark.parametrize(("old", "new", "kind"), KINDS)
def test_l9_a_unique_key_is_found_under_earlier_names(
    isolated_runtime: Isolated, old: dict[str, Any], new: dict[str, Any], kind: str
) -> None:
    first = build(declare(**old, unique=rule(Unique, old, kind))).async_().call()
    cls = declare(**new, unique=rule(Unique, new, kind))
    second = build(cls).async_().call()
    assert (second.duplicate, second.id) == (True, first.id)
    assert [ticket.duplicate for ticket in enqueue_all([build(cls, 2), build(cls), build(cls, 2)])] == [
        False,
        True,
        True,
    ]
    explained = cls.explain(**{cls.contract.props[0].name: 1}).unique
    assert explained["held_by"] == first.id
    isolated_runtime.run_pending()
    assert sorted(runs) == [1, 2]
    assert not build(cls).async_().call().duplicate


@pytest.mark.parametrize(("old", "new", "kind"), KINDS)
def test_l9_an_idempotency_key_is_found_under_earlier_names(
    isolated_runtime: Isolated, old: dict[str, Any], new: dict[str, Any], kind: str
) -> None:
    assert build(declare(**old, once=rule(Once, old, kind))).call() == 1
    cls = declare(**new, once=rule(Once, new, kind))
    assert build(cls).call() == 1
    assert build(cls).async_().call().duplicate
    assert runs == [1]
    name = cls.contract.props[0].name
    assert cls.explain(**{name: 1}).once["status"] == "exists"
    assert cls.clear_once(**{name: 1})
    assert build(cls).call() == 1
    assert runs == [1, 1]


@pytest.mark.parametrize(("old", "new"), RENAMED, ids=IDS)
def test_l9_an_explicit_key_and_a_token_are_found_under_earlier_names(
    isolated_runtime: Isolated, old: dict[str, Any], new: dict[str, Any]
) -> None:
    cls = declare(**old)
    build(cls).once("k").call()
    token = build(cls).async_(idempotence_token="t").call()
    cls = declare(**new)
    build(cls).once("k").call()
    assert runs == [1]
    again = build(cls).async_(idempotence_token="t").call()
    assert (again.duplicate, again.id) == (True, token.id)
    assert not build(cls).async_(idempotence_token="u").call().duplicate
    assert cls.clear_once("k")


@pytest.mark.parametrize("scope", [{"until": "started"}, {"until": "finished"}, {"for_": 60}], ids=str)
@pytest.mark.parametrize("on_conflict", ["ticket", "skip", "raise", "replace"])
@pytest.mark.parametrize("new", [NEW, {"name": "sync3", "aliases": ("sync2", "sync")}], ids=["unique index", "query"])
def test_l9_every_scope_and_conflict_of_unique_works_under_earlier_names(
    isolated_runtime: Isolated, scope: dict[str, Any], on_conflict: Any, new: dict[str, Any]
) -> None:
    first = build(declare(**OLD, unique=Unique("shop", **scope))).async_().call()
    cls = declare(**new, unique=Unique("shop", on_conflict=on_conflict, **scope))
    if on_conflict == "raise":
        with pytest.raises(dexpy.errors.NotUnique):
            build(cls).async_().call()
    else:
        second = build(cls).async_().call()
        assert second.duplicate is (on_conflict != "replace")
        assert first.reload().status == ("cancelled" if on_conflict == "replace" else "pending")
    isolated_runtime.run_pending()
    assert runs == [1]
    if "for_" in scope and on_conflict == "ticket":
        assert build(cls).async_().call().duplicate
        isolated_runtime.advance(61)
        assert not build(cls).async_().call().duplicate


def test_l9_an_expired_key_is_free_under_earlier_names(isolated_runtime: Isolated) -> None:
    build(declare(**OLD, once=Once("shop", expires_in=60))).call()
    cls = declare("sync3", ("sync2", "sync"), once=Once("shop", expires_in=60))
    build(cls).call()
    isolated_runtime.advance(61)
    build(cls).call()
    assert runs == [1, 1]
    isolated_runtime.advance(61)
    assert not build(cls).async_().call().duplicate


@pytest.mark.parametrize(("old", "new"), RENAMED[:4], ids=IDS[:4])
def test_l9_slots_and_locks_are_shared_with_earlier_names(
    isolated_runtime: Isolated, old: dict[str, Any], new: dict[str, Any]
) -> None:
    keys = []
    for version in (old, new):
        name = version.get("props", ("shop",))[0]
        cls = declare(**version, concurrency=Concurrency(1, name), lock=Lock(name))
        whole = declare(**version, concurrency=Concurrency(1), lock=Lock())
        for one in (cls, whole):
            operation = build(one)
            keys.append((concurrency_key(operation, one.contract), lock_key(operation, one.contract)))
    assert keys[:2] == keys[2:]


def test_l9_deferred_calls_keep_their_tokens(isolated_runtime: Isolated) -> None:
    def remind(order: int) -> None:
        runs.append(order)

    remind.__qualname__ = "remind"
    later = defer.with_options(idempotence_token="t")
    first = later(deferrable(remind, name="remind", unique=Unique("order")), order=1)

    def renamed(order: int) -> None:
        runs.append(order)

    renamed.__qualname__ = "remind"
    target = deferrable(renamed, name="reminder", aliases=("remind",), unique=Unique("order"))
    assert later(target, order=2).id == first.id
    assert defer(target, order=1).id == first.id
    isolated_runtime.run_pending()
    assert runs == [1]


def test_l9_a_class_without_aliases_makes_no_extra_query(isolated_runtime: Isolated) -> None:
    cls = declare("sync", unique=Unique("shop"))
    build(cls).async_().call()
    statements: list[str] = []
    engine = isolated_runtime.runtime.store.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    build(cls, 2).async_().call()
    assert not [text for text in statements if "unique_key" in text and text.startswith("SELECT")]


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize("new", [NEW, {"name": "sync3", "aliases": ("sync2", "sync")}], ids=["unique index", "query"])
def test_l9_keys_are_found_under_earlier_names_on_servers(kind: str, tmp_path: Path, new: dict[str, Any]) -> None:
    runs.clear()
    with database(kind, tmp_path) as url:
        runtime = dexpy.configure(database=url, create_tables=True)
        assert records.all().count() == 0
        runtime.close()
        with isolated(database=url) as isolated_runtime:
            first = build(declare(**OLD, unique=Unique("shop"), once=Once("shop"))).async_(idempotence_token="t").call()
            cls = declare(**new, unique=Unique("shop"), once=Once("shop"))
            with Session(isolated_runtime.runtime.store.database.engine) as session:
                assert build(cls).async_(session=session).call().id == first.id
                session.commit()
            assert build(cls).once(None).async_().call().id == first.id
            isolated_runtime.run_pending()
            assert build(cls).call() == 1
            assert runs == [1]
