"""``dexpy worker``: runs worker processes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dexpy.cli.application import application_names, module_arguments
from dexpy.cli.dry_run import exit_after_dry_run
from dexpy.cli.setting_options import WORKER_KEYS, group_option, load_groups, setting_options
from dexpy.configuration.loading import Configuration, command_flags
from dexpy.configuration.values import DEFAULT
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

if TYPE_CHECKING:
    from dexpy.configuration.values import WorkerGroup

PRODUCTION = ("production", "prod", "live")
"""The names of environments in which `--reload` is a mistake."""
RELOAD_TIMEOUT_S = 5.0
"""The default of the shutdown timeout with `--reload`, in seconds."""


@click.command()
@module_arguments()
@setting_options(*WORKER_KEYS)
@group_option
@click.option("--burst", is_flag=True, help="Run all due operations, then exit.")
@click.option("--reload", is_flag=True, help="Restart the processes when a file changes; for development.")
@click.option("--dry-run", is_flag=True, help="Check everything and print what would run, without starting it.")
@click.option("-v", "--verbose", is_flag=True, help="Log more and show tracebacks.")
def worker(
    modules: tuple[str, ...], only_groups: tuple[str, ...], burst: bool, reload: bool, dry_run: bool, verbose: bool
) -> None:
    """Run background operations.

    MODULE is the dotted name of a module, as in `import`, that declares operations; it may call dexpy.configure().
    One MODULE or --app is required, unless the setting `app` names the application.
    """
    from dexpy.worker.importing import check_name
    from dexpy.worker.log_setup import complete_logging, set_up_logging
    from dexpy.worker.process import WorkerOptions
    from dexpy.worker.reloading import ReloadingSupervisor
    from dexpy.worker.supervisor import Supervisor

    for module in modules:
        check_name(module)
    if reload and burst:
        raise click.UsageError("--reload: cannot be combined with --burst. Remove one of them.")
    level = logging.DEBUG if verbose else logging.INFO

    def load() -> tuple[list[WorkerOptions], Path | None]:
        configuration, groups = load_groups(only_groups)
        names = worker_names(modules)
        options = [
            WorkerOptions(
                names,
                threads=group.threads,
                queues=group.queues,
                burst=burst,
                shutdown_timeout_s=_reload_timeout_s(group) if reload else group.shutdown_timeout_s,
                log_level=level,
                polling_interval_s=group.polling_interval_s,
                group=group.name or None,
                flags=command_flags.get(),
                log_format=configuration.get("log_format"),
                max_runs=group.max_runs,
                max_memory=group.max_memory,
                dump_signal=configuration.get("dump_signal"),
                reports_files=reload,
            )
            for group in groups
            for _ in range(group.processes)
        ]
        return options, configuration.file

    processes, _ = load()
    if dry_run:
        exit_after_dry_run(modules, only_groups, verbose=verbose)
    log_format = processes[0].log_format
    set_up_logging(level, log_format)
    complete_logging(level, log_format)
    configuration = Configuration.load()
    port: int | None = configuration.get("health.port")
    health = None if port is None else (configuration.get("health.host"), port)
    if not reload:
        sys.exit(Supervisor(processes, health).run())
    environment = configuration.environment
    is_production = environment.lower() in PRODUCTION
    advice = "remove --reload: it is for development" if is_production else None
    severity = logging.WARNING if is_production else logging.INFO
    log_event(LogEvent.RELOAD_ENABLED, severity, environment=environment, advice=advice)
    sys.exit(ReloadingSupervisor(load, health).run())


def _reload_timeout_s(group: WorkerGroup) -> float:
    """Return how long runs may continue before a restart: shorter by default, because a developer waits for it."""
    is_default = group.origins["workers.shutdown_timeout"] == DEFAULT
    return min(RELOAD_TIMEOUT_S, group.shutdown_timeout_s) if is_default else group.shutdown_timeout_s


def worker_names(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a worker loads.

    Args:
        modules: The arguments ``MODULE...``.

    Raises:
        UsageError: Neither an argument nor a setting names the application.
        StartupError: The configuration is invalid.
    """
    from dexpy.worker.importing import StartupError

    try:
        names = application_names(modules)
    except ConfigurationError as error:
        raise StartupError(str(error)) from None
    if not names:
        raise click.UsageError("Missing argument 'MODULE...'.")
    return names
