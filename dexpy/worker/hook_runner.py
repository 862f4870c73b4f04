"""`HookRunner`: calls the hooks of the application for the ends of runs, in every worker and relay.

Each call has a thread of its own, so that a hook that raises, exits or hangs affects no run and no other call.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import threading
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

import attrs

from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.run_end import Hook, RunEnd
from dexpy.foundation.throttle import LogThrottle
from dexpy.foundation.trace import trace
from dexpy.recording import hook_calls
from dexpy.recording.installed_hooks import ON_FAILURE
from dexpy.recording.store import Store

POLL_EVERY_S = 0.5
TIMEOUT_S = 10.0
"""How long a call may take, in seconds; afterwards it goes on, and the next call begins."""
LEASE_S = 60.0
"""The time after which another process makes a call that a process has begun, in seconds; more than `TIMEOUT_S`."""
MAX_CALLS = 3
"""How often the call for one end is begun, if the process dies during each."""
MAX_HANGING = 4
"""The number of hanging calls at which a process begins no further ones."""


@attrs.frozen(eq=False)
class _Call:
    """A call in its thread."""

    hook: str
    end: RunEnd
    thread: threading.Thread


class HookRunner:
    """Calls the hooks of the application.

    Args:
        store: The store of records; None when nothing is recorded.
        hooks: The hooks by name.
        redactor: Redacts the messages of their errors.
        timeout_s: How long a call may take, in seconds.
    """

    def __init__(
        self, store: Store | None, hooks: Mapping[str, Hook], redactor: Redactor, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._redactor = redactor
        self._timeout_s = timeout_s
        self._direct: queue.SimpleQueue[tuple[str, RunEnd]] = queue.SimpleQueue()
        self._hanging: list[_Call] = []
        self._is_more_due = False
        self._log_throttle = LogThrottle()

    def periodic_task(self) -> PeriodicTask:
        """Return the task that makes the calls that are due, one after the other."""
        return PeriodicTask(
            "hooks", POLL_EVERY_S, self.run_once, pause_s=lambda: 0.0 if self._is_more_due else POLL_EVERY_S
        )

    def run_once(self) -> bool:
        """Make the next call that is due.

        Returns:
            True; an error of the database is raised.
        """
        self._is_more_due = self._call_next()
        return True

    def run_all(self) -> None:
        """Make all calls that are due."""
        while self._call_next():
            pass

    def ended_directly(self, end: RunEnd) -> None:
        """Make the calls due for the end of a run without a record; without a database only in this process."""
        for hook in self._hooks:
            if hook == ON_FAILURE and end.failure is None:
                continue
            if self._store is None:
                self._direct.put((hook, end))
                continue
            with self._store.begin() as connection:
                hook_calls.store_call_of(connection, hook, end)

    def _call_next(self) -> bool:
        """Make the next call; return whether there was one."""
        if not self._hooks or self._is_blocked():
            return False
        with contextlib.suppress(queue.Empty):
            self._call(*self._direct.get_nowait())
            return True
        if self._store is None or not self._store.rows(hook_calls.any_due(self._hooks)):
            return False
        with self._store.begin() as connection:
            row = hook_calls.claim_call(connection, self._hooks, LEASE_S)
        if row is None:
            return False
        failpoint("hook_claimed")
        end = hook_calls.run_end_of(row)
        if end.call > MAX_CALLS:
            facts = {"hook": row.hook, "operation": end.operation, "run_id": end.run_id}
            log_event(LogEvent.HOOK_ABANDONED, **facts, count=MAX_CALLS)
        else:
            self._call(row.hook, end)
        with self._store.begin() as connection:
            hook_calls.delete_call(connection, row.id)
        return True

    def _is_blocked(self) -> bool:
        self._hanging = [call for call in self._hanging if call.thread.is_alive()]
        if len(self._hanging) < MAX_HANGING:
            return False
        facts = {"hook": self._hanging[0].hook, "count": len(self._hanging)}
        self._log_throttle.log(LogEvent.HOOKS_SUSPENDED, str(facts["hook"]), **facts)
        return True

    def _call(self, name: str, end: RunEnd) -> None:
        """Call a hook in a thread, and wait until it returns or times out."""
        arguments = (self._contained, name, end)
        thread = threading.Thread(target=Context().run, args=arguments, name=f"dexpy-{name}", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._hanging.append(_Call(name, end, thread))
            facts = {"hook": name, "operation": end.operation, "run_id": end.run_id}
            log_event(LogEvent.HOOK_TIMED_OUT, **facts, timeout_s=self._timeout_s)

    def _contained(self, name: str, end: RunEnd) -> None:
        try:
            with trace(trace_id=end.trace_id or None):
                _finished(self._hooks[name](end))
        except BaseException as error:  # noqa: BLE001 - SystemExit too: the hook is code of the application
            log_event(
                LogEvent.HOOK_FAILED,
                hook=name,
                operation=end.operation,
                run_id=end.run_id,
                error=class_path(error),
                error_message=self._redactor.of(error),
            )


def _finished(returned: Any) -> None:
    """Run what a coroutine function has returned."""
    if inspect.iscoroutine(returned):
        asyncio.run(returned)


ReportEnd = Callable[[RunEnd], None]
"""Makes the calls of hooks due for a run without a record."""
