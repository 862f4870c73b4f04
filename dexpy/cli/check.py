"""``dexpy check``: everything that would go wrong at a start, before the start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial

import click

from dexpy.foundation.errors import DexpyError

Finding = tuple[str, str | None]
"""What was looked at, and what is wrong with it, if anything."""


@click.command()
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
def check(modules: tuple[str, ...]) -> None:
    """Try the settings, the modules, the database and the broker; status 1 if one of them will not do.

    MODULE is a dotted name, as for `dexpy worker`.
    """
    failed = False
    for what, problem in findings(modules):
        failed = failed or problem is not None
        click.echo(f"{'ok  ' if problem is None else 'FAIL'} {what}{'' if problem is None else ': ' + problem}")
    sys.exit(1 if failed else 0)


def findings(modules: tuple[str, ...]) -> Iterator[Finding]:
    """Everything that is looked at, in the order in which one thing needs another."""
    from dexpy.background.worker import import_modules
    from dexpy.runtime import current_runtime

    for module in modules:
        yield _tried(f"module {module}", partial(import_modules, (module,)))
    settings = _tried("settings", current_runtime)
    yield settings
    if settings[1] is not None:
        return
    runtime = current_runtime()
    if runtime.is_recording:
        database = _tried(f"database {runtime.store.database.display}", runtime.store.prepare)
        yield database
        if database[1] is not None and runtime.carries_its_queue:
            # The same server once more would only be the same answer once more.
            return
    broker = _tried("broker", lambda: runtime.broker)
    if broker[1] is None:
        broker = _tried(_named(runtime.broker), lambda: _reach(runtime.broker))
    yield broker


def _named(broker: object) -> str:
    from dexpy.background.brokers.servers import display_of

    return display_of(broker).removeprefix("The ")


def _reach(broker: object) -> None:
    from dexpy.background.brokers.servers import check_reachable

    check_reachable(broker)


def _tried(what: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except DexpyError as error:
        return what, str(error)
    return what, None
