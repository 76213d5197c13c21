"""Runs, journals and values as JSON documents, and as people read them.

Floor 8.  May import: core, store.base, clock, durations.  Imported by: cli.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from everstep import clock
from everstep.core import journal
from everstep.core.batch import Asked, Mode, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.durations import show
from everstep.store.base import PromiseRow, Unrouted

HISTORY = "!"  # the lane of failed attempts
COLOURS = {
    Status.RUNNING: "cyan",
    Status.READY: "cyan",
    Status.DONE: "green",
    Status.FAILED: "red",
    Status.NEEDS_ATTENTION: "bold red",
    Status.PAUSED: "yellow",
    Status.SCHEDULED: "yellow",
    Status.CANCELLED: "dim",
    Status.SKIPPED: "dim",
}
_STATES = {journal.OK: "ok", journal.ERROR: "error", journal.MARK: "started"}


# ---- values


def plain(data: bytes | None) -> Any:
    """What some bytes of the store stand for; bytes of a user's are shown as base64."""
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError:
        from base64 import b64encode

        return {"base64": b64encode(data.removeprefix(b"\0")).decode()}


def brief(data: bytes | None, width: int = 100) -> str:
    """A value on one line, cut where it gets long."""
    text = "" if data is None else json.dumps(plain(data), ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"


def indented(data: bytes | None) -> str:
    """A value over several lines."""
    return json.dumps(plain(data), ensure_ascii=False, indent=2)


def failure(data: bytes | None) -> dict[str, Any] | None:
    """The error a run keeps: type, message, traceback."""
    kept = plain(data)
    if not isinstance(kept, dict):
        return None
    return {key: kept[key] for key in ("type", "message", "traceback") if key in kept}


def reason(data: bytes | None, width: int = 80) -> str:
    """The error a run keeps, on one line."""
    kept = failure(data)
    if kept is None:
        return ""
    text = headline(kept)
    return text if len(text) <= width else text[: width - 1] + "…"


def headline(kept: Mapping[str, Any]) -> str:
    """An error's class and the first line of its message."""
    kind = str(kept.get("type", "")).rpartition(":")[2]
    return f"{kind}: {kept.get('message', '')}".splitlines()[0]


def _iso(us: int | None) -> str | None:
    return None if us is None else clock.iso(us)


def ago(us: int | None) -> str:
    """How long ago something was, as people say it."""
    if us is None:
        return ""
    passed = (clock.system.now_us() - us) / 1e6
    return f"in {show(-passed)}" if passed < 0 else f"{show(passed)} ago"


# ---- runs


def run_document(run: Run) -> dict[str, Any]:
    """The row of a run, without what may be large."""
    return {
        "id": run.rid,
        "handler": run.handler,
        "status": Status(run.status).label,
        "mode": Mode(run.mode).name.lower(),
        "topic": run.topic,
        "key": run.key,
        "priority": run.priority,
        "attempts": run.attempt,
        "trace": run.trace,
        "hops": run.hops,
        "generation": run.generation,
        "asked": Asked(run.asked).name.lower() if run.asked else None,
        "created_at": _iso(run.created_at),
        "started_at": _iso(run.started_at),
        "finished_at": _iso(run.finished_at),
        "due_at": _iso(run.due_at),
        "error": None if (kept := failure(run.error)) is None else _without_trace(kept),
    }


def _without_trace(kept: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kept.items() if key != "traceback"}


def whole_document(run: Run, entries: Iterable[Entry], promises: Iterable[PromiseRow]) -> dict[str, Any]:
    """A run with its input, output, error, journal and attempts."""
    entries = list(entries)
    return run_document(run) | {
        "input": plain(run.input),
        "output": plain(run.output),
        "error": failure(run.error),
        "attempts_failed": [attempt_document(e) for e in entries if e.lane == HISTORY],
        "journal": [entry_document(e) for e in entries if e.lane != HISTORY],
        "promises": [
            {"name": p.name, "state": _STATES[p.state], "value": plain(p.value), "by": p.by, "at": _iso(p.at)}
            for p in promises
        ],
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """One entry of a journal."""
    return {
        "address": entry.address,
        "lane": entry.lane,
        "seq": entry.seq,
        "kind": entry.kind,
        "name": entry.name,
        "state": _STATES.get(entry.state, str(entry.state)),
        "at": _iso(entry.at),
        "value": plain(entry.value),
    }


def attempt_document(entry: Entry) -> dict[str, Any]:
    """One failed attempt."""
    kept = plain(entry.value)
    told = kept if isinstance(kept, dict) else {"type": entry.name}
    return {"number": entry.pos, "at": _iso(entry.at), **told}


def unrouted_document(message: Unrouted) -> dict[str, Any]:
    """One message that no Step reads."""
    return {
        "id": message.mid,
        "topic": message.topic,
        "data": plain(message.data),
        "at": _iso(message.at),
    }


def status_named(word: str) -> Status:
    """
    The status a word names.

    Raises:
        ValueError: None is called so; names the nearest.
    """
    from everstep.errors import did_you_mean

    labels = {status.label: status for status in Status}
    found = labels.get(word.strip().lower().replace("-", "_"))
    if found is None:
        raise ValueError(f"{word!r} is no status; they are {', '.join(labels)}.{did_you_mean(word, labels)}")
    return found
