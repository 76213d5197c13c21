"""The works, each in the file of what it measures, and their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from bench.figure import Figure
from bench.place import Place


@dataclass(slots=True, frozen=True)
class Wish:
    """What was asked for on the command line."""

    place: Place
    variant: str = "plain"
    quick: bool = False  # a look whether it works: one small round, no warm-up

    @property
    def rounds(self) -> int:
        """How often to measure; the median is reported."""
        return 1 if self.quick else 5

    def size(self, full: int, quick: int) -> int:
        """How much work a round has."""
        return quick if self.quick else full


class NotYet(Exception):
    """What this work measures does not exist in this version, or not on this store."""


Work = Callable[[Wish], Coroutine[Any, Any, Figure]]


def works() -> dict[str, tuple[Work, str]]:
    """Name -> (how to measure it, what it is)."""
    from bench.works import calls, crash, entries, messages, routes, start, state, wake

    return {
        "W1": (calls.throughput, "workflows of 10 ctx.run each, 100 in flight: calls/s"),
        "W2": (calls.latency, "a workflow of one call, alone, start to result: ms (p50)"),
        "W4": (calls.fan_out, "1,000 parallel calls in one workflow: s"),
        "W5": (crash.recovery, "kill -9 amid W1, until all is done, less the work left: s"),
        "W6a": (messages.queue, "messages through a queue Step: messages/s"),
        "W6b": (messages.effects, "the same, each with one state write and one enqueue: messages/s"),
        "W6c": (messages.fifo, "the same, FIFO over 100 groups: messages/s"),
        "W6d": (messages.two_processes, "a backlog, drained by two processes instead of one: messages/s"),
        "W7a": (routes.trivial, "a trivial http Step: requests/s"),
        "W7b": (routes.enqueuing, "an http Step with one enqueue: ms (p50)"),
        "W8": (state.writes, "state writes without triggers: writes/s"),
        "W9": (wake.replay, "wake after eviction at 10,000 entries: entries/s"),
        "entries": (entries.groups, "the store alone: groups of batches of one entry: entries/s"),
        "import": (start.imports, "import everstep in a fresh process: ms"),
        "start": (start.ready, "everstep start in an empty folder, until /ready: s"),
    }
