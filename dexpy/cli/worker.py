"""``dexpy worker``: runs worker processes."""

from __future__ import annotations

import logging
import sys

import click

from dexpy.cli.application import application_names, module_arguments
from dexpy.cli.setting_options import WORKER_KEYS, group_option, load_groups, setting_options
from dexpy.configuration.loading import command_flags
from dexpy.foundation.errors import ConfigurationError


@click.command()
@module_arguments()
@setting_options(*WORKER_KEYS)
@group_option
@click.option("--burst", is_flag=True, help="Run all due operations, then exit.")
@click.option("-v", "--verbose", is_flag=True, help="Log more and show tracebacks.")
def worker(modules: tuple[str, ...], only_groups: tuple[str, ...], burst: bool, verbose: bool) -> None:
    """Run background operations.

    MODULE is the dotted name of a module, as in `import`, that declares operations; it may call dexpy.configure().
    One MODULE or --app is required, unless the setting `app` names the application.
    """
    from dexpy.worker.importing import check_name
    from dexpy.worker.log_setup import complete_logging, set_up_logging
    from dexpy.worker.process import WorkerOptions
    from dexpy.worker.supervisor import Supervisor

    for module in modules:
        check_name(module)
    configuration, groups = load_groups(only_groups)
    log_format = configuration.get("log_format")
    names = worker_names(modules)
    level = logging.DEBUG if verbose else logging.INFO
    set_up_logging(level, log_format)
    complete_logging(level, log_format)
    processes = [
        WorkerOptions(
            names,
            group.threads,
            group.queues,
            burst,
            group.shutdown_timeout_s,
            level,
            group.polling_interval_s,
            group.name or None,
            command_flags.get(),
            log_format,
            group.max_runs,
            group.max_memory,
            configuration.get("dump_signal"),
        )
        for group in groups
        for _ in range(group.processes)
    ]
    sys.exit(Supervisor(processes).run())


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
