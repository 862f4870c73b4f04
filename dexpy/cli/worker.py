"""``dexpy worker``: runs worker processes."""

from __future__ import annotations

import logging
import os
import sys

import click

from dexpy.cli.application import module_arguments
from dexpy.foundation.errors import OptionsError
from dexpy.policies.options import check_queue


def _queues(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> frozenset[str] | None:
    names = [name.strip() for value in values for name in value.split(",")]
    try:
        return frozenset(check_queue(name, "-Q") for name in names) if names else None
    except OptionsError as error:
        raise click.BadParameter(str(error)) from None


processes_option = click.option(
    "-p",
    "--processes",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="one for each CPU",
    help="Number of worker processes.",
)
threads_option = click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Threads per process; each runs one operation at a time.",
)


@click.command()
@module_arguments(required=True)
@processes_option
@threads_option
@click.option(
    "-Q",
    "--queues",
    multiple=True,
    callback=_queues,
    metavar="NAME,...",
    help="Serve only these queues.  [default: all]",
)
@click.option("--burst", is_flag=True, help="Run all due operations, then exit.")
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running operations may continue after TERM.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more and show tracebacks.")
def worker(
    modules: tuple[str, ...],
    processes: int,
    threads: int,
    queues: frozenset[str] | None,
    burst: bool,
    shutdown_timeout: float,
    verbose: bool,
) -> None:
    """Run background operations.

    MODULE is the dotted name of a module, as in `import`, that declares operations; it may call dexpy.configure().
    """
    from dexpy.worker.importing import check_name
    from dexpy.worker.log_setup import complete_logging, set_up_logging
    from dexpy.worker.process import WorkerOptions
    from dexpy.worker.supervisor import Supervisor

    for module in modules:
        check_name(module)
    level = logging.DEBUG if verbose else logging.INFO
    set_up_logging(level)
    complete_logging(level)
    options = WorkerOptions(modules, threads, queues, burst, shutdown_timeout, level)
    sys.exit(Supervisor(options, processes).run())
