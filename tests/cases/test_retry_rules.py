"""Retry rules: their counters, their waits, and groups of exceptions."""

from __future__ import annotations

import asyncio
import builtins
import datetime as dt
import functools
import math
from collections.abc import Callable, Generator
from typing import Any

import pytest
import redis.exceptions
import sqlalchemy as sa

from dexpy import Error, Operation, Retry, WorkerLost, records
from dexpy.errors import DeclarationError
from dexpy.policies.options import delay_seconds
from dexpy.policies.retry import LONGEST_WAIT_S
from dexpy.testing import Isolated, isolated

reported_errors: list[BaseException] = []
"""The exceptions of the next attempts; when none is left, the run succeeds."""


def raise_next() -> str:
    if reported_errors:
        raise reported_errors.pop(0)
    return "done"


@pytest.fixture
def isolated_runtime() -> Generator[Isolated]:
    with isolated() as it:
        yield it


def record_after(isolated_runtime: Isolated, operation: Any, *errors: BaseException) -> records.Record:
    reported_errors[:] = errors
    ticket = operation.async_().call()
    isolated_runtime.run_pending()
    return records.get(ticket.id)


def due_in_s(isolated_runtime: Isolated, record: Any) -> float:
    remaining_s: float = (record.scheduled_at - dt.datetime.now(dt.timezone.utc)).total_seconds()
    return remaining_s


def exception_of(module: str, name: str) -> type[Exception]:
    return type(name, (Exception,), {"__module__": module})


ShopError, MailError = exception_of("shop", "Away"), exception_of("mail", "Away")
First, Second = exception_of("shop", "Twin"), exception_of("shop", "Twin")
Joined = exception_of("shop", "A|B")
A, B = exception_of("shop", "A"), exception_of("shop", "B")


# ------------------------------------------------------------------------------------------------ counters


class SyncStock(Operation, name="retries.sync_stock"):
    retry_on = (
        Retry(ConnectionError, attempts=3, wait=0),
        Retry(redis.exceptions.ConnectionError, attempts=3, wait=0),
        Retry(ShopError, attempts=3, wait=0),
        Retry(MailError, attempts=3, wait=0),
        Retry(First, attempts=3, wait=0),
        Retry(Second, attempts=3, wait=0),
        Retry(Joined, attempts=3, wait=0),
        Retry(A, B, attempts=3, wait=0),
        Retry(TimeoutError, attempts=3, wait=0),
        Retry("TimeoutError", attempts=3, wait=0),
        Retry("builtins.TimeoutError", attempts=3, wait=0),
    )

    def perform(self) -> str:
        return raise_next()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (builtins.ConnectionError("away"), redis.exceptions.ConnectionError("away")),
        (ShopError(), MailError()),
        (First(), Second()),
        (Joined(), A()),
        (TimeoutError(), Error("TimeoutError")),
        (TimeoutError(), Error("builtins.TimeoutError")),
    ],
    ids=["builtin and redis", "modules", "one name twice", "joined names", "class and code", "path and code"],
)
def test_q1_each_rule_counts_its_own_attempts(isolated_runtime: Isolated, one: Exception, other: Exception) -> None:
    record: Any = record_after(isolated_runtime, SyncStock(), one, one, other, other)

    assert (record.status, record.num_attempts) == ("done", 5)


def test_q1_the_causes_of_one_rule_are_counted_together(isolated_runtime: Isolated) -> None:
    record: Any = record_after(isolated_runtime, SyncStock(), A(), B(), A())

    assert (record.status, record.num_attempts, record.error) == ("failed", 3, "shop.A")


def test_q1_a_run_keeps_its_count_of_attempts_after_a_deploy() -> None:
    class SyncSlowly(Operation, name="retries.sync_slowly"):
        retry_on = (Retry(ShopError, attempts=3, wait=60, jitter=0), Retry(MailError, attempts=3, wait=0))
        __qualname__ = "SyncSlowly"

        def perform(self) -> str:
            return raise_next()

    with isolated() as isolated_runtime:
        reported_errors[:] = [ShopError()] * 3
        ticket = SyncSlowly().async_().call()
        isolated_runtime.run_pending()
        with isolated_runtime.runtime.store.begin() as connection:
            counts = connection.scalar(sa.select(records.table.c.retry_counts))
            assert list(counts) == ["shop.Away"]
            connection.execute(sa.update(records.table).values(retry_counts={"Away": 1}))
        for _ in range(2):
            isolated_runtime.advance(61)
            isolated_runtime.run_pending()

        assert (records.get(ticket.id).status, records.get(ticket.id).num_attempts) == ("failed", 3)


