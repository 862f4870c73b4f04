"""``dexpy relay``: a relay alone, without a worker."""

from __future__ import annotations

import logging
import sys
import time

import click

from dexpy.cli.application import load, module_arguments
from dexpy.foundation.errors import ConfigurationError

POLL_EVERY_S = 0.1
"""How often it checks whether to stop, in seconds."""


@click.command()
@module_arguments()
@click.option("--once", is_flag=True, help="Look once, then end.")
@click.option("-v", "--verbose", is_flag=True, help="Log more, and show tracebacks.")
def relay(modules: tuple[str, ...], once: bool, verbose: bool) -> None:
    """See to what has no message, lost its worker, or came too late; every worker does that too.

    MODULE is a dotted name, as for `dexpy worker`: it may call dexpy.configure(), and its classes say how long
    to wait before a lost run begins again.
    """
    from dexpy.foundation.periodic import PeriodicTask, end_all
    from dexpy.maintenance import relay as relays
    from dexpy.worker.log_setup import complete_logging, set_up_logging
    from dexpy.worker.signals import StopSignals

    level = logging.DEBUG if verbose else logging.INFO
    set_up_logging(level)
    runtime = load(modules)
    complete_logging(level)
    services = runtime.start()
    dispatcher, recorded = services.dispatcher, services.recorded
    if recorded is None:
        raise ConfigurationError(
            "A relay looks after records, and none are kept: a broker is named and no database. "
            "Name it: DEXPY_DATABASE, or configure(database=...)."
        )
    dispatcher.require_tables()
    relay_service = recorded.relay
    if once:
        all_succeeded = all([relay_service.run_once(), relay_service.publish_unpublished()])
        services.close()
        click.echo(", ".join(f"{relay_service.counts[counter]} {counter}" for counter in relays.COUNTERS) + ".")
        sys.exit(0 if all_succeeded else 1)
    # From here on its database sessions carry its id, and can be ended if it freezes during a recovery.
    recorded.heartbeat.start()
    signals = StopSignals(interrupts=True)
    signals.install()
    tasks = (
        PeriodicTask("relay", runtime.intervals.recovery_interval_s, relay_service.run_once),
        PeriodicTask("send", relays.EVERY_S, relay_service.publish_unpublished),
    )
    threads = [task.start() for task in tasks]
    click.echo("The relay runs; TERM or Ctrl-C ends it.", err=True)
    while not signals:
        time.sleep(POLL_EVERY_S)
        # A library may have replaced the signal handlers since.
        signals.install()
    end_all(threads)
    services.close()
