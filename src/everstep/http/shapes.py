"""Runs, journals, messages, state and Steps as the JSON of the API.

The console, the command line and programs of others read these shapes; they
are described in docs/reference/api.md and change only by addition.

Floor 6.  May import: core, store.base, steps.step, floor 0.  Imported by: http.api.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from everstep.clock import iso
from everstep.codec import codec_for
from everstep.core import journal
from everstep.core.batch import Mode, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.steps.step import Enqueue, Step
from everstep.steps.triggers import HttpTrigger, QueueTrigger
from everstep.store.base import KvRow, Subscription, Unrouted, WorkerRow

Json = dict[str, Any]

_PLAIN = codec_for(Any)
_HISTORY = "!"  # the lane of failed attempts
_STATES = {journal.OK: "ok", journal.ERROR: "error", journal.MARK: "started"}


def shown(data: bytes | None) -> Any:
    """A kept value as JSON; bytes that are none as ``{"base64": "…"}``."""
    if data is None:
        return None
    try:
        value = _PLAIN.decode(data)
    except ValueError:
        value = data
    return {"base64": b64encode(value).decode()} if isinstance(value, bytes) else value


def run_shape(run: Run) -> Json:
    """One run, without its values."""
    return {
        "id": run.rid,
        "handler": run.handler,
        "mode": Mode(run.mode).name.lower(),
        "status": run.state.label,
        "topic": run.topic,
        "key": run.key,
        "trace_id": run.trace,
        "attempts": run.attempt,
        "hops": run.hops,
        "priority": run.priority,
        "generation": run.generation,
        "created_at": iso(run.created_at),
        "due_at": _at(run.due_at),
        "started_at": _at(run.started_at),
        "finished_at": _at(run.finished_at),
        "error": error_shape(run.error),
    }


def run_in_full(run: Run, entries: Sequence[Entry]) -> Json:
    """One run with its values, its journal, and the history of its failed attempts."""
    return {
        **run_shape(run),
        "input": shown(run.input),
        "output": shown(run.output),
        "journal": [entry_shape(entry) for entry in entries if entry.lane != _HISTORY],
        "history": [attempt_shape(entry) for entry in entries if entry.lane == _HISTORY],
    }


def error_shape(error: bytes | None) -> Json | None:
    """What is known of an error: its type, its text, where it was raised."""
    if error is None:
        return None
    try:
        kept = json.loads(error)
        kind = str(kept["type"]).rpartition(":")[2]
        return {"type": kind, "message": kept.get("message", ""), "traceback": kept.get("traceback", "")}
    except (ValueError, TypeError, KeyError):
        return {"type": "?", "message": error[:200].decode("utf-8", "replace"), "traceback": ""}


def entry_shape(entry: Entry) -> Json:
    """One fact of a journal."""
    failed = entry.state == journal.ERROR
    return {
        "address": entry.address,
        "seq": entry.seq,
        "kind": entry.kind,
        "name": entry.name,
        "state": _STATES.get(entry.state, "ok"),
        "at": iso(entry.at),
        "value": error_shape(entry.value) if failed else shown(entry.value),
    }


def attempt_shape(entry: Entry) -> Json:
    """One failed attempt."""
    return {"attempt": entry.pos, "at": iso(entry.at), **(error_shape(entry.value) or {})}


def state_shape(row: KvRow) -> Json:
    """One value of state."""
    return {"key": row.key, "value": shown(row.value), "version": row.version}


def unrouted_shape(message: Unrouted) -> Json:
    """One message nobody subscribed to."""
    return {"id": message.mid, "topic": message.topic, "data": shown(message.data), "at": iso(message.at)}


def worker_shape(worker: WorkerRow) -> Json:
    """One process that works on the store."""
    return {"name": worker.name, "alive": worker.alive, "handlers": list(worker.handlers)}


def counts_shape(counts: Mapping[tuple[str, int], int]) -> Json:
    """How many runs each handler has in each status."""
    by_handler: dict[str, dict[str, int]] = {}
    for (handler, status), count in sorted(counts.items()):
        by_handler.setdefault(handler, {})[Status(status).label] = count
    return {"handlers": [{"handler": handler, "counts": of} for handler, of in by_handler.items()]}


# ---- Steps and the picture of their flows


def steps_shape(steps: Sequence[Step[Any, Any]], subscriptions: Iterable[Subscription]) -> Json:
    """All Steps of this process, the edges between them, and who else is subscribed."""
    here = {step.name for step in steps}
    return {
        "steps": [step_shape(step) for step in steps],
        "edges": edges(steps),
        "flows": _flows(steps),
        "elsewhere": [
            {"topic": s.topic, "handler": s.handler} for s in subscriptions if s.handler not in here
        ],
    }


def step_shape(step: Step[Any, Any]) -> Json:
    """One Step as it is declared."""
    return {
        "name": step.name,
        "description": step.description,
        "kind": step.kind,
        "noop": step.noop,
        "file": step.file,
        "line": step.line,
        "flows": list(step.flows),
        "triggers": [_trigger(trigger) for trigger in step.triggers],
        "enqueues": [_enqueue(e) for e in step.enqueues],
        "virtual_enqueues": [_enqueue(e) for e in step.virtual_enqueues],
        "virtual_subscribes": list(step.virtual_subscribes),
    }


def edges(steps: Sequence[Step[Any, Any]]) -> list[Json]:
    """
    From each Step to those that listen to what it enqueues.

    An edge is virtual when one of its ends only says so, as a NOOP Step does.
    """
    found: list[Json] = []
    for source in steps:
        sent = [*((e, False) for e in source.enqueues), *((e, True) for e in source.virtual_enqueues)]
        for enqueue, virtual in sent:
            for target in steps:
                real = enqueue.topic in (t.topic for t in target.queues)
                if real or enqueue.topic in target.virtual_subscribes:
                    found.append(
                        {
                            "from": source.name,
                            "to": target.name,
                            **_enqueue(enqueue),
                            "virtual": virtual or not real,
                        }
                    )
    return found


def _flows(steps: Sequence[Step[Any, Any]]) -> Json:
    flows: dict[str, list[str]] = {}
    for step in steps:
        for flow in step.flows:
            flows.setdefault(flow, []).append(step.name)
    return flows


def _trigger(trigger: HttpTrigger | QueueTrigger) -> Json:
    shape: Json = {"type": trigger.type, "conditional": trigger.condition is not None}
    if isinstance(trigger, HttpTrigger):
        shape |= {"method": trigger.method, "path": trigger.path}
        shape["body"] = trigger.body.json_schema() if trigger.body else None
        shape["query"] = [{"name": q.name, "description": q.description} for q in trigger.query]
    else:
        shape |= {"topic": trigger.topic, "fifo": trigger.fifo}
        shape["input"] = trigger.input.json_schema() if trigger.input else None
    return shape


def _enqueue(enqueue: Enqueue) -> Json:
    return {"topic": enqueue.topic, "label": enqueue.label, "conditional": enqueue.conditional}


def _at(us: int | None) -> str | None:
    return None if us is None else iso(us)
