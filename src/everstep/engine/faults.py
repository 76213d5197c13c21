"""Why a run is set aside although nothing failed: the texts of what needs attention.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

from everstep.core.batch import Run
from everstep.core.journal import Entry
from everstep.engine.operations import Operation
from everstep.errors import Asked, ContextClosed, EverstepError, JournalMismatch, NotReplayable


class Limits:
    """How long a journal may grow; set them before the first run is driven."""

    warn_entries = 10_000
    most_entries = 50_000


class JournalFull(EverstepError):
    """A run asked for more than one journal should hold."""


def full(run: Run, count: int) -> JournalFull:
    """It grew beyond what a replay should have to read."""
    return JournalFull(
        f"Run {run.rid} has {count:,} entries; {Limits.most_entries:,} are the most one journal may hold,\n"
        "because a replay reads them all. Carry over what matters, and go on in a new one:\n\n"
        "    await ctx.continue_as(state)"
    )


def unfit(run: Run, error: Exception) -> EverstepError:
    """Its input cannot be read as the type that is declared now."""
    return EverstepError(
        f"the input of run {run.rid} does not fit {run.handler} as it is declared now: {error}"
    )


def unreadable(run_id: str, entry: Entry, error: Exception) -> EverstepError:
    """A recorded answer cannot be read as the type that is declared now."""
    return EverstepError(
        f"Run {run_id}: entry {entry.address} ({entry.kind} {entry.name!r}) cannot be read as the type\n"
        f"that is declared now: {error}.\n\n"
        "The run is set aside with its journal untouched: let the type accept what was\n"
        "written, and resume it."
    )


def ill_settled(run: Run, name: str, error: Exception) -> EverstepError:
    """A promise was settled with something else than it is declared to hold."""
    return EverstepError(f"promise '{name}' of run {run.rid} holds what cannot be read: {error}")


def in_vain(run_id: str, line: str | None) -> EverstepError:
    """The body waits for something that no result, time or person will bring."""
    return NotReplayable(
        f"run {run_id} waits for ever: what its body awaits",
        line=line,
        why=(
            "No function, timer or promise is pending that could wake it. Either its tasks wait for\n"
            "each other, or it waits for a thread or callback that its journal cannot know."
        ),
        remedy="answer = await ctx.run(in_a_thread, argument)",
    )


def not_awaited(op: Operation, line: str | None) -> ContextClosed:
    """The handler ended before it had the answer."""
    name = "a timer" if op.kind == "timer" else f"ctx.{op.kind}({op.name})"
    return ContextClosed(
        name,
        line=line,
        why="nobody awaited it before the handler ended, so its answer would be lost",
        remedy="await it, or hold its task and await that",
    )


def with_line(mismatch: JournalMismatch, line: str | None) -> JournalMismatch:
    """The same difference, with the line that asked."""
    now = mismatch.attempted
    assert now is not None
    return JournalMismatch(
        run_id=mismatch.run_id,
        address=mismatch.address,
        recorded=mismatch.recorded,
        attempted=Asked(now.kind, now.name, now.fingerprint, line),
    )
