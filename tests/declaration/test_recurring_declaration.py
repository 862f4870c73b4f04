"""`schedule` in a class: what is accepted, and the message for each mistake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dexpy import Cron, Every, Operation, Recording, Recurring, deferrable, prop
from dexpy.declaration import registry
from dexpy.deferred.deferral import defer
from dexpy.foundation.errors import DeclarationError


class SyncInventory(Operation, name="shop.sync_inventory"):
    """Runs every 15 minutes."""

    shop: int = 1
    schedule = Every("15 minutes")

    def perform(self) -> int:
        return self.shop


class SyncMore(SyncInventory, name="shop.sync_more"):
    """Has no schedule of its own."""


@deferrable(name="shop.clean_up", schedule=Every("day at 3am", zone="Europe/Rome"))
def clean_up(days: int = 30) -> int:
    """Delete old rows."""
    return days


def declare(schedule: Any, **attributes: Any) -> Any:
    def perform(self: Any) -> None: ...

    namespace = {"__annotations__": {"shop": int}, "shop": 1, "perform": perform, "schedule": schedule, **attributes}
    return type("Sync", (Operation,), namespace)


def test_a_schedule_is_short_for_a_recurring_task_with_the_name_of_the_class_as_its_key() -> None:
    assert SyncInventory.contract.recurring == (Recurring(Every("15 minutes"), key="shop.sync_inventory"),)


def test_a_subclass_does_not_inherit_the_schedule() -> None:
    assert SyncMore.contract.recurring == ()
    assert SyncMore().call() == 1


def test_a_deferred_function_may_have_a_schedule() -> None:
    (task,) = defer.operation_of(clean_up).contract.recurring
    assert (task.key, task.schedule) == ("shop.clean_up", Every("day at 3am", zone="Europe/Rome"))
    assert clean_up() == 30


def test_a_list_is_stored_as_a_tuple() -> None:
    tasks = [Recurring(Every("hour"), key="a"), Recurring(Cron("0 3 * * *"), key="b", props={"shop": 2})]
    declared = declare(tasks)
    tasks.clear()
    assert [task.key for task in declared.contract.recurring] == ["a", "b"]


def test_props_of_a_task_cannot_be_changed_afterwards() -> None:
    props = {"shop": 2}
    (task,) = declare(Recurring(Every("hour"), props=props)).contract.recurring
    props["shop"] = 3
    assert dict(task.props) == {"shop": 2}
    with pytest.raises(TypeError):
        task.props["shop"] = 3


@pytest.mark.parametrize(
    ("schedule", "grace_s"),
    [("10 seconds", 10), ("minute", 60), ("hour", 300), ("day at 3am", 300), ("second", 1)],
)
def test_the_default_grace_is_the_interval_and_at_most_five_minutes(schedule: str, grace_s: float) -> None:
    assert Recurring(Every(schedule)).grace_s == grace_s
    assert Recurring(Every(schedule), grace=timedelta(hours=1)).grace_s == 3600


MISTAKES: list[tuple[Any, str]] = [
    ("every hour", r"schedule: expected Every\(...\), Cron\(...\), Recurring\(...\) .* got .every hour."),
    (Recurring("every hour"), r"Recurring\(...\): expected a schedule, got .every hour.. Write Recurring\(Every"),  # type: ignore[arg-type]
    ((Every("hour"), Every("day")), r"Every\('every hour'\) has no key, and there are several entries"),
    ([Recurring(Every("hour"), key="a"), Recurring(Every("day"), key="a")], "'a' is the key of several entries"),
    (Recurring(Every("hour"), key=""), "key='': expected a str of 1 to 255 characters"),
    (Recurring(Every("hour"), key="a\0b"), "expected a str of 1 to 255 characters, without NUL"),
    (Recurring(Every("hour"), props={"shpo": 1}), "unknown prop 'shpo'; expected one of 'shop'. Did you mean 'shop'"),
    (Recurring(Every("hour"), props={"shop": "x"}), "invalid props: shop: expected int, got str 'x'"),
    (Recurring(Every("hour"), props=[1]), r"props=\[1\]: expected a mapping"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), queue="a b"), "invalid queue name 'a b'"),
    (Recurring(Every("hour"), queue=len), "expected the name of a queue"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), priority=2**40), "priority=.*expected an int of 32 bits"),
    (Recurring(Every("hour"), grace=-1), "grace=-1: expected a finite delay"),
    (Recurring(Every("hour"), grace=0.5), "grace=0.5: expected at least 1 second"),
    (Recurring(Every("hour"), jitter="2m"), "jitter='2m': expected seconds or a timedelta"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), missed="all"), "missed='all': expected 'skip' or 'latest'"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), overlap=True), "overlap=True: expected 'allow' or 'skip'"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), max_waiting=5), "max_waiting=5: expected 1, or None"),  # type: ignore[arg-type]
    (Recurring(Every("hour"), run_at_start=1), "run_at_start=1: expected True or False"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("schedule", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_a_mistake_is_an_error_at_the_class(schedule: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(schedule)


def test_a_required_prop_without_a_value_is_an_error_at_the_class() -> None:
    with pytest.raises(DeclarationError, match=r"schedule \(.*\): 'day' has no default. Pass it: Recurring\(.*'day'"):

        class Report(Operation):
            day: int
            schedule = Every("day")

            def perform(self) -> None: ...


@pytest.mark.parametrize("record", [False, Recording(params=False)])
def test_a_class_whose_runs_have_no_record_cannot_recur(record: Any) -> None:
    with pytest.raises(DeclarationError, match="a recurring task requires a record"):
        declare(Every("hour"), record=record)


def test_the_message_for_an_invalid_sensitive_prop_hides_its_value() -> None:
    with pytest.raises(DeclarationError) as refused:

        class Login(Operation):
            token: int = prop(default=1, sensitive=True)
            schedule = Recurring(Every("hour"), props={"token": "hunter2"})

            def perform(self) -> None: ...

    assert "hunter2" not in str(refused.value)


class First(Operation, name="shop.first"):
    """Has the key that `test_two_classes_cannot_have_the_same_key` claims."""

    schedule = Recurring(Every("hour"), key="shared key")

    def perform(self) -> None: ...


def test_two_classes_cannot_have_the_same_key() -> None:
    # A class in a function is not registered, because no worker could import it.
    importable = type("Other", (), {"__module__": "shop.other"})
    with pytest.raises(DeclarationError, match="the key 'shared key' is already used by .*First"):
        registry.register(importable, ("shop.other",), (Recurring(Every("hour"), key="shared key"),))
    assert First in registry.scheduled_classes()
