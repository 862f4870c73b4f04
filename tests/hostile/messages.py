"""Hostile messages: valid messages of dexpy with changed parts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

RAW = (
    b"", b"\0", b"this is not json", b"null", b"5", b"[]", b'"text"', b"{}", b"\xff\xfe\x00", b"[" * 100_000,
    b'{"a":' * 100_000, b"NaN", b"1" * 5000, b'{"queue_name": "default"}', b"\x80\x04N.", b'{"options": 1e999}',
)  # fmt: skip
"""Bodies that are not messages."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**18, -(10**18), 2**63, 10**300, 1e308, float("nan"), float("inf"), "", " ", "x",
    "\0", "\ud800", "a\nb", "x" * 300, "../..", "op_none", [], [[]], [None], ["default"], {}, {"v": 1}, {"": {}},
    {"a": [{"b": [1]}]},
)  # fmt: skip
"""Values of every wrong type, and odd values of the right type."""

FIELDS = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")
KWARGS = ("class_name", "record_id", "trace", "params", "self")
OPTIONS = (
    "dexpy", "eta", "delay", "pipe_target", "pipe_ignore", "group_completion_uuid", "group_completion_callbacks",
    "on_failure", "on_success", "on_retry_exhausted", "redis_message_id", "retries", "max_retries", "min_backoff",
    "max_backoff", "time_limit", "max_age", "requeue_timestamp", "traceback", "throws", "notify_shutdown",
    "store_results", "result_ttl", "broker_priority",
)  # fmt: skip
FACTS = ("v", "id", "priority", "attempt", "counts", "looks", "unknown_since")


def valid(operation: str, record_id: str = "op_none", **parts: Any) -> dict[str, Any]:
    """Return a message for a record."""
    return {
        "queue_name": "default",
        "actor_name": "dexpy.RecordJob",
        "args": [],
        "kwargs": {"class_name": operation, "record_id": record_id, "trace": {"id": "t"}},
        "options": {"dexpy": {"v": 1}},
        "message_id": "m",
        "message_timestamp": 1,
        **parts,
    }


def direct(operation: str, **parts: Any) -> dict[str, Any]:
    """Return a message of a direct run."""
    kwargs = {"class_name": operation, "params": {}, "trace": {"id": "t"}}
    options = {"dexpy": {"v": 1, "id": "op_direct", "attempt": 1, "counts": {}}}
    return valid(operation, **{"actor_name": "dexpy.DirectJob", "kwargs": kwargs, "options": options, **parts})


def encoded(message: object) -> bytes:
    """Encode a message as JSON, with escaped surrogates and the literal NaN."""
    return json.dumps(message).encode()


def every(operation: str) -> Iterator[tuple[str, bytes]]:
    """Yield a description and a body for each odd value in each part of both kinds of messages."""
    for raw in RAW:
        yield f"raw {raw[:20]!r}", raw
    for message in (valid(operation), direct(operation)):
        for place in places(message):
            for value in ODD:
                yield f"{place} = {value!r}"[:100], encoded(changed(message, place, value))
            yield f"without {place}", encoded(without(message, place))


def mutated(random_: random.Random, operation: str) -> tuple[str, bytes]:
    """Return a random one, sometimes with several changes or a changed byte."""
    dice = random_.random()
    if dice < 0.05:
        raw = random_.choice(RAW)
        return f"raw {raw[:20]!r}", raw
    message = random_.choice((valid, direct))(operation)
    collected: list[str] = []
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        place = random_.choice(places(message))
        value = random_.choice((*ODD, "x" * random_.choice((10, 10_000, 2_000_000)), nested(random_.choice((5, 600)))))
        message = without(message, place) if random_.random() < 0.1 else changed(message, place, value)
        collected.append(f"{place} = {value!r}"[:60])
    body = encoded(message)
    if dice < 0.15 and body:
        at = random_.randrange(len(body))
        body = body[:at] + bytes([random_.randrange(256)]) + body[at + 1 :]
        collected.append(f"byte {at}")
    return ", ".join(collected), body


def nested(depth: int) -> Any:
    """Return nested lists of this depth."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def places(message: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the paths of the parts that can be changed, added or removed."""
    paths: list[tuple[str, ...]] = [(name,) for name in FIELDS]
    if isinstance(message.get("kwargs"), dict):
        paths += [("kwargs", name) for name in KWARGS]
    if isinstance(options := message.get("options"), dict):
        paths += [("options", name) for name in OPTIONS]
        if isinstance(options.get("dexpy"), dict):
            paths += [("options", "dexpy", name) for name in FACTS]
    return paths


def changed(message: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy with one value changed or added."""
    name, rest = place[0], place[1:]
    return {**message, name: changed(message[name], rest, value) if rest else value}


def without(message: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy with one value removed."""
    name, rest = place[0], place[1:]
    if rest:
        return {**message, name: without(message[name], rest)}
    return {key: value for key, value in message.items() if key != name}
