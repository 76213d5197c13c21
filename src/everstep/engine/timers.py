"""The timers of one turn: a heap, and one alarm for the earliest.

Floor 3.  May import: core, floor 0.  Imported by: engine.turn, engine.worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Protocol

from everstep.engine.operations import LoopTimer, Sleep


class Alarm(Protocol):
    """What `Clockwork.at` answers."""

    def cancel(self) -> None:
        """Do not ring."""


class Clockwork(Protocol):
    """The part of a host that knows the time."""

    def now(self) -> int:
        """The store's clock, in microseconds."""

    def at(self, due_us: int, fn: Callable[[], None]) -> Alarm:
        """Call *fn* once the store's clock has reached *due_us*; never early."""


LONGEST = 60.0  # seconds until the store's clock is looked at again, which may have been set


class StoreAlarm:
    """Calls a function once the store's clock has reached a time: never early, and not after `cancel`."""

    __slots__ = ("_due", "_fn", "_handle", "_now")

    def __init__(self, due_us: int, fn: Callable[[], None], now: Callable[[], int]) -> None:
        self._due = due_us
        self._fn = fn
        self._now = now
        self._handle = self._set()

    def _set(self) -> asyncio.TimerHandle:
        delay = max(0.0, (self._due - self._now()) / 1e6)
        return asyncio.get_running_loop().call_later(min(delay, LONGEST), self._ring)

    def _ring(self) -> None:
        if self._now() < self._due:
            self._handle = self._set()
        else:
            self._fn()

    def cancel(self) -> None:
        """Do not ring."""
        self._handle.cancel()


class Earliest:
    """One alarm for the earliest of many times; when it has rung, all of them are forgotten."""

    def __init__(self, at: Callable[[int, Callable[[], None]], Alarm], ring: Callable[[], None]) -> None:
        self._at = at
        self._ring = ring
        self._due: int | None = None
        self._alarm: Alarm | None = None

    def arm(self, due: int) -> None:
        """Ring at *due* too."""
        if self._due is None or due < self._due:
            self.cancel()
            self._due = due
            self._alarm = self._at(due, self._rung)

    def cancel(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._due = self._alarm = None

    def _rung(self) -> None:
        self._due = self._alarm = None
        self._ring()


class Timers:
    """What a body waits for in time.  *ring* is called when the earliest may be due."""

    __slots__ = ("_alarm", "_alarm_due", "_clock", "_count", "_heap", "_ring", "_tidy_at")

    def __init__(self, clock: Clockwork, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[int, int, LoopTimer | Sleep]] = []
        self._count = 0
        self._tidy_at = 64  # timeouts that were not needed must not pile up
        self._alarm: Alarm | None = None
        self._alarm_due = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, op: LoopTimer | Sleep) -> None:
        """Wait for one more; of those due at the same time, the one added first is first."""
        self._count += 1
        heappush(self._heap, (op.due, self._count, op))
        if len(self._heap) > self._tidy_at:
            self._heap = [item for item in self._heap if item[2].wanted()]
            heapify(self._heap)
            self._tidy_at = 64 + 2 * len(self._heap)

    def next_due(self) -> int | None:
        """When the earliest that somebody still waits for is due."""
        heap = self._heap
        while heap and not heap[0][2].wanted():
            heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self) -> list[LoopTimer | Sleep]:
        """Those that are due, in the order of their due times."""
        taken: list[LoopTimer | Sleep] = []
        due = self.next_due()
        if due is not None:
            now = self._clock.now()
            while due is not None and due <= now:
                taken.append(heappop(self._heap)[2])
                due = self.next_due()
        return taken

    def set_alarm(self) -> None:
        """Be rung when the earliest is due."""
        # An alarm that rings too early is set again, so that a timeout around
        # each call does not cost an alarm each time.
        due = self.next_due()
        if due is None or (self._alarm is not None and self._alarm_due <= due):
            return
        self.silence()
        self._alarm_due = due
        self._alarm = self._clock.at(due, self._rung)

    def silence(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def close(self) -> None:
        """Ring no more, and let go of whoever would be rung."""
        self.silence()
        self._heap.clear()
        self._ring = _nobody

    def _rung(self) -> None:
        self._alarm = None
        self._ring()


def _nobody() -> None:
    """Rung after the end."""