# --------------------------------------------------------------------------------------------------- waits

current: list[Any] = []


def returned(attempt: int) -> Any:
    """Return, call or raise the value that the test has set."""
    if isinstance(current[0], BaseException):
        raise current[0]
    return current[0](attempt) if callable(current[0]) else current[0]


class SyncOrders(Operation, name="retries.sync_orders"):
    retry_on = (Retry(ConnectionError, attempts=None, wait=returned),)

    def perform(self) -> str:
        return raise_next()


@pytest.mark.parametrize(
    "wait",
    [
        lambda n: dt.timedelta(seconds=5 ** (n + 14)),
        lambda n: dt.timedelta(seconds=5 ** (n + 24)),
        lambda n: 2.0 ** (n + 5000),
        dt.timedelta.max,
        math.inf,
        10**400,
        1e300,
    ],
    ids=["long", "no timedelta", "no float", "longest timedelta", "inf", "huge int", "huge float"],
)
def test_q4_a_wait_that_grows_too_large_is_capped(isolated_runtime: Isolated, wait: Any) -> None:
    current[:] = [wait]
    record: Any = record_after(isolated_runtime, SyncOrders(), ConnectionError("away"))

    assert (record.status, record.error) == ("pending", "ConnectionError")
    assert due_in_s(isolated_runtime, record) == pytest.approx(LONGEST_WAIT_S, abs=60)


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (math.nan, "expected 0 or more seconds, or a timedelta, got nan"),
        (-5, "got -5"),
        (-math.inf, "got -inf"),
        (dt.timedelta(seconds=-5), "got -5.0"),
        (None, "got NoneType"),
        (True, "got bool"),
        ("60", "got str"),
        (dt.datetime(2030, 1, 1), "got datetime"),
        (ValueError("no idea"), "ValueError: no idea"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (Error("busy"), "dexpy.errors.Error"),
        (SystemExit(3), "SystemExit: 3"),
    ],
    ids=repr,
)
def test_q4_an_error_in_a_wait_function_is_reported_beside_the_first_error(
    isolated_runtime: Isolated, wait: Any, expected: str
) -> None:
    current[:] = [wait]
    record: Any = record_after(isolated_runtime, SyncOrders(), ConnectionError("away" * 2000))

    assert (record.status, record.failure, record.error) == ("failed", "crash", "ConnectionError")
    assert record.error_message.startswith("awayaway")
    assert "wait function of the retry rule raised" in record.error_message
    assert expected in record.error_message


# ------------------------------------------------------------------------------------- waits from exceptions


class TooMany(Exception):
    def __init__(self, after: Any) -> None:
        super().__init__(after)
        self.after = after


class ByMethod:
    def __call__(self, attempt: int, error: TooMany) -> float:
        return float(error.after)

    def wait(self, attempt: int, error: TooMany) -> float:
        return float(error.after)


def with_factor(factor: int, attempt: int, error: TooMany) -> float:
    return float(factor * error.after)


WAITS: dict[str, Callable[..., Any]] = {
    "lambda": lambda n, error: error.after,
    "by position": lambda n, error, /: error.after,
    "default None": lambda n, error=None: error.after,
    "rest": lambda n, error, *rest, **named: error.after,
    "object": ByMethod(),
    "method": ByMethod().wait,
    "partial": functools.partial(with_factor, 1),
}


class ImportOrders(Operation, name="retries.import_orders"):
    way: str
    retry_on = (Retry(TooMany, "too_many", attempts=3, jitter=0, wait=lambda n, error: WAITS["lambda"](n, error)),)

    def perform(self) -> None:
        if self.way == "code":
            raise Error("too_many", "later", details={"after": 500})
        raise reported_errors.pop(0)


@pytest.mark.parametrize("way", WAITS)
def test_q5_a_wait_function_of_two_parameters_gets_the_exception(way: str) -> None:
    retry = Retry(TooMany, wait=WAITS[way], jitter=0)

    assert retry.wait_s(1, error=TooMany(500)) == 500
    assert retry.wait_s(1, error=ExceptionGroup("g", [TooMany(2), ExceptionGroup("h", [TooMany(500)])])) == 500


