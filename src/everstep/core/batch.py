"""What the engine asks of a store, as values: batches, guards, changes, outcomes.

A batch is all or nothing and declares what must hold (guards) and what is to
become (changes).  Batches travel together in one transaction but share no
fate: each gets an outcome of its own.  The list of changes is closed; a store
that knows these, and nothing else, runs everything.

Times are integer microseconds since 1970, values are encoded bytes (`codec`).

Floor 1.  May import: core, floor 0.  Imported by: core.decide, store, engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.errors import check_name


class Mode(IntEnum):
    """How a handler is driven; the number is what stores keep."""

    REPLAY = 0
    RETRY = 1


class Asked(IntEnum):
    """What somebody outside asked of a run that is running elsewhere."""

    NOTHING = 0
    CANCEL = 1
    PAUSE = 2


@dataclass(slots=True)
class Run:
    """One run, as its row says.  `id` is the store's own; `rid` is the public one."""

    id: int
    rid: str
    handler: str
    mode: int
    status: int
    input: bytes
    created_at: int
    topic: str | None = None  # what triggered it: a topic, or "POST /orders"
    trace: str = ""
    priority: int = 0
    hops: int = 0
    parent: int | None = None  # the run that waits for this one
    fp: int = 0  # fingerprint of the input, where an id may be asked for twice
    key: str | None = None  # FIFO group, object key; unique with `handler`
    key_pos: int | None = None  # its place in the key; None before it joined
    worker: int | None = None
    epoch: int = 0  # raised by whoever takes the run from whoever had it
    generation: int = 0
    wakes: int = 0  # raised by whoever makes one of its waits true
    parked_wakes: int = 0  # `wakes` as the turn saw it that parked
    waits: int = 0  # while parked: children still to end before it wakes
    attempt: int = 0  # failed attempts so far (retry mode)
    claims: int = 0  # claims since the journal last grew
    asked: int = 0
    due_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    output: bytes | None = None
    error: bytes | None = None

    @property
    def state(self) -> Status:
        """`status` as a `Status`."""
        return Status(self.status)


# ---- guards


@dataclass(slots=True, frozen=True)
class PromiseOpen:
    """Nobody settled this promise yet."""

    rid: str
    name: str


@dataclass(slots=True, frozen=True)
class KvVersion:
    """The key is still at this version (0: it does not exist)."""

    group: str
    key: str
    version: int


Guard = PromiseOpen | KvVersion


# ---- changes


@dataclass(slots=True)
class Begin:
    """Create a run, unless its id is taken: then attach to that one or refuse."""

    rid: str
    handler: str
    mode: int
    input: bytes
    topic: str | None = None
    key: str | None = None
    priority: int = 0
    delay: int = 0
    hops: int = 0
    trace: str = ""
    fp: int = 0
    parent: int | None = None
    claim: bool = False  # born running, owned by the committing worker
    attach: bool = True  # False: a taken id refuses the batch


@dataclass(slots=True)
class Publish:
    """Give every Step subscribed to the topic a run of its own; with none, keep it unrouted."""

    mid: str  # "m_..."; its runs are "r_..." and "r_...-1", "r_...-2"
    topic: str
    data: bytes
    group: str | None = None
    delay: int | None = None  # None: what the subscription says
    priority: int = 0
    hops: int = 0
    trace: str = ""

    def __post_init__(self) -> None:
        check_name("topic", self.topic)
        if self.group is not None:
            check_name("group", self.group)


@dataclass(slots=True)
class Finish:
    """End this batch's run: done, failed, cancelled or skipped."""

    event: str  # finish | fail | cancel | skip
    output: bytes | None = None
    error: bytes | None = None


@dataclass(slots=True)
class Release:
    """Give this batch's run back: at once (`delay` None), or after a pause."""

    delay: int | None = None
    failed: bool = False  # counts as an attempt
    error: bytes | None = None
    event: str | None = None  # "attention", "pause": set it aside instead


@dataclass(slots=True)
class Park:
    """Let this batch's run hold nothing until it is woken, or due; refused if it was woken since."""

    wakes: int  # as the turn saw them
    due_at: int | None = None
    waits: int = 0  # children that must end before their ends wake it; 0: the next end does


@dataclass(slots=True)
class Settle:
    """Settle a promise of a run, once, and wake the run."""

    rid: str
    name: str
    state: int  # journal.OK | journal.ERROR
    value: bytes
    by: str = ""


@dataclass(slots=True)
class KvSet:
    """Write one value.  Result: the old one, or None."""

    group: str
    key: str
    value: bytes

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_name("key", self.key)


@dataclass(slots=True)
class KvUpdate:
    """Apply relative operations to one value.  Result: (old, new)."""

    group: str
    key: str
    ops: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_name("key", self.key)


@dataclass(slots=True)
class KvDelete:
    """Remove one value.  Result: the old one, or None."""

    group: str
    key: str

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_name("key", self.key)


@dataclass(slots=True)
class KvClear:
    """Remove a whole group.  Result: how many went."""

    group: str


@dataclass(slots=True)
class Control:
    """
    Do to a run what its owner did not ask for.

    `action`: cancel | pause | resume | redrive | redrive_new | discard.  A run
    that is running elsewhere is asked (`Run.asked`), and its worker answers.
    """

    rid: str
    action: str
    error: bytes | None = None
    input: bytes | None = None  # redrive with another input


@dataclass(slots=True)
class Due:
    """The store's own: a scheduled run is due.  Never sent by the engine."""

    run: int


Change = (
    Begin | Publish | Finish | Release | Park | Settle | KvSet | KvUpdate | KvDelete | KvClear | Control | Due
)


@dataclass(slots=True)
class Batch:
    """What one turn, attempt or client wants to become true, all or nothing."""

    run: int = 0  # the row this batch speaks for; 0: none
    epoch: int = 0  # guard: the run is running, at this epoch
    entries: list[Entry] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    size: int = 0  # bytes of its values, near enough


# ---- outcomes


@dataclass(slots=True, frozen=True)
class Applied:
    """Everything in the batch is durable.  `results` has one item for each change."""

    results: list[Any]


@dataclass(slots=True, frozen=True)
class Refused:
    """
    Nothing of the batch was written, because a guard did not hold.

    `why`: run_epoch | worker_epoch | wakes | promise | kv_version | id_taken |
    group_missing | update | status | unknown_run | poison.  `current` is what was found instead.
    The committer adds `unavailable`: the store was away for too long.
    """

    why: str
    current: Any = None


@dataclass(slots=True, frozen=True)
class Unknown:
    """The connection was lost at the worst moment: applied or not, nobody can tell."""

    reason: str


Outcome = Applied | Refused | Unknown
APPLIED = Applied([])


@dataclass(slots=True, frozen=True)
class Begun:
    """Result of `Begin`: the run that has the id now, and whether this batch made it."""

    run: Run
    created: bool


@dataclass(slots=True, frozen=True)
class Published:
    """Result of `Publish`: the handlers that got a copy (none: kept as unrouted)."""

    mid: str
    handlers: tuple[str, ...]
