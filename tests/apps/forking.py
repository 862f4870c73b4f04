"""A program whose operations fork during their run; prints the result of each as a line of JSON.

Usage: python forking.py DATABASE_URL
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy import text

from dexpy import Lock, Operation, after, around, before, guard, records
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.testing import Isolated, isolated

HOWS = ("return", "raise", "exit", "os_exit")
children: list[int] = []


def fork_and(how: str) -> bool:
    """Fork; the child returns True, raises or exits. The parent waits until the child has ended, and returns False."""
    child = os.fork()
    if child:
        await_end(child)
        return False
    if how == "raise":
        raise ValueError("child")
    if how == "exit":
        sys.exit(3)
    if how == "os_exit":
        os._exit(4)
    return True


def await_end(child: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            children.append(os.waitstatus_to_exitcode(status))
            return
        time.sleep(0.005)
    children.append(-1)
    os.kill(child, 9)


class Forks(Operation):
    how: str

    def perform(self) -> str:
        return "child" if fork_and(self.how) else "parent"


class InTransaction(Operation):
    lock = Lock("how")
    how: str

    def perform(self) -> str:
        self.session.execute(text("SELECT 1"))
        if fork_and(self.how):
            return "child"
        self.session.execute(text("SELECT 1"))
        return "parent"


class InSavepoint(Operation):
    how: str

    def perform(self) -> str:
        with self.session.begin_nested():
            self.session.execute(text("SELECT 1"))
            if fork_and(self.how):
                return "child"
        self.session.execute(text("SELECT 1"))
        return "parent"


class Holds(Operation):
    """The child uses the session of its parent and exits at once."""

    how: str

    def perform(self) -> str:
        session = self.session
        session.execute(text("SELECT 1"))
        child = os.fork()
        if not child:
            session.execute(text("SELECT 1"))
            os._exit(0)
        await_end(child)
        session.execute(text("SELECT 1"))
        return "parent"


class InBlock(Operation):
    transaction = False
    how: str

    def perform(self) -> str:
        with self.transaction() as session:
            session.execute(text("SELECT 1"))
            if fork_and(self.how):
                return "child"
            session.execute(text("SELECT 1"))
        return "parent"


class InStep(Operation):
    how: str

    def work(self) -> str:
        self.session.execute(text("SELECT 1"))
        return "child" if fork_and(self.how) else "parent"

    def perform(self) -> str:
        return self.step(self.work)


class InHooks(Operation):
    how: str

    @guard("never")
    def refused(self) -> bool:
        fork_and(self.how)
        return False

    @before
    def begin(self) -> None:
        fork_and(self.how)

    @around
    def whole(self, proceed: Callable[[], None]) -> None:
        fork_and(self.how)
        proceed()
        fork_and(self.how)

    @after
    def end(self) -> None:
        fork_and(self.how)

    def perform(self) -> str:
        return "parent"


class InCoroutine(Operation):
    how: str

    async def perform(self) -> str:
        await asyncio.sleep(0)
        return "child" if fork_and(self.how) else "parent"


class InCoroutineThatAwaits(Operation):
    how: str

    async def perform(self) -> str:
        if fork_and(self.how):
            await asyncio.sleep(0)
            return "child"
        await asyncio.sleep(0)
        return "parent"


class InTask(Operation):
    how: str

    async def perform(self) -> str:
        async def part() -> str:
            return "child" if fork_and(self.how) else "parent"

        return await asyncio.create_task(part())


class InSession(Operation):
    how: str

    async def perform(self) -> str:
        return await self.in_session(lambda _session: "child" if fork_and(self.how) else "parent")


class InThread(Operation):
    how: str

    def perform(self) -> str:
        def work() -> None:
            with contextlib.suppress(ValueError):
                fork_and(self.how)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "parent"


class Inside(Operation):
    how: str

    def perform(self) -> str:
        return InTransaction(how=self.how).call()


class Asks(Operation):
    """The child uses the session of its parent, and the error of that ends the child's run."""

    how: str

    def perform(self) -> str:
        self.session.execute(text("SELECT 1"))
        child = os.fork()
        if not child:
            self.session.execute(text("SELECT 1"))
        await_end(child)
        self.session.execute(text("SELECT 1"))
        return "parent"


class Calls(Operation):
    """A process of `multiprocessing` calls another operation with a separate session."""

    how: str

    def perform(self) -> str:
        self.session.execute(text("SELECT 1"))
        context = multiprocessing.get_context("fork")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=lambda: sending.send(Plain().call()))
        process.start()
        received: str = receiving.recv() if receiving.poll(10) else "nothing"
        process.join()
        self.session.execute(text("SELECT 1"))
        return "parent" if received == "plain" else received


class Plain(Operation):
    record = False

    def perform(self) -> str:
        self.session.execute(text("SELECT 1"))
        return "plain"


CASES: tuple[type[Operation], ...] = (
    Forks, InTransaction, InBlock, InStep, InHooks, InCoroutine, InCoroutineThatAwaits, InTask, InSession, InThread,
    Inside, Asks, Calls, InSavepoint, Holds,
)  # fmt: skip


def report(where: str, case: type[Operation], how: str, run: Callable[[], object]) -> None:
    """Call a function, and print its result, the exit statuses of its children and the current pid."""
    children.clear()
    before = records.all().count()
    try:
        result = run()
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    facts = {"where": where, "case": case.__name__, "how": how, "result": result, "children": list(children)}
    num_new = records.all().count() - before
    os.write(1, f"{json.dumps({**facts, 'written': num_new, 'pid': os.getpid()})}\n".encode())
    if os.getpid() != me:
        os._exit(99)


me = os.getpid()


def in_background(isolated_runtime: Isolated, operation: Operation) -> object:
    ticket = operation.async_().call()
    isolated_runtime.run_pending()
    return ticket.result(5)


if __name__ == "__main__":
    database = Database(sys.argv[1])
    with database.begin() as connection:
        schema.create(connection)
    database.dispose()
    with isolated(database=sys.argv[1]) as isolated_runtime:
        for case in CASES:
            for how in HOWS:
                operation = case(how=how)
                if how in ("return", "raise"):
                    report("in place", case, how, operation.call)
                report("background", case, how, partial(in_background, isolated_runtime, operation))
