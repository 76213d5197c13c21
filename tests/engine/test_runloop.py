"""The private loop: asyncio's own order in it, the same addresses each time, and nothing of the world."""

import asyncio
import contextvars
import time
from typing import Any

import pytest

from everstep.core.batch import Release
from everstep.core.failure import decode_error
from everstep.engine.context import Context
from everstep.engine.runloop import ROUNDS, Lane, LaneTask, RunLoop
from everstep.engine.turn import TurnEnd
from everstep.errors import NotReplayable, StepFailed, TerminalError
from tests.engine.world import World, calm

pytestmark = pytest.mark.anyio


def addresses(world: World) -> list[str]:
    """Where calls were recorded, in the order they were handed over."""
    return [entry.address for entry in sorted(world.journal.values(), key=lambda e: e.seq or 0)]


# ---- lanes


async def test_a_lane_is_given_when_a_task_is_made() -> None:
    """Tasks number by creation, not by who asks first; positions count what each lane asked."""

    async def body(ctx: Context, _: Any) -> None:
        async def branch(after: "asyncio.Task[Any] | None") -> None:
            if after is not None:
                await after
            await ctx.run(world.io)
            await asyncio.gather(ctx.run(world.io))

        first = asyncio.create_task(branch(None))
        await asyncio.create_task(branch(first))
        await ctx.run(world.io)

    world = World(body)
    await world.to_the_end()

    assert addresses(world) == ["0/0.0", "0/0/0.0", "0/1.0", "0/1/0.0", "0.0"]


async def test_a_branch_may_have_a_name_of_its_own() -> None:
    """A graph's nodes are addressed by name, each name once below one lane."""

    async def body(ctx: Context, _: Any) -> None:
        await ctx._branch("Build:1", ctx.run(world.io))
        again = ctx.run(world.io)
        with pytest.raises(ValueError, match="already has a branch"):
            await ctx._branch("Build:1", again)
        with pytest.raises(ValueError, match="already has a branch"):
            await ctx._branch("control", again)
        await again

    world = World(body)
    await world.to_the_end()

    assert addresses(world) == ["0/@Build:1.0", "0.0"]


async def test_tasks_made_by_callbacks_have_a_lane_of_their_own() -> None:
    """A callback runs in no task; what it makes is numbered below @callbacks."""

    async def body(ctx: Context, _: Any) -> None:
        made: list[asyncio.Task[Any]] = []
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(ctx.run(world.io))
        first.add_done_callback(lambda _: made.append(loop.create_task(ctx.run(world.io))))
        first.add_done_callback(lambda _: made.append(loop.create_task(ctx.run(world.io))))
        await first
        await asyncio.sleep(0)
        await asyncio.gather(*made)

    world = World(body, seed=1)
    await world.to_the_end()

    assert addresses(world)[0] == "0/0.0"
    assert sorted(addresses(world)[1:]) == ["0/@callbacks/0.0", "0/@callbacks/1.0"]


@pytest.mark.parametrize("pads", range(8))
async def test_a_failing_group_cancels_its_branches_in_the_same_order_each_time(pads: int) -> None:
    """Sets of tasks are walked by the tasks' numbers, not by where they lie in memory."""
    orders: list[list[int]] = []

    async def body(ctx: Context, _: Any) -> None:
        cancelled: list[int] = []
        orders.append(cancelled)
        padding = [object() for _ in range(pads * 7)]

        async def branch(i: int) -> None:
            try:
                await ctx.promise("never")
            except asyncio.CancelledError:
                cancelled.append(i)
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for i in range(20):
                    group.create_task(branch(i))
                await ctx.run(world.io)
                raise ValueError
        except* ValueError:
            pass
        del padding

    world = World(body)
    await world.to_the_end()
    world.end = world.drive = None
    _more_rubbish = [object() for _ in range(pads * 11)]
    await world.go()

    assert orders[0] == orders[1] == list(range(20))


