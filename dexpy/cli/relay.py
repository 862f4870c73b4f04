"""``dexpy relay``: a relay alone, without a worker."""

from __future__ import annotations

import logging
import signal
import sys
import threading

import click

from dexpy.foundation.errors import ConfigurationError


@click.command()
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--once", is_flag=True, help="Look once, then end.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def relay(modules: tuple[str, ...], once: bool, verbose: bool) -> None:
    """See to what has no message, lost its worker, or came too late; every worker does that too.

    MODULE is a dotted name, as for `dexpy worker`: it may call dexpy.configure(), and its classes say how long
    to wait before a lost run begins again.
    """
    from dexpy.background import relay as relays
    from dexpy.background.rounds import Round
    from dexpy.background.worker import import_modules, set_up_logging
    from dexpy.runtime import current_runtime

    set_up_logging(logging.DEBUG if verbose else logging.INFO)
    import_modules(modules)
    runtime = current_runtime()
    dispatcher = runtime.dispatcher
    if dispatcher.store is None or dispatcher.heart is None:
        raise ConfigurationError(
            "A relay looks after records, and none are kept: a broker is named and no database. "
            "Name it: DEXPY_DATABASE, or configure(database=...)."
        )
    dispatcher.prepare()
    found = relays.Relay(dispatcher, dispatcher.heart, runtime.pace)
    if once:
        went_well = all([found.look_after(), found.send()])
        dispatcher.close()
        click.echo(", ".join(f"{found.counts[deed]} {deed}" for deed in relays.DEEDS) + ".")
        sys.exit(0 if went_well else 1)
    # From now on its database sessions are known as its own, and can be ended if it freezes in the middle of a rescue.
    dispatcher.heart.begin()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    rounds = (Round("relay", runtime.pace.look_every_s, found.look_after), Round("send", relays.EVERY_S, found.send))
    threads = [threading.Thread(target=one.repeat, args=(stop,), name=f"dexpy-{one.name}") for one in rounds]
    for thread in threads:
        thread.start()
    click.echo("The relay runs; TERM or Ctrl-C ends it.", err=True)
    for thread in threads:
        thread.join()
    dispatcher.close()
