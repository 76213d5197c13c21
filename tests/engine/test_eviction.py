"""Leaving memory while waiting: nothing is recorded, nobody cancelled, nothing left to the collector."""

import asyncio
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from everstep.core.batch import Finish, Park
from everstep.engine.context import Context
from everstep.engine.runloop import STUCK, LaneTask
from everstep.engine.turn import TurnEnd
from everstep.errors import Evicted
from tests.engine.world import World, calm

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio says nothing: no task destroyed while pending, no exception never retrieved."""
    yield
    gc.collect()
    assert not [r for r in caplog.records if r.name == "asyncio" and r.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", ["gather", "TaskGroup"])
async def test_a_branch_that_waits_does_not_cancel_its_siblings(kind: str) -> None:
    """A promise that is not settled stays pending; the charge beside it goes on and ends."""
    log: list[str] = []

    async def body(ctx: Context, _: Any) -> str:
        async def waits() -> str:
            return str(await ctx.promise("signature", str))

        async def charges() -> None:
            try:
                await ctx.run(world.io, name="charge")
                log.append("charged")
            except asyncio.CancelledError:
                log.append("cancelled half way")
                raise

        if kind == "gather":
            return (await asyncio.gather(waits(), charges()))[0]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(waits())
            group.create_task(charges())
        return waiting.result()

    world = World(body)

    assert await world.go() is TurnEnd.PARKED
    assert log == ["charged"]

    assert world.turn is not None
    world.turn.evict()
    assert log == ["charged"]

    world.settle("signature", b'"me"')
    world.drive = None
    assert await world.to_the_end() == "me"
    assert world.ran == ["r_test:0/1.0"]


async def test_an_evicted_body_records_nothing_and_sees_evicted_only() -> None:
    """`finally` runs, `except Exception` does not, nor `except CancelledError`; ctx calls raise Evicted."""
    log: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        log.append("lock taken")
        try:
            try:
                await ctx.promise("signature")
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
            except Exception:
                log.append("exception")
                raise
            except BaseException as error:
                log.append(type(error).__name__)
                raise
        finally:
            log.append("lock released")
            for ask in (lambda: ctx.run(world.io), lambda: ctx.sleep(1), lambda: asyncio.sleep(1)):
                try:
                    await ask()
                except Evicted:
                    log.append("refused")

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    assert world.turn is not None
    world.turn.evict()

    assert log == ["lock taken", "Evicted", "lock released", "refused", "refused", "refused"]
    assert not world.journal
    assert not world.ran
    assert not world.commits


async def test_every_task_is_told_to_go_within_the_call() -> None:
    """Nested tasks end with Evicted at their innermost await; nothing is left for later."""
    gone: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        async def leaf(name: str) -> None:
            try:
                await ctx.promise(name)
            except BaseException as error:
                gone.append(f"{name} {type(error).__name__}")
                raise

        async def middle() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(leaf("a"))
                    group.create_task(leaf("b"))
            finally:
                gone.append("group left")

        await asyncio.gather(middle(), leaf("c"), asyncio.Event().wait())

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    assert world.turn is not None
    assert not gone
    world.turn.evict()

    assert sorted(gone) == ["a Evicted", "b Evicted", "c Evicted", "group left"]


async def test_a_task_that_resists_is_kept_and_counted() -> None:
    """One that catches Evicted and waits again is never left to the collector."""

    async def body(ctx: Context, _: Any) -> None:
        waiting = asyncio.create_task(ctx.promise("never").wait())
        for _ in range(100):
            try:
                await asyncio.Event().wait()
            except BaseException:
                pass
        await waiting

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    before = len(STUCK)
    assert world.turn is not None
    world.turn.evict()
    gc.collect()

    assert len(STUCK) == before + 1
    kept = STUCK[-1]
    assert isinstance(kept, LaneTask)
    assert kept.get_name() == "0"


async def test_with_evict_always_every_wait_is_replayed() -> None:
    """The body starts again after each wait, and calls nothing twice."""
    passes: list[int] = []

    async def body(ctx: Context, _: Any) -> list[Any]:
        passes.append(1)
        first = await ctx.run(world.io, 1)
        await ctx.sleep("1h")
        second = await ctx.run(world.io, 2)
        await asyncio.sleep(10)
        return [first, second]

    world = World(body, evict_always=True)

    assert await world.to_the_end() == [1, 2]
    assert len(passes) == 3
    assert len(world.ran) == 2


async def test_a_timer_within_a_second_is_waited_for_in_memory() -> None:
    """A short wait costs no commit of its own; a long one parks until it is due."""

    async def body(ctx: Context, _: Any) -> None:
        await asyncio.sleep(0.9)
        await ctx.sleep(3600)

    world = World(body)
    assert await world.go() is TurnEnd.PARKED

    assert [entry.kind for batch in world.batches for entry in batch.entries] == ["timer"]
    assert world.parked is not None
    assert world.parked.due_at == world.journal["0", 0].at + 3_600_000_000


async def test_a_parked_turn_goes_on_in_memory_without_replay() -> None:
    """Claimed again by the same worker, it reads its promises and goes on."""
    passes: list[int] = []

    async def body(ctx: Context, _: Any) -> str:
        passes.append(1)
        await ctx.run(world.io)
        return str(await ctx.promise("signature", str))

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    world.settle("signature", b'"me"')
    world.resume()

    assert await world.to_the_end() == "me"
    assert passes == [1]
    assert world.run.epoch == 2
    assert [batch.epoch for batch in world.batches] == [1, 1, 2, 2]


async def test_a_promise_settled_while_parking_is_seen() -> None:
    """A park is refused when somebody woke the run meanwhile; then the promise is read and handed over."""

    async def body(ctx: Context, _: Any) -> str:
        return str(await ctx.promise("signature", str))

    world = World(body)
    world.claim()
    await calm()
    assert [type(change) for change in world.commits[0][0].changes] == [Park]
    world.settle("signature", b'"me"')

    assert await world.to_the_end() == "me"
    assert world.run.epoch == 1


async def test_a_promise_settled_before_it_is_asked_for_is_handed_over() -> None:
    """Whoever settled it need not wait until the body is there."""

    async def body(ctx: Context, _: Any) -> str:
        await ctx.run(world.io)
        return str(await ctx.promise("signature", str))

    world = World(body)
    world.settle("signature", b'"me"')

    assert await world.to_the_end() == "me"


async def test_a_promise_settled_while_functions_run_is_handed_over_when_the_turn_is_told() -> None:
    """`Turn.wake` looks although a function is in flight."""

    async def body(ctx: Context, _: Any) -> list[str]:
        log: list[str] = []

        async def signed() -> None:
            log.append(str(await ctx.promise("signature", str)))

        async def slow() -> None:
            await ctx.run(world.io)
            log.append("slow")

        await asyncio.gather(signed(), slow())
        return log

    world = World(body)
    turn = world.claim()
    await calm()
    world.settle("signature", b'"me"')
    turn.wake()
    await calm()
    world.land()

    assert await world.to_the_end() == ["me", "slow"]


async def test_the_end_of_a_body_evicts_what_it_left_waiting() -> None:
    """A worker that waits for a queue for ever ends with the body, as under asyncio.run."""
    gone: list[str] = []

    async def body(ctx: Context, _: Any) -> int:
        queue: asyncio.Queue[int] = asyncio.Queue()

        async def consumer() -> None:
            try:
                while True:
                    await queue.get()
            finally:
                gone.append("consumer")

        task = asyncio.create_task(consumer())
        await ctx.run(world.io)
        assert not task.done()
        return 1

    world = World(body)

    assert await world.to_the_end() == 1
    assert gone == ["consumer"]
    assert isinstance(world.end, Finish)