def test_q5_the_next_attempt_is_due_at_the_time_in_the_exception(isolated_runtime: Isolated) -> None:
    record: Any = record_after(isolated_runtime, ImportOrders(way="class"), TooMany(500))

    assert record.status == "pending"
    assert due_in_s(isolated_runtime, record) == pytest.approx(500, abs=30)


def test_q5_the_details_of_a_business_error_reach_the_wait_function(isolated_runtime: Isolated) -> None:
    class ByCode(Operation, name="retries.by_code"):
        retry_on = (Retry("too_many", attempts=3, jitter=0, wait=lambda n, error: error.details["after"]),)
        __qualname__ = "ByCode"

        def perform(self) -> None:
            raise Error("too_many", "later", details={"after": 500})

    record: Any = record_after(isolated_runtime, ByCode())

    assert record.status == "pending"
    assert due_in_s(isolated_runtime, record) == pytest.approx(500, abs=30)


@pytest.mark.parametrize(
    "wait",
    [
        lambda n: n * 7,
        lambda n, factor=7: n * factor,
        lambda *numbers: numbers[0] * 7,
        lambda n=1, /: n * 7,
        lambda n, *, factor=7: n * factor,
        functools.partial(lambda factor, n: n * factor, 7),
        (7).__mul__,
    ],
)
def test_q5_a_wait_function_of_one_parameter_gets_the_number(wait: Any) -> None:
    assert Retry(TooMany, wait=wait, jitter=0).wait_s(2, error=TooMany(500)) == 14


def test_q5_a_builtin_without_a_signature_gets_the_number() -> None:
    assert Retry(TooMany, wait=dt.timedelta, jitter=0).wait_s(2) == 2 * 24 * 3600


async def later(attempt: int) -> int:
    return attempt


