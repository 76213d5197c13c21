"""`everstep dlq`: messages whose Step gave up, to look at, try again or throw away.

A dead letter is a failed run that a message made.  Doing something to many is
paced, so that a thousand redriven at once do not fell what they failed on.

Floor 8.  May import: core, durations, command, opening, runs, shown, timeline.  Imported by: program.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everstep.cli.command import Call, command, complain, count, one_json
from everstep.cli.exits import OK, REFUSED, Refusal

if TYPE_CHECKING:
    from everstep.core.batch import Run
    from everstep.engine.engine import Engine
    from everstep.store.base import Store

group = typer.Typer(no_args_is_help=True, help="The dead letters: messages whose Step gave up.")

Ids = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids of dead letters.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter (of --topic and --step).")]
Topic = Annotated[str | None, typer.Option(help="Only messages of this topic.")]
StepName = Annotated[
    str | None, typer.Option("--step", metavar="NAME", help="Only messages this Step gave up.")
]
Rate = Annotated[str, typer.Option(help="How many in what time at most: 10/s, 600/m, 5000/h.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*([smh])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@command(group, "list")
async def list_(
    call: Call,
    topic: Topic = None,
    step: StepName = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
) -> None:
    """List dead letters, newest first.  With --json one a line."""
    from everstep.cli.opening import reading
    from everstep.cli.shown import run_document
    from everstep.cli.timeline import runs_table

    found: list[Run] = []
    async with reading(call) as store:
        async for run in dead_letters(store, topic, step):
            if call.json:
                call.document(run_document(run))
            found.append(run)
            if not all_ and len(found) >= limit:
                break
    if not call.json:
        call.console.print(runs_table(found) if found else "There are no dead letters.")


async def dead_letters(store: Store, topic: str | None = None, step: str | None = None) -> AsyncIterator[Run]:
    """All of them, of one topic or Step if it is named, newest first."""
    from everstep.cli.runs import pages
    from everstep.core.status import Status

    async for page in pages(store, handler=step, statuses=[Status.FAILED], topics_only=True):
        for run in page:
            if topic is None or run.topic == topic:
                yield run


@command(group)
async def show(
    call: Call, rid: Annotated[str, typer.Argument(metavar="RUN", help="The id of the dead letter.")]
) -> None:
    """Show one dead letter: the message, why it failed, each attempt."""
    from everstep.cli.opening import reading
    from everstep.cli.runs import show_run

    async with reading(call) as store:
        await show_run(call, store, rid)


@command(group)
async def redrive(
    call: Call,
    runs: Ids = None,
    all_: All = False,
    topic: Topic = None,
    step: StepName = None,
    rate: Rate = "50/s",
    as_new: Annotated[
        bool, typer.Option("--as-new", help="Forget what earlier attempts did; every effect is done again.")
    ] = False,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="Try again with this message instead.")
    ] = None,
    yes: Yes = False,
) -> int:
    """Try dead letters again.  What earlier attempts did is remembered and not done twice."""
    from everstep.codec import codec_for

    _chosen(runs, all_, topic, step)
    if input_ is not None and len(runs or ()) != 1:
        raise typer.BadParameter("goes with exactly one RUN", param_hint="--input")
    data = None if input_ is None else codec_for(Any).encode(one_json(input_, "--input"))
    if all_:
        call.sure(f"Redrive every dead letter{_of(topic, step)}?", yes=yes)
    return await _each(
        call, runs, (topic, step), pace(rate), "redrive_new" if as_new else "redrive", "redriven", data
    )


@command(group)
async def discard(
    call: Call,
    runs: Ids = None,
    all_: All = False,
    topic: Topic = None,
    step: StepName = None,
    rate: Rate = "200/s",
    yes: Yes = False,
) -> int:
    """Take dead letters off the list for good; their runs become cancelled and stay visible."""
    _chosen(runs, all_, topic, step)
    which = f"every dead letter{_of(topic, step)}" if all_ else count(len(runs or ()), "dead letter")
    call.sure(f"Discard {which}?", yes=yes)
    return await _each(call, runs, (topic, step), pace(rate), "discard", "discarded", None)


def _of(topic: str | None, step: str | None) -> str:
    return (f" of topic {topic!r}" if topic else "") + (f" of Step {step!r}" if step else "")


def _chosen(runs: Sequence[str] | None, all_: bool, topic: str | None, step: str | None) -> None:
    """Either some by id, or --all; never everything by accident."""
    if bool(runs) == all_:
        raise typer.BadParameter("name the runs, or say --all", param_hint="RUN...")
    if runs and (topic or step):
        raise typer.BadParameter("goes with --all", param_hint="--topic" if topic else "--step")


def pace(rate: str) -> float:
    """
    Seconds between two.

    Raises:
        typer.BadParameter: It is not of the form 10/s.

    >>> pace("10/s"), pace("30/m")
    (0.1, 2.0)
    """
    found = _RATE.fullmatch(rate.strip())
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"{rate!r} is no rate; write 10/s, 600/m or 5000/h", param_hint="--rate")
    return _UNITS[found[2]] / float(found[1])


async def _each(
    call: Call,
    rids: Sequence[str] | None,
    which: tuple[str | None, str | None],
    pause: float,
    action: str,
    done: str,
    data: bytes | None,
) -> int:
    """Do it to one after the other, not faster than asked; what cannot be is said, the rest is done."""
    from everstep.cli.opening import acting
    from everstep.cli.shown import run_document

    handled = refused = 0
    async with acting(call) as engine:
        next_at = asyncio.get_running_loop().time()
        async for rid in _ids(engine.store, rids, which):
            await asyncio.sleep(next_at - asyncio.get_running_loop().time())
            next_at = max(next_at + pause, asyncio.get_running_loop().time())
            try:
                run = await _one(engine, rid, action, data, by_name=bool(rids))
            except Refusal as error:
                refused += 1
                complain(call, str(error))
                continue
            handled += 1
            if call.json:
                call.document(run_document(run))
    if not call.json:
        call.console.print(f"{count(handled, 'dead letter')} {done}.")
    return REFUSED if refused else OK


async def _ids(
    store: Store, rids: Sequence[str] | None, which: tuple[str | None, str | None]
) -> AsyncIterator[str]:
    if rids:
        for rid in rids:
            yield rid
        return
    async for run in dead_letters(store, *which):
        yield run.rid


async def _one(engine: Engine, rid: str, action: str, data: bytes | None, *, by_name: bool) -> Run:
    from everstep.cli.runs import control, unknown
    from everstep.core.status import Status

    if by_name:
        run = await engine.store.run(rid)
        if run is None:
            raise unknown(rid)
        if run.status != Status.FAILED or not run.topic or " /" in run.topic:
            raise Refusal(
                f"{rid} is no dead letter: it is {Status(run.status).label}; everstep runs retry and cancel "
                "are for other runs"
            )
    return await control(engine, rid, action, input=data)
