"""The command line: ``dexpy``, or ``python -m dexpy``."""

from __future__ import annotations

import re
import sys
import traceback

import click

import dexpy
from dexpy.cli.check import check
from dexpy.cli.db import db
from dexpy.cli.demo import demo
from dexpy.cli.new import new
from dexpy.cli.prune import prune
from dexpy.cli.queues import queues
from dexpy.cli.recurring import recurring
from dexpy.cli.relay import relay
from dexpy.cli.worker import worker
from dexpy.foundation.errors import DexpyError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dexpy.__version__, "--version", prog_name="dexpy")
def main() -> None:
    """Operations that are typed, recorded and never lost."""


main.add_command(check)
main.add_command(db)
main.add_command(demo)
main.add_command(new)
main.add_command(prune)
main.add_command(queues)
main.add_command(recurring)
main.add_command(relay)
main.add_command(worker)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status: 0, 1 for a failure, 2 for an error that a restart does not fix."""
    args = sys.argv[1:] if arguments is None else arguments
    try:
        main.main(args=args, prog_name="dexpy", standalone_mode=True)
    except DexpyError as error:
        if _is_verbose(args):
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        # 2 is a usage error, or a worker that cannot start: a service manager need not restart it.
        sys.exit(getattr(error, "exit_status", 1))


def _is_verbose(args: list[str]) -> bool:
    """Return whether ``-v`` is among the options, also joined with others: ``-vp2``."""
    return "--verbose" in args or any(re.match(r"-[a-uw-z]*v", arg) for arg in args)