@pytest.mark.parametrize(
    "wait",
    [
        lambda: 5,
        lambda a, b, c: 5,
        lambda a, *, error: 5,
        lambda *, error: 5,
        lambda **named: 5,
        later,
        functools.partial(lambda n: 5, 1),
    ],
)
def test_q5_any_other_signature_is_refused_at_the_declaration(wait: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^Retry\(wait=\.\.\.\): expected a "):
        Retry(TooMany, wait=wait)


def test_q5_a_rule_for_a_lost_worker_gets_the_exception() -> None:
    errors: list[object] = []
    Retry(WorkerLost, wait=lambda n, error: errors.append(error) or 0).wait_s(1, error=WorkerLost())

    assert isinstance(errors[0], WorkerLost)


def test_q5_options_of_a_call_refuse_values_that_only_a_function_may_return() -> None:
    with pytest.raises(ValueError, match="0 or more seconds"):
        delay_seconds(-1, "in_", "Op.async_(...)")


# -------------------------------------------------------------------------------------------------- groups


class RetryBoth(Operation, name="retries.retry_both"):
    retry_on = (
        Retry(ConnectionError, TimeoutError, attempts=3, wait=0),
        Retry(ShopError, attempts=2, wait=0),
        Retry("busy", "late", attempts=3, wait=0),
    )
    discard_on = (KeyError,)

    def perform(self) -> str:
        return raise_next()


class SyncBoth(RetryBoth, name="retries.sync_both"):
    rescue_from = {LookupError: "not_there"}


class SyncInTasks(Operation, name="retries.sync_in_tasks"):
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    async def perform(self) -> None:
        async def one() -> None:
            raise ConnectionError("away")

        async with asyncio.TaskGroup() as group:
            group.create_task(one())
            group.create_task(one())


def group_of(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", list(errors))


def test_q8_a_rule_matches_the_member_of_a_task_group_exception(isolated_runtime: Isolated) -> None:
    record: Any = record_after(isolated_runtime, SyncInTasks())

    assert (record.status, record.num_attempts, record.error) == ("failed", 3, "ExceptionGroup")
    assert "ConnectionError: away; ConnectionError: away" in record.error_message


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [
        ([group_of(group_of(group_of(ConnectionError("a"))))], 3),
        ([group_of(ConnectionError("a"), group_of(ConnectionResetError("b"), TimeoutError("c")))], 3),
        ([group_of(ConnectionError("a"), ValueError("b"))], 1),
        ([group_of(ConnectionError("a"), ShopError("b"))], 1),
        ([group_of(Error("busy"), Error("late"))], 3),
        ([group_of(Error("busy"), Error("other"))], 1),
        ([group_of(Error("busy"), ConnectionError("a"))], 1),
        ([group_of(KeyError("a"), KeyError("b"))], 1),
    ],
    ids=["deep", "kinds of one rule", "mixed", "two rules", "codes", "another code", "code and class", "discarded"],
)
def test_q8_a_rule_matches_a_group_if_all_members_match(isolated_runtime: Isolated, errors: Any, attempts: int) -> None:
    record: Any = record_after(isolated_runtime, RetryBoth(), *(errors * 3))

    assert (record.status, record.num_attempts) == ("failed", attempts)
    assert record.failure == ("discarded" if isinstance(errors[0].exceptions[0], KeyError) else "crash")


def test_q8_rescue_from_matches_the_member_of_a_group(isolated_runtime: Isolated) -> None:
    record: Any = record_after(isolated_runtime, SyncBoth(), group_of(KeyError("a"), group_of(IndexError("b"))))

    assert (record.status, record.failure, record.error) == ("failed", "business", "not_there")


def test_q8_a_rescue_function_receives_the_matching_member(isolated_runtime: Isolated) -> None:
    class Answer(Operation, name="retries.answer"):
        __qualname__ = "Answer"
        rescue_from = {TooMany: lambda operation, error: f"after {error.after}"}

        def perform(self) -> str:
            raise group_of(TooMany(1), TooMany(2))

    assert Answer().call() == "after 1"


def test_q8_a_rule_for_a_group_class_wins(isolated_runtime: Isolated) -> None:
    class Named(Operation, name="retries.named"):
        __qualname__ = "Named"
        discard_on = (ExceptionGroup,)
        retry_on = (Retry(ConnectionError, wait=0),)

        def perform(self) -> str:
            return raise_next()

    record: Any = record_after(isolated_runtime, Named(), group_of(ConnectionError("away")))
    assert (record.failure, record.num_attempts) == ("discarded", 1)


@pytest.mark.parametrize("depth", [1, 3])
def test_q8_a_group_with_only_a_business_error_is_that_business_error(isolated_runtime: Isolated, depth: int) -> None:
    class Refuse(Operation, name="retries.refuse"):
        __qualname__ = "Refuse"
        errors = {"no_stock": "Nothing is left."}

        def perform(self) -> str:
            return raise_next()

    error: Exception = Error("no_stock", details={"item": 7})
    for _ in range(depth):
        error = group_of(error)
    record: Any = record_after(isolated_runtime, Refuse(), error)
    assert (record.failure, record.error, record.error_message) == ("business", "no_stock", "Nothing is left.")
    assert record.error_details == {"item": 7}
    reported_errors[:] = [error]
    with pytest.raises(Error, match="Nothing is left") as refused:
        Refuse().call()
    assert refused.value.code == "no_stock"


@pytest.mark.parametrize(
    ("error", "error_name"),
    [
        (group_of(Error("one"), Error("two")), "ExceptionGroup"),
        (BaseExceptionGroup("b", [SystemExit(3), ValueError("x")]), "SystemExit"),
    ],
    ids=["two business errors", "an exit"],
)
def test_q8_a_group_with_other_members_ends_the_run_as_a_crash(
    isolated_runtime: Isolated, error: BaseException, error_name: str
) -> None:
    record: Any = record_after(isolated_runtime, SyncStock(), error)

    assert (record.status, record.failure, record.error) == ("failed", "crash", error_name)
    if error_name == "ExceptionGroup":
        assert "dexpy.errors.Error: one; dexpy.errors.Error: two" in record.error_message


def test_q8_the_message_of_a_large_group_names_its_first_members_and_the_number_of_the_others(
    isolated_runtime: Isolated,
) -> None:
    record: Any = record_after(
        isolated_runtime, SyncStock(), group_of(*(ValueError(str(number)) for number in range(5000)))
    )

    assert "ValueError: 0; ValueError: 1;" in record.error_message
    assert "and 4990 more" in record.error_message
