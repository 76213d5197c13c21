"""A store that goes away for a while: nothing is lost, nobody inside notices, everybody outside is told."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from everstep.core.batch import Batch, KvUpdate, Unknown
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.context import Context
from everstep.engine.engine import Engine
from everstep.errors import StoreUnavailable
from everstep.store.base import Claim, Committed, WorkerRef
from everstep.store.sqlite import SqliteStore
from tests.torture.engines import ONE_MORE, body, done, sent, step, until, url_in, value, working

pytestmark = pytest.mark.anyio

WRITES = frozenset({"commit", "beat", "register", "take_over", "retire", "sweep", "subscribe", "put_blob"})
READS = frozenset({"entries", "promises", "kv_get", "kv_list", "kv_groups", "asked", "workers", "next_due"})


class Fickle(SqliteStore):
    """A store some of whose methods fail while it is `away`, and which can be in doubt of a commit."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.away: frozenset[str] = frozenset()
        self.failed = 0
        self.poison: Callable[[Batch], bool] = lambda batch: False
        self.doubts: Callable[[Batch], bool] = lambda batch: False

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        if any(map(self.poison, batches)):
            raise ValueError("this cannot be written")
        done = await super().commit(worker, batches, claim)
        if worker is not None and any(map(self.doubts, batches)):
            self.doubts = lambda batch: False
            return Committed([Unknown("nobody heard the answer")] * len(batches))
        return done

    def leave(self, *methods: Iterable[str]) -> None:
        self.away = frozenset(name for some in methods for name in some)

    def come_back(self) -> None:
        self.away = frozenset()


def _failing(name: str) -> Any:
    original = getattr(Fickle, name)

    async def method(self: Fickle, *args: Any, **kwargs: Any) -> Any:
        if name in self.away:
            self.failed += 1
            raise StoreUnavailable(f"{name}: on purpose")
        return await original(self, *args, **kwargs)

    return method


for _name in WRITES | READS:
    setattr(Fickle, _name, _failing(_name))


@pytest.fixture
def store(tmp_path: Path) -> Fickle:
    return Fickle(url_in(tmp_path))


async def nothing(this: Attempt) -> None:
    pass


@pytest.mark.parametrize("method", ["beat", "workers", "next_due", "sweep"])
async def test_an_idle_process_notices_by_itself_that_the_store_is_back(store: Fickle, method: str) -> None:
    """Whoever found out that it was lost, the process is ready again without anybody asking for anything."""
    async with working(store, step(nothing), lease=1.0) as engine:
        store.leave([method], {"commit"})
        await until(lambda: not engine.ready)
        store.come_back()
        await until(lambda: engine.ready)

        assert (await done(engine, await sent(engine))).state is Status.DONE


async def test_a_short_absence_is_waited_for(store: Fickle) -> None:
    """A request during a failover of half a second is served as if nothing had been."""
    async with working(store, step(nothing)) as engine:
        store.leave(WRITES, READS)
        sending = asyncio.ensure_future(sent(engine))
        await asyncio.sleep(0.5)
        store.come_back()

        assert (await done(engine, await sending)).state is Status.DONE


async def test_whoever_asks_from_outside_is_told_within_seconds(store: Fickle) -> None:
    """A message that cannot be kept is refused, and is not sent later; the next one is refused at once."""
    async with working(store, step(nothing)) as engine:
        store.leave(WRITES)
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(6):
                await sent(engine)
        assert not engine.ready
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await engine.kv_set("g", "k", b"1")
        assert time.monotonic() - began < 0.5

        store.come_back()
        await until(lambda: engine.ready)
        accepted = await sent(engine)
        await done(engine, accepted)

        assert [run.rid for run in await engine.store.runs()] == [accepted]
        assert await value(engine, "k") is None


async def test_a_large_message_is_told_too(store: Fickle) -> None:
    """Values that travel before the commit wait no longer than others, and hold up nobody."""
    async with working(store, step(nothing)) as engine:
        store.leave(WRITES)
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(6):
                await sent(engine, data="x" * 100_000)
        store.come_back()
        await until(lambda: engine.ready)

        assert (await done(engine, await sent(engine, data="x" * 100_000))).state is Status.DONE


async def test_a_handler_does_not_notice(store: Fickle) -> None:
    """Its effects wait and are applied once, its reads wait too, and no attempt is counted."""
    working_now = asyncio.Event()
    go_on = asyncio.Event()

    async def call(this: Attempt) -> None:
        working_now.set()
        await go_on.wait()
        assert await this.effects.kv_get("g", "n") is None
        await this.effects.kv_update("g", "n", ONE_MORE)
        assert [key for key, _ in await this.effects.kv_list("g")] == ["n"]

    async with working(store, step(call)) as engine:
        rid = await sent(engine)
        await working_now.wait()
        store.leave(WRITES, READS)
        go_on.set()
        await until(lambda: store.failed > 3)
        store.come_back()
        run = await done(engine, rid)

        assert (run.state, run.attempt, await value(engine, "n")) == (Status.DONE, 0, {"n": 1})


