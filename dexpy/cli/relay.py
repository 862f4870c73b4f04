"""``dexpy relay``: runs a relay without a worker."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

import click

from dexpy.cli.application import load, module_arguments
from dexpy.cli.setting_options import RUNTIME_KEYS, setting_options
from dexpy.configuration.loading import Configuration
from dexpy.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from dexpy.maintenance.pruning import Pruning

POLL_EVERY_S = 0.1
"""How often it checks whether to stop, in seconds."""


@click.command()
@module_arguments()
@click.option("--once", is_flag=True, help="Run every task once, then exit.")
@setting_options(*RUNTIME_KEYS)
@click.option("-v", "--verbose", is_flag=True, help="Log more and show tracebacks.")
def relay(modules: tuple[str, ...], once: bool, verbose: bool) -> None:
    """Run a relay without a worker.

    It publishes records without a message, recovers the runs of dead workers, expires overdue runs, deletes old records
    and enqueues the ticks of recurring tasks, as every worker does too.

    MODULE is a dotted name, as for `dexpy worker`: it may call dexpy.configure(), and its operations define the
    delay before a lost run is retried.
    """
    from dexpy.foundation.periodic import PeriodicTask, end_all
    from dexpy.maintenance import relay as relays
    from dexpy.worker.log_setup import complete_logging, set_up_logging
    from dexpy.worker.signals import StopSignals

    level = logging.DEBUG if verbose else logging.INFO
    log_format = Configuration.load().get("log_format")
    set_up_logging(level, log_format)
    runtime = load(modules)
    complete_logging(level, log_format)
    services = runtime.start()
    dispatcher, recorded = services.dispatcher, services.recorded
    if recorded is None:
        raise ConfigurationError(
            "database: not configured; the settings have only a broker, so there are no records to process. "
            "Set DEXPY_DATABASE, or call configure(database=...)."
        )
    dispatcher.require_tables()
    relay_service = recorded.relay
    if once:
        steps = (relay_service.run_once, recorded.recurring.run_once, relay_service.publish_unpublished)
        results = [step() for step in steps]
        if services.hook_runner is not None:
            services.hook_runner.run_all()
        # Last: an error of the deletion, or a long one, delays no run.
        if recorded.prunes:
            results.append(prune_once(recorded.pruning))
        all_succeeded = all(results)
        services.close()
        click.echo(", ".join(f"{relay_service.counts[counter]} {counter}" for counter in relays.COUNTERS) + ".")
        sys.exit(0 if all_succeeded else 1)
    # From here on its database sessions have its id, so that others can end them if it freezes.
    recorded.heartbeat.start()
    signals = StopSignals(interrupts=True)
    signals.install()
    interval_s = runtime.settings.configuration.get("relay.interval")
    tasks = [
        PeriodicTask("relay", runtime.intervals.recovery_interval_s, relay_service.run_once),
        PeriodicTask("send", interval_s, relay_service.publish_unpublished),
        recorded.recurring.periodic_task(),
    ]
    tasks.append(recorded.pruning.rules_task(is_worker=False))
    if recorded.prunes:
        tasks.append(recorded.pruning.periodic_task())
    if services.hook_runner is not None:
        tasks.append(services.hook_runner.periodic_task())
    threads = [task.start() for task in tasks]
    click.echo("The relay is running; stop it with TERM or Ctrl-C.", err=True)
    while not signals:
        time.sleep(POLL_EVERY_S)
        # A library may have replaced the signal handlers since.
        signals.install()
    end_all(threads)
    services.close()


def prune_once(pruning: Pruning) -> bool:
    """Delete old records; return whether that succeeded, and log an error."""
    from dexpy.foundation.log_catalog import LogEvent
    from dexpy.foundation.log_events import log_event
    from dexpy.foundation.redaction import class_path

    try:
        pruning.run_round()
    except Exception as error:  # noqa: BLE001 - the exit status states it
        log_event(LogEvent.TASK_FAILED, task="prune", error=class_path(error))
        return False
    return True
