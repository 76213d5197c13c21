"""One run for a person: its row, its values, its journal as a timeline, its failed attempts.

Floor 8.  May import: core, store.base, shown.  Imported by: runs, dlq.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from everstep.cli.command import count, table
from everstep.cli.shown import (
    COLOURS,
    HISTORY,
    ago,
    attempt_document,
    brief,
    failure,
    headline,
    indented,
    reason,
)
from everstep.core import journal
from everstep.core.batch import Asked, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.durations import show
from everstep.store.base import PromiseRow

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MARKS = {journal.OK: "●", journal.ERROR: "✗", journal.MARK: "○"}


def status_text(run: Run) -> Text:
    """The status in its colour, and what was asked of it meanwhile."""
    from rich.text import Text

    status = Status(run.status)
    text = Text(status.label, style=COLOURS.get(status, ""))
    if run.asked:
        text.append(f" ({Asked(run.asked).name.lower()} asked)", style="yellow")
    return text


def runs_table(runs: Sequence[Run]) -> Any:
    """Runs as a list for people."""
    columns = ["run", "handler", "status", "topic", "failed", "made", "error"]
    return table(columns, map(_line, runs))


def _line(run: Run) -> tuple[Any, ...]:
    who = (run.rid, run.handler, status_text(run), run.topic)
    return *who, run.attempt or "", ago(run.created_at), reason(run.error)


def print_run(console: Console, run: Run, entries: Sequence[Entry], promises: Sequence[PromiseRow]) -> None:
    """Everything that is known of one run."""
    console.print(table(["", ""], _row(run)))
    _block(console, "Input", indented(run.input))
    if run.output is not None:
        _block(console, "Output", indented(run.output))
    kept = failure(run.error)
    if kept is not None:
        told = str(kept.get("traceback") or f"{kept.get('type')}: {kept.get('message')}")
        _block(console, "Error", told.rstrip(), style="red")
    steps = [entry for entry in entries if entry.lane != HISTORY]
    if steps:
        _heading(console, f"Journal ({count(len(steps), 'entry', 'entries')})")
        console.print(table(["seq", "at", "lane", "what", "result"], _timeline(run, steps)))
    attempts = [attempt_document(entry) for entry in entries if entry.lane == HISTORY]
    if attempts:
        _heading(console, f"Failed attempts ({len(attempts)})")
        rows = [(a["number"], a["at"], headline(a)) for a in attempts]
        console.print(table(["attempt", "at", "error"], rows))
    if promises:
        _heading(console, "Promises")
        settled = [(p.name, _MARKS.get(p.state), p.by, brief(p.value)) for p in promises]
        console.print(table(["name", "", "by", "value"], settled))


def _row(run: Run) -> Iterator[tuple[str, Any]]:
    yield "run", run.rid
    yield "handler", run.handler
    yield "status", status_text(run)
    if run.topic:
        yield "topic", run.topic
    if run.key is not None:
        yield "key", run.key
    yield "made", ago(run.created_at)
    if run.due_at is not None:
        yield "due", ago(run.due_at)
    if run.started_at is not None and run.finished_at is not None:
        yield "took", show((run.finished_at - run.started_at) / 1e6)
    if run.attempt:
        yield "failed", count(run.attempt, "attempt")
    if run.generation:
        yield "generation", run.generation
    yield "trace", run.trace


def _timeline(run: Run, entries: Sequence[Entry]) -> Iterator[tuple[Any, ...]]:
    """One line an entry, as delivered; what was never delivered stands where its time is."""
    start = run.started_at if run.started_at is not None else run.created_at
    for entry in sorted(entries, key=lambda e: (e.at, e.seq is None, e.seq or 0)):
        after = f"+{show(max(entry.at - start, 0) / 1e6)}"
        yield entry.seq, after, _lane(entry), _what(entry), brief(entry.value, 60)


def _lane(entry: Entry) -> str:
    """``0`` at the left, its children further right, so that parallel work reads as columns."""
    if entry.lane.startswith("~"):  # an effect of a Step: remembered by content, not by place
        return "~"
    *parents, own = entry.lane.split("/")
    return "│ " * len(parents) + own.removeprefix("@") + f".{entry.pos}"


def _what(entry: Entry) -> str:
    name = f" {entry.name}" if entry.name else ""
    return f"{_MARKS.get(entry.state, '?')} {entry.kind}{name}"


def _heading(console: Console, title: str) -> None:
    console.print(f"\n{title}", style="bold")


def _block(console: Console, title: str, text: str, style: str = "") -> None:
    _heading(console, title)
    console.print("\n".join(f"  {line}" for line in text.splitlines()), style=style)
