"""`everstep runs`: find a run, look into it, try it again, cancel it.

Floor 8.  May import: core, command, opening, shown, timeline.  Imported by: program.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from everstep.cli.command import Call, command
from everstep.cli.exits import Refusal

if TYPE_CHECKING:
    from everstep.core.batch import Run
    from everstep.engine.engine import Engine
    from everstep.store.base import Store

group = typer.Typer(no_args_is_help=True, help="Find runs, look into them, try them again, cancel them.")

Id = Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.", show_default=False)]
PAGE = 200


@command(group, "list")
async def list_(
    call: Call,
    handler: Annotated[str | None, typer.Option(help="Only runs of this Step or workflow.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only runs of this status; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
) -> None:
    """List runs, newest first.  With --json one run a line."""
    from everstep.cli.opening import reading
    from everstep.cli.shown import run_document, status_named
    from everstep.cli.timeline import runs_table

    try:
        statuses = [status_named(word) for word in status or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--status") from None
    shown = 0
    async with reading(call) as store:
        found = pages(store, handler=handler, statuses=statuses, limit=None if all_ else limit)
        async for page in found:
            shown += len(page)
            if call.json:
                for run in page:
                    call.document(run_document(run))
            else:
                call.console.print(runs_table(page))
    if not shown and not call.json:
        call.console.print("There is no such run." if handler or statuses else "There are no runs yet.")


async def pages(
    store: Store,
    *,
    handler: str | None = None,
    statuses: Sequence[int] = (),
    topics_only: bool = False,
    limit: int | None = None,
) -> AsyncIterator[list[Run]]:
    """Runs, newest first, a page at a time; runs that are made or end meanwhile are not seen twice."""
    before: int | None = None
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = await store.runs(
            handler=handler, statuses=statuses, topics_only=topics_only, before=before, limit=size
        )
        if page:
            yield page
        if len(page) < size:
            return
        before = page[-1].id
        left = None if left is None else left - len(page)


@command(group)
async def show(call: Call, rid: Id) -> None:
    """Show one run: its row, input, output, error, journal and failed attempts."""
    from everstep.cli.opening import reading

    async with reading(call) as store:
        await show_run(call, store, rid)


async def show_run(call: Call, store: Store, rid: str) -> None:
    """Print all that is known of one run."""
    from everstep.cli.shown import whole_document
    from everstep.cli.timeline import print_run

    run = await store.run(rid)
    if run is None:
        raise unknown(rid)
    entries = await store.entries(run.id, run.generation)
    promises = await store.promises(run.id)
    if call.json:
        call.document(whole_document(run, entries, promises))
    else:
        print_run(call.console, run, entries, promises)


@command(group)
async def retry(
    call: Call,
    rid: Id,
    as_new: Annotated[
        bool, typer.Option("--as-new", help="Forget what earlier attempts did; every effect is done again.")
    ] = False,
) -> None:
    """Try a run again that failed, was cancelled or needs attention."""
    await _control(call, rid, "redrive_new" if as_new else "redrive")


@command(group)
async def cancel(call: Call, rid: Id) -> None:
    """Cancel a run that has not ended; one that is running is asked to stop."""
    await _control(call, rid, "cancel")


async def _control(call: Call, rid: str, action: str) -> None:
    from everstep.cli.opening import acting
    from everstep.cli.shown import run_document
    from everstep.core.status import Status

    async with acting(call) as engine:
        run = await control(engine, rid, action)
    asked = " and was asked to stop" if run.asked else ""
    call.answer(run_document(run), f"{run.rid} ({run.handler}) is {Status(run.status).label}{asked}.")


async def control(engine: Engine, rid: str, action: str, *, input: bytes | None = None) -> Run:
    """
    Do one thing to one run.

    Raises:
        Refusal: There is no such run, or its status does not allow it.
    """
    from everstep.core.status import WrongStatus

    try:
        return await engine.control(rid, action, input=input)
    except WrongStatus as error:
        raise Refusal(f"{rid}: {error}") from None
    except LookupError:
        raise unknown(rid) from None


def unknown(rid: str) -> Refusal:
    """No run has that id: says so, and how to find the right one."""
    return Refusal(f"there is no run {rid!r} in this store; everstep runs list shows those there are")