async def test_a_body_does_not_notice(store: Fickle) -> None:
    """What its functions answered is kept until it can be written; none is called again."""
    called: list[int] = []

    async def add(i: int) -> int:
        called.append(i)
        if i == 2:
            store.leave(WRITES, READS)
        return i + 1

    async def adding(ctx: Context, n: int) -> int:
        for _ in range(5):
            n = await ctx.run(add, n)
        return n

    async with working(store, body(adding)) as engine:
        begun = await engine.begin("body", b"0")
        await until(lambda: store.failed > 5)
        store.come_back()
        run = await done(engine, begun.run.rid)

    assert (run.state, run.output, called) == (Status.DONE, b"5", [0, 1, 2, 3, 4])


async def test_a_journal_that_cannot_be_read_now_sets_no_run_aside(store: Fickle) -> None:
    """A run that is claimed meanwhile is given back, and goes on when the store is back."""

    async def leave() -> None:
        store.leave({"entries"})

    async def resting(ctx: Context, _: None) -> str:
        await ctx.run(leave)
        await ctx.sleep(0.05)
        return "rested"

    async with working(store, body(resting), evict="always") as engine:
        begun = await engine.begin("body", b"null")
        await until(lambda: store.failed)
        store.come_back()
        run = await done(engine, begun.run.rid)

    assert (run.state, run.output) == (Status.DONE, b'"rested"')


async def test_a_second_attempt_that_cannot_be_begun_now_is_begun_later(store: Fickle) -> None:
    """What an attempt must remember cannot be read: it waits for it, and is no failure."""

    async def flaky(this: Attempt) -> None:
        if this.number == 1:
            store.leave({"entries"})
            raise ValueError("on purpose")

    async with working(store, step(flaky)) as engine:
        rid = await sent(engine)
        await until(lambda: store.failed)
        store.come_back()
        run = await done(engine, rid)

    assert (run.state, run.attempt) == (Status.DONE, 1)


async def test_a_worker_that_leaves_while_the_store_is_away_says_so_and_ends(store: Fickle) -> None:
    """The end does not wait for a store that may never come; others take over what is left."""

    async def slow(this: Attempt) -> None:
        await this.effects.kv_update("g", "n", ONE_MORE)

    ended = time.monotonic()
    async with working(store, step(slow), drain=0.2) as engine:
        store.leave(WRITES)
        with pytest.raises(StoreUnavailable):
            await sent(engine)
        ended = time.monotonic()
    assert time.monotonic() - ended < 8

    store.come_back()
    async with working(store, step(slow)) as engine:
        await done(engine, await sent(engine))
        assert json.dumps(await value(engine, "n")) == '{"n": 1}'


# ---- what cannot be written, and what nobody can tell


async def test_a_batch_that_cannot_be_written_sets_its_run_aside(store: Fickle) -> None:
    """Its neighbours are written; the run is kept, with the reason, and goes on when it is mended."""

    async def add(n: int) -> int:
        return n + 1

    async def adding(ctx: Context, n: int) -> int:
        return await ctx.run(add, await ctx.run(add, n))

    store.poison = lambda batch: any(entry.value == b"11" for entry in batch.entries)
    async with working(store, body(adding)) as engine:
        runs = [(await engine.begin("body", b"%d" % n)).run for n in (0, 10, 20)]
        assert (await done(engine, runs[0].rid)).output == b"2"
        assert (await done(engine, runs[2].rid)).output == b"22"
        await until(lambda: _aside(engine, runs[1].rid))

        store.poison = lambda batch: False
        await engine.control(runs[1].rid, "resume")
        assert (await done(engine, runs[1].rid)).output == b"12"


async def _aside(engine: Engine, rid: str) -> bool:
    run = await engine.store.run(rid)
    assert run is not None
    return run.state is Status.NEEDS_ATTENTION and b"cannot be written" in (run.error or b"")


async def test_an_effect_that_cannot_be_written_is_the_handlers_error(store: Fickle) -> None:
    """It fails its attempt, as any other error does."""

    async def call(this: Attempt) -> None:
        await this.effects.kv_update("g", "n", ONE_MORE)

    store.poison = lambda batch: any(isinstance(change, KvUpdate) for change in batch.changes)
    async with working(store, step(call)) as engine:
        run = await done(engine, await sent(engine))

        assert (run.state, run.attempt, await value(engine, "n")) == (Status.FAILED, 4, None)


@pytest.mark.parametrize("applied", ["effect", "end"])
async def test_nobody_drives_on_in_doubt(store: Fickle, applied: str) -> None:
    """Who cannot know what became of a commit begins anew; the store knows, and each effect is there once."""

    async def call(this: Attempt) -> None:
        await this.effects.kv_update("g", "n", ONE_MORE)
        if applied == "end":
            store.doubts = lambda batch: bool(batch.run)

    if applied == "effect":
        store.doubts = lambda batch: any(isinstance(change, KvUpdate) for change in batch.changes)
    async with working(store, step(call), lease=1.0) as engine:
        rid = await sent(engine)
        run = await done(engine, rid)
        again = await done(engine, await sent(engine))

        assert (run.state, again.state, await value(engine, "n")) == (Status.DONE, Status.DONE, {"n": 2})
        assert await engine.store.sweep(10**15) == (0, 0)
