"""The validator of messages, which checks each message before Dramatiq reads it, the same on every broker.

Other programs may write to a broker. A valid message has text where Dramatiq uses it as a key, is in the queue that
it names, and has no option that would make Dramatiq delay it, retry it or send another message. An invalid one goes
to the dead messages, without a retry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import dramatiq
from dramatiq.common import current_millis
from dramatiq.message import get_encoder
from dramatiq.middleware import SkipMessage

from dexpy.brokers.message_bounds import MAX_ID_LENGTH, is_count, is_number, valid_facts
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.throttle import LogThrottle
from dexpy.foundation.trace import MAX_NAME_LENGTH, is_name

DEAD_REASON = "dexpy_dead_reason"
"""The attribute of a dead message with the reason."""
MAX_BYTES = 16 * 2**20
"""The maximum size of a message, in bytes."""
MAX_DEPTH = 500
"""The maximum nesting of lists and objects."""
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""The end of the year 9999, in milliseconds since 1970."""
LONGEST_DELAY_MS = (7 * 24 + 1) * 3600 * 1000
"""Brokers delay a message for at most a week, by clocks that may differ."""
DELAY_SUFFIX = ".DQ"
"""The suffix of a queue of delayed messages."""

FIELDS = frozenset({"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"})
RECORD_JOB = "dexpy.RecordJob"
DIRECT_JOB = "dexpy.DirectJob"
OWN_ACTORS = (RECORD_JOB, DIRECT_JOB)


def _is_moment(value: object) -> bool:
    return is_number(value) and 0 <= value <= MAX_TIMESTAMP_MS


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_name(value: object) -> bool:
    return is_name(value, MAX_NAME_LENGTH)


DRAMATIQ_OPTIONS: Mapping[str, Callable[[object], bool]] = {
    "broker_priority": lambda value: type(value) is int and 0 <= value <= 255,
    "delay": _is_moment,
    "eta": _is_moment,
    "group_completion_callbacks": lambda value: isinstance(value, list),
    "group_completion_uuid": _is_name,
    "max_age": _is_moment,
    "max_backoff": _is_moment,
    "max_retries": is_count,
    "min_backoff": _is_moment,
    "notify_shutdown": _is_flag,
    "on_failure": _is_name,
    "on_retry_exhausted": _is_name,
    "on_success": _is_name,
    "pipe_ignore": _is_flag,
    "pipe_target": lambda value: isinstance(value, dict),
    "redis_message_id": _is_name,
    "requeue_timestamp": _is_moment,
    "result_ttl": _is_moment,
    "retries": is_count,
    "store_results": _is_flag,
    "throws": lambda value: False,
    "time_limit": _is_moment,
    "traceback": lambda value: isinstance(value, str),
}
"""The options that Dramatiq and its middleware read, with their validators; dexpy uses none of them."""


class InvalidMessage(Exception):
    """An invalid message; the text states the reason, without values of the message."""


