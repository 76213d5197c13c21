"""The command line: `everstep dev`, `start`, `enqueue`, `state`, `runs`, `dlq`.

Every command takes --store, --dir and --json; what it prints with --json is
JSON and nothing else.  What is heavy is imported inside the commands, so that
help and completion answer at once.

Floor 8.  May import: every floor but testing and compat.  Imported by: nothing.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; the entry point of the `everstep` program."""
    from everstep.cli.program import program

    program()
