"""What a group of batches needs to know, and what it decided to write.

`needs_of` names the rows; a store reads (and locks) them into a `Snapshot`;
`core.decide` works on that copy and leaves a `Plan`, which the store writes
set by set.

Floor 1.  May import: core.  Imported by: core.working, core.decide, store.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from everstep.core.batch import (
    Batch,
    Begin,
    Control,
    Due,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    PromiseOpen,
    Publish,
    Run,
    Settle,
)
from everstep.core.journal import Entry


class Subscriber(Protocol):
    """What `Publish` must know of a subscription (`store.base.Subscription`)."""

    @property
    def handler(self) -> str: ...
    @property
    def fifo(self) -> bool: ...
    @property
    def delay(self) -> int: ...


class Placed(Protocol):
    """What never changes of a run, and says what else must be locked with it."""

    @property
    def handler(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def parent(self) -> int | None: ...


@dataclass(slots=True)
class Key:
    """The row of a FIFO group or object key: its head, its last position, its length."""

    handler: str
    key: str
    head: int = 0  # row id of the run that holds it; 0: nobody yet
    tail: int = 0  # the last position given
    length: int = 0  # runs in it, the head included


@dataclass(slots=True)
class Cell:
    """One value of state in the working copy; `value` None: it does not exist."""

    value: bytes | None = None
    version: int = 0


@dataclass(slots=True)
class Promise:
    """A settled promise."""

    run: int
    name: str
    state: int
    value: bytes
    by: str
    at: int


@dataclass(slots=True)
class Needs:
    """What must be read, and locked, before a group can be decided."""

    runs: set[int] = field(default_factory=set)
    rids: set[str] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    cells: set[tuple[str, str]] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)
    promises: set[tuple[str, str]] = field(default_factory=set)
    fifo: list[Publish] = field(default_factory=list)

    def more(self, runs: Iterable[Placed], subscribers: Mapping[str, Sequence[Subscriber]]) -> None:
        """Add what follows from rows: the keys of runs, their parents, the keys of FIFO messages."""
        for run in runs:
            if run.key is not None:
                self.keys.add((run.handler, run.key))
            if run.parent is not None:
                self.runs.add(run.parent)
        for message in self.fifo:
            for sub in subscribers.get(message.topic, ()):
                if sub.fifo and message.group is not None:
                    self.keys.add((sub.handler, message.group))


def needs_of(batches: Sequence[Batch]) -> Needs:
    """What the batches name."""
    needs = Needs()
    for batch in batches:
        if batch.run:
            needs.runs.add(batch.run)
        for guard in batch.guards:
            if isinstance(guard, PromiseOpen):
                needs.rids.add(guard.rid)
                needs.promises.add((guard.rid, guard.name))
            else:
                needs.cells.add((guard.group, guard.key))
        for change in batch.changes:
            _name(change, needs)
    return needs


def created_at_most(batches: Sequence[Batch], subscribers: Mapping[str, Sequence[Subscriber]]) -> int:
    """How many run ids a group can use at the most, for stores that fetch ids beforehand."""
    return sum(
        len(subscribers.get(change.topic, ())) if isinstance(change, Publish) else 1
        for batch in batches
        for change in batch.changes
        if isinstance(change, Publish | Begin)
    )


def _name(change: object, needs: Needs) -> None:
    match change:
        case Publish():
            needs.topics.add(change.topic)
            if change.group is not None:
                needs.fifo.append(change)
        case KvSet() | KvUpdate() | KvDelete():
            needs.cells.add((change.group, change.key))
        case KvClear():
            needs.groups.add(change.group)
        case Begin():
            needs.rids.add(change.rid)
            if change.key is not None:
                needs.keys.add((change.handler, change.key))
            if change.parent is not None:
                needs.runs.add(change.parent)
        case Settle():
            needs.rids.add(change.rid)
            needs.promises.add((change.rid, change.name))
        case Control():
            needs.rids.add(change.rid)
        case Due():
            needs.runs.add(change.run)
        case _:
            pass


@dataclass(slots=True)
class Snapshot:
    """What was read, and then the working copy of the group."""

    runs: dict[int, Run] = field(default_factory=dict)
    rids: dict[str, Run] = field(default_factory=dict)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    promises: dict[tuple[int, str], Promise] = field(default_factory=dict)
    subscribers: Mapping[str, Sequence[Subscriber]] = field(default_factory=dict)
    new_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(slots=True)
class Plan:
    """
    What to write.  Runs, keys and cells are final values; entries replace equal addresses.

    A run that is created and changed in one group is in both `created` and `changed`.
    """

    created: list[Run] = field(default_factory=list)
    changed: dict[int, Run] = field(default_factory=dict)
    entries: list[tuple[int, int, Entry]] = field(default_factory=list)
    keys: set[tuple[str, str]] = field(default_factory=set)
    advance: set[tuple[str, str]] = field(default_factory=set)
    cells: set[tuple[str, str]] = field(default_factory=set)
    promises: list[Promise] = field(default_factory=list)
    unrouted: list[Publish] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    ended: list[Run] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    @property
    def due(self) -> int | None:
        """The earliest due time among the runs written."""
        times = [run.due_at for run in self.created if run.due_at is not None]
        times += [run.due_at for run in self.changed.values() if run.due_at is not None]
        return min(times, default=None)
