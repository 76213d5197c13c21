"""anyio in a body: its groups, scopes, streams and limiters ask for nothing the loop has not."""

from typing import Any

import anyio
import pytest

from everstep.core.batch import Release
from everstep.core.failure import decode_error
from everstep.engine.context import Context
from everstep.engine.turn import TurnEnd
from tests.engine.world import World, calm

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", range(10))
async def test_an_anyio_task_group_runs_and_replays(seed: int) -> None:
    """Cancel scopes, memory streams, limiters and timeouts of anyio need nothing more than the loop has."""

    async def body(ctx: Context, _: Any) -> Any:
        out: list[Any] = []
        send, receive = anyio.create_memory_object_stream[int](3)
        limiter = anyio.CapacityLimiter(2)

        async def produce(i: int) -> None:
            async with limiter:
                await send.send(await ctx.run(world.io, i))

        async def consume() -> None:
            async for number in receive:
                out.append(number)  # noqa: PERF401

        async with receive, anyio.create_task_group() as group:
            group.start_soon(consume)
            async with send, anyio.create_task_group() as producers:
                for i in range(5):
                    producers.start_soon(produce, i)
        with anyio.move_on_after(0.004) as scope:
            out.append(await ctx.run(world.io, "slow"))
        await anyio.sleep(0.5)
        return [out, scope.cancelled_caught]

    world = World(body, seed)
    first = await world.to_the_end(crashes=3)

    assert sorted(first[0][:5]) == [0, 1, 2, 3, 4]
    assert await world.replay() == first


async def test_a_failing_anyio_group_cancels_and_cleans_up_behind_a_shield() -> None:
    """anyio cancels again and again until a task has gone; that is polling, and waits for results."""

    async def body(ctx: Context, _: Any) -> Any:
        out: list[Any] = []

        async def good() -> None:
            try:
                await ctx.run(world.io, "never")
            finally:
                with anyio.CancelScope(shield=True):
                    out.append(await ctx.run(world.io, "cleaned"))

        async def bad() -> None:
            await ctx.run(world.io, 1)
            raise ValueError("bad")

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(good)
                group.start_soon(bad)
        except* ValueError:
            out.append("failed")
        return out

    world = World(body, seed=3)
    world.claim()
    await calm()
    world.answer(world.ios[1])
    await calm()
    world.land()

    assert await world.to_the_end() == ["cleaned", "failed"]
    assert await world.replay() == ["cleaned", "failed"]


async def test_waiting_for_what_nothing_will_bring_is_a_fault() -> None:
    """A thread of anyio's, tasks that wait for each other: the run says where it stands."""

    async def helper() -> None:
        await anyio.to_thread.run_sync(print)

    async def body(ctx: Context, _: Any) -> None:
        await helper()

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert isinstance(world.end, Release)
    text = str(decode_error(world.end.error or b""))
    assert "waits for ever" in text
    assert f"test_anyio.py:{helper.__code__.co_firstlineno + 1}" in text
