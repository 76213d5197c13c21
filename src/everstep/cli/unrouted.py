"""`everstep unrouted`: messages that no Step reads, kept until one does.

Floor 8.  May import: command, opening, shown.  Imported by: program.
"""

from __future__ import annotations

from typing import Annotated

import typer

from everstep.cli.command import Call, command, table

group = typer.Typer(no_args_is_help=True, help="The messages no Step reads: kept until one does.")


@command(group, "list")
async def list_(
    call: Call,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
) -> None:
    """List messages on topics that no Step is subscribed to, newest first.  With --json one a line."""
    from everstep.cli.opening import reading
    from everstep.cli.shown import ago, brief, unrouted_document

    async with reading(call) as store:
        found = await store.unrouted(limit)
    if call.json:
        for message in found:
            call.document(unrouted_document(message))
    elif found:
        rows = [(m.mid, m.topic, ago(m.at), brief(m.data)) for m in found]
        call.console.print(table(["message", "topic", "sent", "data"], rows))
    else:
        call.console.print("There are no unrouted messages: each had a Step to go to.")
