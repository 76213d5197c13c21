"""One schedule: what is run, when whoever runs it is killed, and what must be true in the end.

Everything follows from a seed, except what the operating system adds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.torture import killer
from tests.torture.child import DRAINED, Orders
from tests.torture.inquest import Inquest, journaled
from tests.torture.ledger import Ledger
from tests.torture.nursery import Child, Nursery
from tests.torture.replays import PROGRAMS

MODULE = "tests.torture.child"
MOST_KILLS = 4  # a run that is claimed five times without a new entry is set aside
# How many of each there are in a schedule, about: a kill that is too late kills nobody.
TYPICAL = {
    killer.COMMIT_BEFORE: 40,
    killer.COMMIT_INSIDE: 40,
    killer.COMMIT_AFTER: 40,
    killer.RUN_BEFORE: 50,
    killer.RUN_AFTER: 50,
    killer.HAND_BEFORE: 60,
    killer.HAND_AFTER: 60,
    killer.WRITE_BEFORE: 4,
    killer.WRITE_AFTER: 4,
    killer.WHENEVER: 400,
    killer.DRAIN: 300,
}


@dataclass
class Tally:
    """What happened in one schedule."""

    kills: list[str] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        found = ", ".join(f"{n} {what}" for what, n in self.found.items())
        return f"{len(self.kills)} kills ({', '.join(self.kills)}), {found}"


class Schedule:
    """
    One schedule.

    Args:
        seed: Decides everything.
        kinds: Of the events at which somebody may be killed.
    """

    def __init__(self, seed: int, url: str, folder: Path, nursery: Nursery) -> None:
        self._random = random = Random(seed)
        self._url = url
        self._folder = folder
        self._nursery = nursery
        chosen = random.choices(list(PROGRAMS), k=random.randrange(2, 7))
        self._programs: list[list[Any]] = [
            [f"r_{name}-{number}", name, random.randrange(2, 6)] for number, name in enumerate(chosen)
        ]
        self._messages = random.choice((0, 1, 3, 6, 12))
        self._evict = random.choice(("lru", "lru", "always"))
        self._concurrency = random.choice((2, 5, 50))
        self._processes = random.choice((1, 1, 2))
        self._kills_left = random.randrange(1, MOST_KILLS + 1)
        self._freezes = random.random() < 0.05
        self._processes = 2 if self._freezes else self._processes
        self._started = 0
        self._before: dict[int, frozenset[str]] = {}
        self._killed: set[int] = set()
        self._ledger = Ledger(folder / "ledger")
        self.tally = Tally()

    def run(self) -> Tally:
        """Run it to its end, and hold the inquest."""
        working = {self._start(publisher=number == 0): number == 0 for number in range(self._processes)}
        while working:
            child = self._nursery.wait_any(list(working))
            publisher = working.pop(child)
            if child.code == 0:
                continue
            assert child.code in (-9, DRAINED), (
                f"a child ended with {child.code}:\n{child.log.read_text()[-8000:]}"
            )
            working[self._start(publisher=publisher)] = publisher
        inquest = Inquest(
            self._url, self._ledger, self._programs, self._killed, self._before, froze=self._freezes
        )
        found = inquest.hold()
        self.tally.found = found
        self._ledger.close()
        return self.tally

    def _start(self, *, publisher: bool) -> Child:
        self._started += 1
        who = self._started
        if who > 1:
            self._before[who] = journaled(self._url)
        kill = self._kill()
        orders = Orders(
            who,
            self._url,
            str(self._folder / "ledger"),
            self._programs,
            self._messages,
            kill,
            self._evict,
            self._concurrency,
            publisher,
            killer.LEASE if self._freezes else 15.0,
            self._random.choice((0.0, 5.0)),
        )
        if kill or self._freezes:  # with a lease so short, one that is only slow may be taken from
            self._killed.add(who)
        if kill:
            self.tally.kills.append(f"{kill[0]}#{kill[1]}")
        return self._nursery.fork(MODULE, asdict(orders), self._folder / f"child-{who}.log")

    def _kill(self) -> list[Any]:
        if not self._kills_left:
            return []
        self._kills_left -= 1
        if self._freezes:
            self._kills_left = 0
            return [killer.FREEZE, self._random.randrange(1, 200)]
        kind = self._random.choice(list(TYPICAL))
        return [kind, self._random.randrange(1, TYPICAL[kind] + 1)]
