"""What a run may be, and what it may become: one table.

Every change of status in the product goes through `advance`, so this table is
the whole life of a run.  A status is an integer in the stores (the order of
`Status`) and its name everywhere else.

Floor 1.  May import: core, floor 0.  Imported by: core.decide, store, engine.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The states of a run; the number is what stores keep, so it never changes."""

    SCHEDULED = 0  # not before its due time: a delay, or the pause before a retry
    QUEUED = 1  # behind another run of its key
    READY = 2  # any worker may claim it
    RUNNING = 3  # claimed by the worker in its row
    PARKED = 4  # waits for a promise, a person or a time; holds nothing
    PAUSED = 5  # set aside by somebody; goes on when resumed
    NEEDS_ATTENTION = 6  # the system will not go on alone; the error says why
    DONE = 7
    FAILED = 8  # for a message: in the dead-letter list
    CANCELLED = 9
    SKIPPED = 10  # its trigger's condition said no

    @property
    def ended(self) -> bool:
        """True once the run can only be redriven, never go on by itself."""
        return self >= Status.DONE

    @property
    def label(self) -> str:
        """The word shown to people and in JSON: ``"needs_attention"``."""
        return self.name.lower()


S = Status

# event -> {status before: status after}.  Whatever makes a run ready makes it
# `queue` at once when another run holds its key; `head` ends that.
TABLE: dict[str, dict[Status, Status]] = {
    "promote": {S.SCHEDULED: S.READY, S.PARKED: S.READY},
    "queue": {S.READY: S.QUEUED},
    "head": {S.QUEUED: S.READY},
    "claim": {S.READY: S.RUNNING},
    "park": {S.RUNNING: S.PARKED},
    "wake": {S.PARKED: S.READY},
    "release": {S.RUNNING: S.READY},
    "backoff": {S.RUNNING: S.SCHEDULED},
    "finish": {S.RUNNING: S.DONE},
    "fail": {S.RUNNING: S.FAILED},
    "skip": {S.RUNNING: S.SKIPPED},
    "attention": {S.RUNNING: S.NEEDS_ATTENTION, S.READY: S.NEEDS_ATTENTION},
    "pause": dict.fromkeys((S.SCHEDULED, S.QUEUED, S.READY, S.RUNNING, S.PARKED), S.PAUSED),
    "resume": {S.PAUSED: S.READY, S.NEEDS_ATTENTION: S.READY},
    "cancel": dict.fromkeys(
        (S.SCHEDULED, S.QUEUED, S.READY, S.RUNNING, S.PARKED, S.PAUSED, S.NEEDS_ATTENTION), S.CANCELLED
    ),
    # A body that has begun is not ended from outside: it is roused, to see the cancel itself.
    "rouse": dict.fromkeys((S.SCHEDULED, S.PARKED, S.PAUSED, S.NEEDS_ATTENTION), S.READY),
    "discard": {S.FAILED: S.CANCELLED, S.NEEDS_ATTENTION: S.CANCELLED},
    "redrive": {S.FAILED: S.READY, S.CANCELLED: S.READY, S.NEEDS_ATTENTION: S.READY},
}

# Statuses in which the head of a key keeps it: the next of the key must wait.
HOLDS_KEY = frozenset({S.SCHEDULED, S.READY, S.RUNNING, S.PARKED, S.PAUSED, S.NEEDS_ATTENTION})


class WrongStatus(Exception):
    """An event came to a run in a status that does not know it."""

    def __init__(self, event: str, status: Status, found: str = "") -> None:
        allowed = ", ".join(s.label for s in TABLE[event])
        super().__init__(f"cannot {event} a run that is {found or status.label}; it must be {allowed}")
        self.event = event
        self.status = status


def advance(status: int, event: str) -> Status:
    """
    Return the status after *event*; a status may be given as its number.

    Raises:
        WrongStatus: The table has no such step.
    """
    after: Status | None = TABLE[event].get(status)  # type: ignore[call-overload]  # it equals its number
    if after is None:
        raise WrongStatus(event, Status(status))
    return after


def can(status: Status, event: str) -> bool:
    """True when `advance` would not raise."""
    return status in TABLE[event]
