"""The commands of `everstep`, put together.

Floor 8.  May import: the commands.  Imported by: everstep.cli, tests.
"""

from __future__ import annotations

from typing import Annotated

import typer

from everstep.cli import dlq, runs, state, unrouted
from everstep.cli.command import ROOT, DirOption, JsonOption, StoreOption, command
from everstep.cli.dev import dev
from everstep.cli.enqueue import enqueue
from everstep.cli.start import start

EPILOG = "Exit codes: 0 done, 1 refused, 2 usage, 3 configuration or Steps, 4 store."


def version_only(asked: bool) -> None:
    """Print the version and end, when --version was said."""
    if asked:
        from importlib.metadata import version

        print(f"everstep {version('everstep')}")
        raise typer.Exit


program = typer.Typer(
    name="everstep",
    help="Durable Steps and workflows in Python.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
command(program)(dev)
command(program)(start)
command(program)(enqueue)
program.add_typer(state.group, name="state")
program.add_typer(runs.group, name="runs")
program.add_typer(dlq.group, name="dlq")
program.add_typer(unrouted.group, name="unrouted")


@program.callback()
def everstep(
    store: StoreOption = None,
    dir: DirOption = None,
    json_: JsonOption = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=version_only)
    ] = False,
) -> None:
    """Durable Steps and workflows in Python."""
    # Said before the command's name, for the command to find.
    ROOT.store, ROOT.dir, ROOT.json = store, dir, json_
