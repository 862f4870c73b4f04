"""Tasks that are run again and again in a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import islice

import pytest

from dexpy.foundation.backoff import Backoff
from dexpy.foundation.periodic import PeriodicTask


class Work:
    """Notes when it is run; each run has the next of some results, the last one for ever."""

    def __init__(self, *results: bool | Exception) -> None:
        self.results = list(results)
        self.moments: list[float] = []
        self.reached = threading.Event()

    def until(self, count: int) -> Callable[[], bool]:
        """The run, which notes when it was done so often."""

        def run_once() -> bool:
            self.moments.append(time.monotonic())
            if len(self.moments) == count:
                self.reached.set()
            result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
            if isinstance(result, Exception):
                raise result
            return result

        return run_once

    @property
    def pauses_s(self) -> list[float]:
        """Between two runs each."""
        return [later - earlier for earlier, later in zip(self.moments, self.moments[1:], strict=False)]


def test_a_task_runs_at_once_and_periodically_until_it_is_stopped() -> None:
    work = Work(True)
    thread = PeriodicTask("test", 0.01, work.until(5)).start()
    assert thread.name == "dexpy-test"
    assert thread.daemon
    assert work.reached.wait(10)
    thread.end()
    assert not thread.is_alive()
    count = len(work.moments)
    time.sleep(0.05)
    assert len(work.moments) == count


def test_a_task_may_choose_each_pause() -> None:
    pauses = iter([0.01, 0.3, 0.01, 10.0])
    work = Work(True)
    thread = PeriodicTask("test", 60.0, work.until(4), pause_s=lambda: next(pauses)).start()
    assert work.reached.wait(10)
    thread.end()
    short, long, _ = work.pauses_s
    assert long >= 0.3 > short


def test_a_task_may_wait_before_its_first_run() -> None:
    work = Work(True)
    began = time.monotonic()
    thread = PeriodicTask("test", 0.1, work.until(1), waits_first=True).start()
    assert work.reached.wait(10)
    assert work.moments[0] - began >= 0.1
    thread.end()


def test_a_thread_that_is_stopped_in_its_first_wait_runs_nothing() -> None:
    work = Work(True)
    thread = PeriodicTask("test", 60.0, work.until(1), waits_first=True).start()
    thread.end()
    assert work.moments == []


def test_pauses_after_failures_are_those_of_the_backoff() -> None:
    work = Work(False, False, True)
    thread = PeriodicTask("test", 0.01, work.until(4), retry=Backoff(0.4, 0.8)).start()
    assert work.reached.wait(10)
    thread.end()
    first, second, after_success = work.pauses_s[:3]
    assert first >= 0.4
    assert second >= 0.8
    assert 0.01 <= after_success < 0.4


@pytest.mark.parametrize(("every_s", "pauses"), [(1.0, [1.0, 2.0, 4.0, 8.0, 10.0]), (60.0, [60.0] * 5)])
def test_pauses_after_failures_double_by_default(every_s: float, pauses: list[float]) -> None:
    task = PeriodicTask("test", every_s, lambda: False)
    assert list(islice(task.backoff, 5)) == pauses


def test_an_exception_is_logged_and_the_task_continues(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(ValueError("secret"), True)
    with caplog.at_level(logging.WARNING, logger="dexpy"):
        thread = PeriodicTask("test", 0.01, work.until(2), retry=Backoff(0.02, 0.02)).start()
        assert work.reached.wait(10)
        thread.end()
    (record,) = caplog.records
    message = record.getMessage()
    assert "task.failed task=test" in message
    assert "ValueError" in message
    assert "retry_in_s=0.02" in message
    assert "secret" not in message