async def test_thousands_of_tasks_of_many_runs_do_not_collide() -> None:
    """asyncio keeps all tasks of a process in one set; equal numbers of many runs must not make it slow."""
    loops = [RunLoop(None, lambda *_: None, lambda *_: None) for _ in range(3_000)]  # type: ignore[abstract]
    tasks: list[LaneTask[Any]] = []
    for loop in loops:
        coro = asyncio.sleep(0)
        loop._driven = True
        tasks.append(loop.start(coro, Lane("0")))
    assert {hash(task) for task in tasks} == {0}

    began = time.perf_counter()
    for _ in range(100):
        asyncio.create_task(asyncio.sleep(0)).cancel()
    assert time.perf_counter() - began < 0.5

    for task in tasks:
        task.get_coro().close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_task_shows_the_coroutine_of_the_user() -> None:
    """What debuggers and anyio ask of a task is answered as by asyncio's own."""
    seen: list[Any] = []

    async def body(ctx: Context, _: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.extend([task.get_coro().__name__, repr(task), task.get_stack()[0].f_code.co_name])  # type: ignore[union-attr]

    world = World(body)
    await world.to_the_end()

    assert seen[0] == "_main"
    assert "_main" in seen[1]


# ---- what is refused


async def refused(body: Any) -> str:
    """Run a body that fails; the text of its error."""
    world = World(body)
    with pytest.raises(TerminalError) as caught:
        await world.to_the_end()
    assert not world.journal
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_wait_for_and_as_completed_are_refused_on_every_version() -> None:
    """Both would have other addresses elsewhere; over tasks, as_completed works."""
    texts: list[str] = []
    lines: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        for ask in (
            lambda: asyncio.wait_for(asyncio.Event().wait(), 1),
            lambda: asyncio.wait_for(asyncio.Event().wait(), 0),
            lambda: next(iter(asyncio.as_completed([asyncio.Event().wait()]))),
        ):
            try:
                await ask()
            except NotReplayable as error:
                texts.append(error.what)
                lines.append(str(error.line).partition(":")[0])

    await World(body).to_the_end()

    assert set(lines) == {"tests/engine/test_runloop.py"}
    assert texts == ["asyncio.wait_for"] * 2 + ["asyncio.as_completed over coroutines"]


async def test_wait_for_without_a_limit_is_only_an_await() -> None:
    """It makes no task on any version."""

    async def body(ctx: Context, _: Any) -> Any:
        return await asyncio.wait_for(ctx.run(world.io, 1), None)

    world = World(body)

    assert await world.to_the_end() == 1
    assert addresses(world) == ["0.0"]


async def test_awaiting_a_future_of_the_process_is_refused_with_its_line() -> None:
    """A socket, an executor, another loop's future: the error names the user's line and ctx.run."""
    outer = asyncio.get_running_loop().create_future()

    async def helper() -> None:
        await outer

    async def body(ctx: Context, _: Any) -> None:
        await helper()

    text = await refused(body)

    assert "Future" in text
    assert f"test_runloop.py:{helper.__code__.co_firstlineno + 1}" in text
    assert "ctx.run" in text


async def test_what_is_foreign_can_be_caught_and_done_right() -> None:
    """The refusal is raised at the await, like any error; the body goes on."""
    outer = asyncio.get_running_loop().create_future()

    async def body(ctx: Context, _: Any) -> Any:
        try:
            await outer
        except NotReplayable:
            return await ctx.run(world.io, 1)

    world = World(body)

    assert await world.to_the_end() == 1


async def test_an_odd_thing_that_is_yielded_is_refused() -> None:
    """So is what other async libraries hand to their own loops."""

    class Odd:
        def __await__(self) -> Any:
            yield 42

    async def body(ctx: Context, _: Any) -> None:
        await Odd()

    assert "int" in await refused(body)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.get_running_loop().run_in_executor(None, print),
        lambda: asyncio.open_connection("127.0.0.1", 1),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    ],
)
async def test_the_world_is_refused_by_name(ask: Any) -> None:
    """Sockets, threads, processes, name lookups: the loop has none of them."""

    async def body(ctx: Context, _: Any) -> None:
        await ask()

    assert "loop." in await refused(body)


async def test_an_event_set_by_a_function_is_a_fault() -> None:
    """It would be set between other results on the next pass; the run is set aside and says so."""

    async def body(ctx: Context, _: Any) -> None:
        event = asyncio.Event()

        async def function() -> None:
            await world.io()
            event.set()

        await asyncio.gather(ctx.run(function, name="f"), event.wait())

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert isinstance(world.end, Release)
    assert "woken by something outside" in str(decode_error(world.end.error or b""))


async def test_a_thread_that_wakes_the_body_is_a_fault() -> None:
    """call_soon_threadsafe hands over what no journal has."""
    done = asyncio.Event()
    running: list[asyncio.Future[None]] = []
    loop = asyncio.get_running_loop()

    async def body(ctx: Context, _: Any) -> None:
        event = asyncio.Event()
        inner = asyncio.get_running_loop()

        def thread() -> None:
            inner.call_soon_threadsafe(event.set)
            loop.call_soon_threadsafe(done.set)

        running.append(loop.run_in_executor(None, thread))
        await event.wait()
        await ctx.run(world.io)

    world = World(body)
    world.claim()
    await done.wait()

    assert await world.go() is TurnEnd.SET_ASIDE