class MessageValidator:
    """Reads the messages of one broker.

    Args:
        broker: The broker whose actors are valid; without declared actors, any actor is.
    """

    def __init__(self, broker: dramatiq.Broker) -> None:
        self._broker = broker
        self._throttle = LogThrottle()
        self.refused: Counter[str] = Counter()
        """The number of refused messages by reason."""

    def read(self, data: bytes, queue: str, *, moves: bool = False) -> dramatiq.Message[Any]:
        """Decode and check a message.

        Args:
            data: The bytes of the message.
            queue: The queue that it was in.
            moves: Whether it may name another queue, and is then a message of *queue*.

        Raises:
            InvalidMessage: The message is invalid and must not reach Dramatiq.
        """
        if len(data) > MAX_BYTES:
            raise InvalidMessage(f"message: too large; at most {MAX_BYTES} bytes")
        try:
            fields = cast("object", get_encoder().decode(data))
        except Exception:  # noqa: BLE001 - each encoder has errors of its own, for depth and length too
            raise InvalidMessage("message: invalid encoding") from None
        if not isinstance(fields, dict):
            raise InvalidMessage("message: expected a JSON object")
        return self._checked(cast("dict[str, Any]", fields), queue, moves=moves)

    def check(self, fields: dict[str, Any]) -> dramatiq.Message[Any]:
        """Check a message that a broker of the application has already decoded; see `read`."""
        queue = fields["queue_name"]
        return self._checked(fields, queue.removesuffix(DELAY_SUFFIX) if isinstance(queue, str) else "", moves=True)

    def _checked(self, fields: dict[str, Any], queue: str, *, moves: bool) -> dramatiq.Message[Any]:
        if fields.keys() != FIELDS:
            raise InvalidMessage("message: expected exactly the fields of a Dramatiq message")
        for name in ("queue_name", "actor_name", "message_id"):
            if not is_name(fields[name], MAX_NAME_LENGTH):
                raise InvalidMessage(f"{name}: expected text of 1 to {MAX_NAME_LENGTH} printable characters")
        for name, kind in (("kwargs", dict), ("options", dict)):
            if not isinstance(fields[name], kind):
                raise InvalidMessage(f"{name}: expected an object")
        if not isinstance(fields["args"], (list, tuple)):
            raise InvalidMessage("args: expected a list")
        if not (type(fields["message_timestamp"]) is int and 0 <= fields["message_timestamp"] <= MAX_TIMESTAMP_MS):
            raise InvalidMessage("message_timestamp: expected milliseconds since 1970")
        if fields["queue_name"] != queue and not moves:
            raise InvalidMessage("queue_name: expected the name of the queue that the message is in")
        actors: Collection[str] = cast("Any", self._broker).actors
        if actors and fields["actor_name"] not in actors:
            raise InvalidMessage("actor_name: unknown actor")
        _check_depth([fields["args"], fields["kwargs"], fields["options"]])
        args = cast("list[Any]", fields["args"])
        options = self._options(fields, is_delayed=queue.endswith(DELAY_SUFFIX))
        return dramatiq.Message(
            queue_name=queue,
            actor_name=fields["actor_name"],
            args=tuple(args),
            kwargs=fields["kwargs"],
            options=options,
            message_id=fields["message_id"],
            message_timestamp=fields["message_timestamp"],
        )

    def _options(self, fields: dict[str, Any], *, is_delayed: bool) -> dict[str, Any]:
        options = {name: value for name, value in fields["options"].items() if value is not None}
        for name, value in options.items():
            if (is_valid := DRAMATIQ_OPTIONS.get(name)) is not None and not is_valid(value):
                raise InvalidMessage(f"options: invalid value of {name}")
        eta = options.get("eta")
        if (eta is not None) != is_delayed:
            raise InvalidMessage("options: expected eta exactly in the queue of delayed messages")
        if fields["actor_name"] not in OWN_ACTORS:
            return options
        if eta is not None and eta > current_millis() + LONGEST_DELAY_MS:
            raise InvalidMessage("options: eta is later than any broker delays a message")
        _check_job(fields["actor_name"], fields["args"], fields["kwargs"], options.get("dexpy", {}))
        # A message must not set retries, limits or follow-up messages.
        declared = self._broker.actor_options
        allowed = {
            name: value for name, value in options.items() if name not in DRAMATIQ_OPTIONS and name not in declared
        }
        if eta is not None:
            allowed["eta"] = eta
        return allowed | {"dexpy": valid_facts(options.get("dexpy", {}))}

    def refuse(self, error: InvalidMessage, queue: str, message_id: object, *, is_kept: bool = True) -> None:
        """Count an invalid message, and log its reason from time to time.

        Args:
            error: The reason.
            queue: The queue that it was in.
            message_id: The id of the message on the broker.
            is_kept: Whether the broker stores it as a dead message.
        """
        reason = str(error)
        self.refused[reason] += 1
        facts = {"queue": queue, "message_id": message_id, "reason": reason, "num_refused": self.refused[reason]}
        self._throttle.log(LogEvent.MESSAGE_REFUSED, reason, **facts, dead=is_kept)


class ValidationMiddleware(dramatiq.Middleware):
    """Checks the messages of an application's own broker, which passes them to Dramatiq itself."""

    def __init__(self, validator: MessageValidator) -> None:
        self._validator = validator

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Refuse an invalid message of dexpy's actors, and remove options that it must not set."""
        if message.actor_name not in OWN_ACTORS:
            return
        fields = dict(message.asdict())
        broker_options = {name: fields["options"][name] for name in ("redis_message_id",) if name in fields["options"]}
        fields["options"] = {name: value for name, value in fields["options"].items() if name != "eta"}
        try:
            checked = self._validator.check(fields)
        except InvalidMessage as error:
            self._validator.refuse(error, message.queue_name, message.message_id)
            message.fail()
            raise SkipMessage(str(error)) from None
        message.options.clear()
        message.options.update(checked.options | broker_options)


def _check_job(actor: str, args: Collection[Any], kwargs: Mapping[str, Any], facts: object) -> None:
    if args or "self" in kwargs:
        raise InvalidMessage("kwargs: expected exactly the kwargs of dexpy's actors, without args")
    if not is_name(kwargs.get("class_name"), MAX_NAME_LENGTH):
        raise InvalidMessage("class_name: expected the name of an operation")
    if not isinstance(kwargs.get("trace"), dict):
        raise InvalidMessage("trace: expected an object")
    if actor == RECORD_JOB and not is_name(kwargs.get("record_id"), MAX_ID_LENGTH):
        raise InvalidMessage("record_id: expected the id of a record")
    if actor == DIRECT_JOB and not isinstance(kwargs.get("params"), dict):
        raise InvalidMessage("params: expected an object")
    if not isinstance(facts, dict):
        raise InvalidMessage("options.dexpy: expected an object")
    fields = cast("dict[str, object]", facts)
    if not is_count(fields.get("v", 1)) or fields.get("v", 1) == 0:
        raise InvalidMessage("options.dexpy.v: expected the number of a message format")
    if "id" in fields and not is_name(fields["id"], MAX_ID_LENGTH):
        raise InvalidMessage("options.dexpy.id: expected the id of a run")


def _check_depth(values: list[Any]) -> None:
    """Refuse values that are too deep to be encoded again."""
    level = values
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(cast("dict[str, Any]", value).values())
            elif isinstance(value, (list, tuple)):
                below.extend(cast("list[Any]", value))
        if not below:
            return
        level = below
    raise InvalidMessage(f"message: nested too deep; at most {MAX_DEPTH} levels")


def mark_dead(message: Any, why: str) -> None:
    """Make the broker store the current message as dead when its actor returns, instead of acknowledging it."""
    setattr(message, DEAD_REASON, why)
    message.fail()
