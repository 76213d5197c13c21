"""How a run becomes a row, and which runs a group answers with: what stores share.

Floor 2.  May import: core, store.base.  Imported by: store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from operator import attrgetter

from everstep.core.batch import Applied, Begun, Refused, Run
from everstep.store.base import BLOB, Committed

RUN = tuple(field.name for field in fields(Run))

# What a new run may have that is not a default; what it gets later is `MUTABLE`.
BORN = (
    *("id", "rid", "handler", "mode", "status", "input", "created_at", "topic", "trace", "priority", "hops"),
    *("parent", "fp", "key", "key_pos", "worker", "epoch", "claims", "due_at", "started_at"),
)
MUTABLE = (
    *("status", "input", "key_pos", "worker", "epoch", "generation", "wakes", "parked_wakes", "waits"),
    *("attempt", "claims", "asked", "due_at", "started_at", "finished_at", "output", "error"),
)
CLAIMED = ("status", "worker", "epoch", "claims", "started_at", "error")
ENTRY = ("lane", "pos", "kind", "name", "fp", "seq", "at", "state", "value")

born = attrgetter(*BORN)
mutable = attrgetter(*MUTABLE, "id")
claimed = attrgetter(*CLAIMED, "id")
entry = attrgetter(*ENTRY)


def answered(done: Committed) -> list[Run]:
    """Every run a group answers with."""
    runs = done.claimed + done.ended
    for outcome in done.outcomes:
        if isinstance(outcome, Applied):
            runs += [r.run for r in outcome.results if isinstance(r, Begun)]
            runs += [r for r in outcome.results if isinstance(r, Run)]
        elif isinstance(outcome, Refused) and isinstance(outcome.current, Run):
            runs.append(outcome.current)
    return runs


def blob_of(value: bytes | None) -> str | None:
    """The id of the large value that a kept value stands for, if it is only a name."""
    return value[1:].decode() if value is not None and value[:1] == BLOB else None


def messages_of(rids: Iterable[str]) -> set[str]:
    """What the ids of messages and of their runs have in common: m_x makes r_x, r_x-1, r_x-2."""
    return {rid[2:].partition("-")[0] for rid in rids if rid.startswith("r_")}
