"""Outcomes and rows as plain values to compare: without row ids, times and versions."""

from typing import Any

from everstep.core.batch import Applied, Begun, Outcome, Refused, Run
from tests.core.rows import Rows


def gist(outcome: Outcome) -> object:
    """An outcome without row ids and times."""

    def plain(result: Any) -> object:
        match result:
            case Begun():
                return ("begun", result.run.rid, result.created)
            case Run():
                return (result.rid, result.state.label)
            case bytes() | tuple() | None | int():
                return result
            case _:
                return type(result).__name__

    match outcome:
        case Applied():
            return [plain(result) for result in outcome.results]
        case Refused():
            return outcome.why
        case _:
            return "?"


def picture(rows: Rows) -> object:
    """Everything that is kept, with public ids for row ids and without times and versions."""
    rid = {run.id: run.rid for run in rows.runs.values()}
    hidden = {"id", "created_at", "started_at", "finished_at", "due_at", "parent"}
    return {
        "runs": {
            run.rid: {name: getattr(run, name) for name in Run.__slots__ if name not in hidden}
            | {"due": run.due_at is not None, "finished": run.finished_at is not None}
            for run in rows.runs.values()
        },
        "keys": {name: (rid.get(k.head), k.tail, k.length) for name, k in rows.keys.items()},
        "cells": {name: cell.value for name, cell in rows.cells.items()},
        "promises": {(rid[p.run], p.name): p.value for p in rows.promises.values()},
        "entries": {(rid[a[0]], *a[1:]): (e.state, e.value) for a, e in rows.entries.items()},
        "unrouted": [m.mid for m in rows.unrouted],
    }