# ---- order, and coming to rest


async def test_a_body_that_polls_waits_for_the_next_result() -> None:
    """`while not done: await sleep(0)` does not hold up the process, and replays."""

    async def body(ctx: Context, _: Any) -> Any:
        task = asyncio.create_task(ctx.run(world.io, 7))
        while not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        return task.result()

    world = World(body)

    assert await world.to_the_end() == 7
    assert await world.replay() == 7


async def test_a_long_loop_of_yields_is_no_fault() -> None:
    """Many rounds without an operation in flight come to an end by themselves."""

    async def body(ctx: Context, _: Any) -> int:
        for _ in range(ROUNDS * 3):
            await asyncio.sleep(0)
        return 1

    assert await World(body).to_the_end() == 1


async def test_a_body_that_spins_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling for what no result will change would hold up the process for ever."""
    monkeypatch.setattr("everstep.engine.runloop.MOST_ROUNDS", 5_000)

    async def body(ctx: Context, _: Any) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE


async def test_time_stands_still_between_results() -> None:
    """The loop's time is that of the last answer, on each pass the same."""
    seen: list[list[float]] = []

    async def body(ctx: Context, _: Any) -> None:
        times: list[float] = []
        seen.append(times)
        loop = asyncio.get_running_loop()
        for i in range(3):
            times += [loop.time(), loop.time(), ctx.now().timestamp()]
            await ctx.run(world.io, i)
        await asyncio.sleep(5)
        times.append(loop.time())

    world = World(body)
    await world.to_the_end()
    await world.replay()

    assert seen[0] == seen[1][:-1]  # the first pass left memory while it slept
    assert seen[1] == seen[2]
    assert seen[0][0] == seen[0][1] == seen[0][2]
    assert seen[0][3] > seen[0][0]


async def test_a_timeout_that_is_not_needed_is_recorded_nowhere() -> None:
    """Only timers that were handed over are entries."""

    async def body(ctx: Context, _: Any) -> Any:
        async with asyncio.timeout(100):
            return await ctx.run(world.io, 1)

    world = World(body)
    world.claim()
    await calm()
    world.answer(world.ios[0])

    assert await world.to_the_end() == 1
    assert addresses(world) == ["0.1"]


@pytest.mark.parametrize("seed", range(20))
async def test_a_timeout_and_a_result_in_one_batch_end_the_same_on_replay(seed: int) -> None:
    """Whichever has the smaller seq wins; the other keeps its place and is passed over."""

    async def body(ctx: Context, _: Any) -> Any:
        out = []
        for i in range(8):
            try:
                async with asyncio.timeout(0.002):
                    out.append(await ctx.run(world.io, i))
            except TimeoutError:
                out.append("late")
        return out

    world = World(body, seed)
    first = await world.to_the_end(crashes=3)

    assert await world.replay() == first


async def test_context_variables_of_the_caller_reach_the_function() -> None:
    """A function sees what the task that called it had set."""
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")

    async def look() -> str:
        await world.io()
        return colour.get()

    async def body(ctx: Context, _: Any) -> list[str]:
        async def branch(value: str) -> str:
            colour.set(value)
            return await ctx.run(look)

        return [*await asyncio.gather(branch("red"), branch("blue")), await ctx.run(look)]

    world = World(body)

    assert await world.to_the_end() == ["red", "blue", "none"]


async def test_an_async_generator_left_half_way_is_closed_in_the_body() -> None:
    """Its `finally` runs on the body's loop, not on the process's."""
    loops: list[Any] = []

    async def body(ctx: Context, _: Any) -> Any:
        async def numbers() -> Any:
            try:
                for i in range(10):
                    yield await ctx.run(world.io, i)
            finally:
                await asyncio.sleep(0)
                loops.append(asyncio.get_running_loop() is inner)

        inner = asyncio.get_running_loop()
        async for number in numbers():
            if number == 2:
                break
        return await ctx.run(world.io, "after")

    world = World(body)

    assert await world.to_the_end() == "after"
    await calm()
    assert loops == [True]
    assert await world.replay() == "after"


async def test_errors_of_left_tasks_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A task whose error nobody asks for says so, as asyncio does."""

    async def body(ctx: Context, _: Any) -> None:
        async def fails() -> None:
            raise StepFailed("nobody sees me")

        task = asyncio.create_task(fails())
        await ctx.run(world.io)
        assert task.done()
        del task

    world = World(body)
    await world.to_the_end()
