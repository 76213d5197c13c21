"""A host for turns whose journal is a dict, and in which everything happens when the test says so.

Functions of ctx.run wait in `World.io`, commits and alarms wait too; at each
step one of them, chosen by the seed, goes on.  Between any two steps the
process may die: the turn is thrown away, the journal stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from everstep.codec import codec_for
from everstep.core.batch import Applied, Asked, Batch, Finish, Mode, Outcome, Park, Refused, Release, Run
from everstep.core.failure import decode_error
from everstep.core.journal import Entry
from everstep.engine.calls import attempt
from everstep.engine.registry import Handler
from everstep.engine.turn import Turn, TurnEnd
from everstep.store.base import PromiseRow

START = 1_700_000_000_000_000
RUNNING, PARKED = 3, 4
Body = Callable[..., Awaitable[Any]]


class Alarm:
    """One call of `World.at`."""

    def __init__(self, world: World, due: int, fn: Callable[[], None]) -> None:
        self.world, self.due, self.fn = world, due, fn

    def cancel(self) -> None:
        self.world.alarms.remove(self)


class World:
    """One run, its journal, and the process that drives it (the host of its turns)."""

    def __init__(self, body: Body, seed: int = 0, *, evict_always: bool = False) -> None:
        self.random = Random(seed)
        self.handler = Handler("body", Mode.REPLAY, body, input=codec_for(Any), output=codec_for(Any))
        self.run = Run(
            id=1,
            rid="r_test",
            handler="body",
            mode=Mode.REPLAY,
            status=RUNNING,
            input=b"null",
            created_at=START,
            started_at=START,
        )
        self.clock = START
        self.journal: dict[tuple[str, int], Entry] = {}
        self.settled: list[PromiseRow] = []
        self.evict_always = evict_always
        self.end: Finish | Release | None = None
        self.parked: Park | None = None
        self.commits: list[tuple[Batch, Callable[[Outcome], None]]] = []
        self.alarms: list[Alarm] = []
        self.ios: list[tuple[asyncio.Future[Any], Any]] = []
        self.ran: list[str] = []  # idempotency keys, one for each time a function ran
        self.batches: list[Batch] = []
        self.turn: Turn | None = None
        self.drive: asyncio.Task[TurnEnd] | None = None
        self.accept_args = False

    # ---- the host of turns

    @property
    def store(self) -> Any:
        return self

    async def entries(self, run: int, generation: int) -> list[Entry]:
        return sorted(self.journal.values(), key=lambda e: (e.seq is None, e.seq or 0))

    async def promises(self, run: int) -> list[PromiseRow]:
        return list(self.settled)

    def now(self) -> int:
        return self.clock

    def commit(self, batch: Batch, done: Callable[[Outcome], None]) -> None:
        assert not self.commits, "two batches of one run in flight"
        self.commits.append((batch, done))

    def at(self, due_us: int, fn: Callable[[], None]) -> Alarm:
        alarm = Alarm(self, due_us, fn)
        self.alarms.append(alarm)
        return alarm

    # ---- what functions of ctx.run call

    async def io(self, *answer: Any) -> Any:
        """Wait until the world lets this call go on; the answer is what it was given."""
        key = attempt().idempotency_key
        self.ran.append(key)
        lane, _, pos = key.partition(":")[2].rpartition(".")
        assert (lane, int(pos)) not in self.journal, f"{key} ran again although its answer is in the journal"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ios.append((future, answer))
        return await future

    # ---- one step at a time

    def apply(self, batch: Batch) -> Outcome:
        """What a store does with a batch of a turn."""
        if batch.epoch != self.run.epoch or self.run.status != RUNNING:
            return Refused("run_epoch", self.run.epoch)
        for change in batch.changes:
            if isinstance(change, Park) and change.wakes != self.run.wakes:
                return Refused("wakes", self.run.wakes)
        for entry in batch.entries:
            assert (entry.lane, entry.pos) not in self.journal, f"{entry.address} was written twice"
            self.journal[entry.lane, entry.pos] = entry
        seqs = sorted(e.seq for e in self.journal.values() if e.seq is not None)
        assert seqs == list(range(1, len(seqs) + 1)), "the order of delivery has a hole"
        for change in batch.changes:
            if isinstance(change, Park):
                self.run.status = PARKED
                self.parked = change
            else:
                assert isinstance(change, Finish | Release)
                self.run.status = 99
                self.end = change
        self.batches.append(batch)
        return Applied([])

    def land(self) -> None:
        """Let the batch in flight become durable, and say so."""
        batch, done = self.commits.pop()
        done(self.apply(batch))

    def settle(self, name: str, value: bytes, state: int = 0) -> None:
        """Somebody settles a promise."""
        self.settled.append(PromiseRow(name, state, value, "", self.clock))
        self.run.wakes += 1

    def choices(self) -> list[Callable[[], None]]:
        """What can happen next."""
        found: list[Callable[[], None]] = []
        found += [lambda io=io: self.answer(io) for io in self.ios]  # type: ignore[misc]
        if self.commits:
            found.append(self.land)
        if self.alarms:
            found.append(self.ring)
        return found

    def answer(self, io: tuple[asyncio.Future[Any], Any]) -> None:
        """Let one function go on."""
        self.ios.remove(io)
        future, answer = io
        if not future.done():
            future.set_result(answer[0] if len(answer) == 1 else list(answer))

    def ring(self) -> None:
        """Let time pass until the next alarm."""
        alarm = min(self.alarms, key=lambda a: a.due)
        self.alarms.remove(alarm)
        self.clock = max(self.clock, alarm.due)
        alarm.fn()

    def step(self) -> bool:
        """Let one thing happen; False when nothing can."""
        choices = self.choices()
        if not choices:
            return False
        self.clock += self.random.randrange(1, 3_000)
        self.random.choice(choices)()
        return True

    # ---- processes

    def claim(self) -> Turn:
        """A process takes the run."""
        self.run.epoch += 1
        self.run.status = RUNNING
        self.run.parked_wakes = self.run.wakes
        self.parked = None
        self.turn = Turn(self, self._row(), self.handler, accept_args=self.accept_args)
        self.drive = asyncio.ensure_future(self.turn.drive())
        return self.turn

    def resume(self) -> None:
        """The process that parked the run takes it again."""
        assert self.turn is not None
        self.run.epoch += 1
        self.run.status = RUNNING
        self.parked = None
        self.drive = asyncio.ensure_future(self.turn.resume(self._row()))

    def _row(self) -> Run:
        return Run(**{name: getattr(self.run, name) for name in Run.__slots__})

    async def go(self, steps: int | None = None) -> TurnEnd | None:
        """Let things happen until the drive ends (its end), nothing can, or so many steps were made."""
        if self.drive is None:
            self.claim()
        assert self.drive is not None
        while True:
            await calm()
            if self.drive.done():
                return self.drive.result()
            if steps is not None:
                if steps == 0:
                    return None
                steps -= 1
            if not self.step():
                return None

    async def crash(self) -> None:
        """The process dies: what was not durable is lost, and nobody says goodbye."""
        assert self.turn is not None
        assert self.drive is not None
        if self.commits and self.random.random() < 0.5:
            batch, _ = self.commits.pop()  # it became durable, but nobody heard of it
            self.apply(batch)
        self.commits.clear()
        self.turn.fence()
        self.ios.clear()
        await calm()
        assert self.drive.done()
        self.drive = self.turn = None
        assert not self.alarms

    async def to_the_end(self, crashes: int = 0) -> Any:
        """Drive until the run ends, with so many crashes on the way; its result, or its error raised."""
        while self.end is None:
            end = await self.go(steps=self.random.randrange(0, 12) if crashes else None)
            if end is None:
                assert crashes, f"nothing can happen any more: {self.turn}"
                crashes -= 1
                await self.crash()
            elif end is TurnEnd.PARKED:
                self.wait_out()
        return self.result()

    def wait_out(self) -> None:
        """Let the time pass that a parked run waits for; another process takes it then."""
        assert self.parked is not None
        assert self.parked.due_at is not None, "parked for ever"
        assert self.turn is not None
        self.turn.evict()
        self.clock = max(self.clock, self.parked.due_at)
        self.drive = None

    async def replay(self) -> Any:
        """Another process drives the run from its whole journal; it must not do anything new."""
        known, ran = len(self.journal), len(self.ran)
        self.end = None
        self.drive = None
        await self.go()
        assert (len(self.journal), len(self.ran)) == (known, ran), "a replay did something new"
        return self.result()

    def result(self) -> Any:
        """What the body returned."""
        if isinstance(self.end, Finish) and self.end.event == "finish":
            return codec_for(Any).decode(self.end.output or b"null")
        assert self.end is not None
        if isinstance(self.end, Finish) and self.end.event == "cancel":
            raise asyncio.CancelledError
        raise decode_error(self.end.error or b"")


async def calm() -> None:
    """Let the process's loop run until it has nothing to do."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110  # asyncio has no other word for "nothing left to do"
        await asyncio.sleep(0)


__all__ = ["START", "Asked", "World", "calm"]
