"""The functions of ctx.run: how they are called, named, tried again, and given up on."""

import asyncio
import functools
import threading
import time
from typing import Any

import pytest

from everstep.core.batch import Asked, Release
from everstep.core.failure import decode_error
from everstep.core.retry import Retry
from everstep.engine.calls import attempt
from everstep.engine.context import Context
from everstep.engine.turn import TurnEnd
from everstep.errors import ConfigError, ContextClosed, RetryableError, StepFailed
from tests.engine.programs import Boom
from tests.engine.world import World, calm

pytestmark = pytest.mark.anyio

QUICK = Retry(attempts=3, delay=0)


async def ended(world: World) -> Any:
    """Drive to the end although threads and processes take their own time."""
    world.claim()
    assert world.drive is not None
    while not world.drive.done():
        await asyncio.sleep(0.001)
        if world.commits:
            world.land()
    return world.drive.result()


async def result_of(body: Any) -> Any:
    """The result of a body whose functions run elsewhere."""
    world = World(body)
    assert await ended(world) is TurnEnd.ENDED
    return world.result()


# ---- where they run


async def test_a_plain_function_runs_in_a_thread() -> None:
    """The loop goes on meanwhile; attempt() is known there too."""

    def where() -> list[Any]:
        return [
            threading.current_thread() is threading.main_thread(),
            attempt().number,
            attempt().idempotency_key,
        ]

    async def body(ctx: Context, _: Any) -> Any:
        return await ctx.run(where)

    assert await result_of(body) == [False, 1, "r_test:0.0"]


def square(number: int) -> list[Any]:
    """What a child process does."""
    if number < 0:
        raise Boom(f"{number} is negative")
    return [number * number, attempt().idempotency_key]


async def test_a_plain_function_runs_in_a_process() -> None:
    """With process=True; errors come back as their own class, and attempt() is known there."""

    async def body(ctx: Context, _: Any) -> Any:
        try:
            await ctx.run(square, -1, process=True)
        except Boom as error:
            return [str(error), await ctx.run(square, 7, process=True)]

    assert await result_of(body) == ["-1 is negative", [49, "r_test:0.1"]]


async def test_an_async_function_does_not_go_to_a_process() -> None:
    """It is refused where it is asked."""

    async def body(ctx: Context, _: Any) -> int:
        with pytest.raises(ConfigError, match="async"):
            ctx.run(tick, process=True)  # type: ignore[unused-coroutine]
        return 1

    assert await result_of(body) == 1


async def test_a_plain_function_may_hand_on_a_coroutine() -> None:
    """A lambda or a partial around an async function is awaited."""

    async def body(ctx: Context, _: Any) -> Any:
        return [
            await ctx.run(lambda: double(2), name="lambda"),
            await ctx.run(functools.partial(double, 3)),
            await ctx.run(functools.partial(plain, b=4), 1),
        ]

    assert await result_of(body) == [4, 6, 5]


async def test_a_function_that_raises_stop_iteration_does_not_hang() -> None:
    """A future cannot carry it; it fails like any other."""

    def stops() -> None:
        raise StopIteration(1)

    async def body(ctx: Context, _: Any) -> str:
        try:
            await ctx.run(stops, retry=Retry(attempts=1))
        except StepFailed as error:
            return error.error_type
        return ""

    assert await result_of(body) == "RuntimeError"


async def tick() -> None:
    """Does nothing."""


async def double(n: int) -> int:
    return 2 * n


def plain(a: int, b: int) -> int:
    return a + b


# ---- failing


async def test_without_a_policy_ten_attempts_then_the_run_needs_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the function and what it was at last; nothing is journaled: resumed, it is called."""
    monkeypatch.setattr("everstep.engine.calls.RUN_RETRY", Retry(attempts=10, delay=0))
    numbers: list[int] = []

    async def charge() -> None:
        numbers.append(attempt().number)
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(charge)

    world = World(body)

    assert await ended(world) is TurnEnd.SET_ASIDE
    assert isinstance(world.end, Release)
    assert world.end.event == "attention"
    error = decode_error(world.end.error or b"")
    assert isinstance(error, StepFailed)
    assert (error.error_type, error.attempts, error.cause) == ("ConnectionError", 10, "refused")
    assert "charge failed after 10 attempts" in str(error)
    assert numbers == list(range(1, 11))
    assert not world.journal


async def test_with_a_policy_exhausted_the_body_gets_step_failed() -> None:
    """It is journaled, and raised again on replay."""

    async def charge() -> None:
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> list[Any]:
        try:
            await ctx.run(charge, retry=QUICK)
        except StepFailed as error:
            return [error.error_type, error.attempts, error.cause, str(error)]
        return []

    world = World(body)
    await ended(world)
    first = world.result()

    assert first[:3] == ["ConnectionError", 3, "refused"]
    assert await world.replay() == first


async def test_a_terminal_error_is_never_tried_again_and_keeps_its_class() -> None:
    """So is what the policy gives up on."""
    calls: list[str] = []

    async def refuse() -> None:
        calls.append("refuse")
        raise Boom("no", 7)

    async def reject() -> None:
        calls.append("reject")
        raise KeyError("gone")

    async def body(ctx: Context, _: Any) -> list[Any]:
        out: list[Any] = []
        try:
            await ctx.run(refuse, retry=QUICK)
        except Boom as error:
            out += error.args
        try:
            await ctx.run(reject, retry=Retry(give_up_on=(KeyError,)))
        except StepFailed as error:
            out.append(error.error_type)
        return out

    assert await result_of(body) == ["no", 7, "KeyError"]
    assert calls == ["refuse", "reject"]


async def test_a_failure_is_tried_again_after_its_delay() -> None:
    """Not sooner than a RetryableError asks for; the run is not parked meanwhile."""
    times: list[float] = []

    async def flaky() -> str:
        times.append(time.monotonic())
        if len(times) < 3:
            raise RetryableError("busy", retry_after=0.02)
        return "ok"

    async def body(ctx: Context, _: Any) -> str:
        return await ctx.run(flaky, retry=Retry(delay=0))

    assert await result_of(body) == "ok"
    assert times[2] - times[0] >= 0.04


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_timeout_ends_an_attempt_not_the_call(kind: str) -> None:
    """The next attempt may do better."""
    numbers: list[int] = []

    async def slow() -> str:
        numbers.append(1)
        if len(numbers) == 1:
            await asyncio.get_running_loop().create_future()
        return "in time"

    release = threading.Event()

    def blocks() -> str:
        numbers.append(1)
        if len(numbers) == 1:
            release.wait(10)
        return "in time"

    async def body(ctx: Context, _: Any) -> str:
        if kind == "async":
            return await ctx.run(slow, timeout="30ms", retry=QUICK)
        return await ctx.run(blocks, timeout="30ms", retry=QUICK)

    try:
        assert await result_of(body) == "in time"
    finally:
        release.set()


async def test_a_timeout_on_each_attempt_says_how_long_it_was() -> None:
    """Its error names the function and the limit."""

    async def slow() -> None:
        await asyncio.get_running_loop().create_future()

    async def body(ctx: Context, _: Any) -> str:
        try:
            await ctx.run(slow, timeout="10ms", retry=Retry(attempts=1))
        except StepFailed as error:
            return error.cause
        return ""

    assert await result_of(body) == "slow took longer than 10ms"


async def test_a_function_that_raises_cancelled_error_failed() -> None:
    """Nobody cancelled it; a cancelled future inside it is its own affair."""

    async def odd() -> None:
        raise asyncio.CancelledError("inside")

    async def body(ctx: Context, _: Any) -> str:
        try:
            await ctx.run(odd, retry=QUICK)
        except StepFailed as error:
            return error.error_type
        return ""

    assert await result_of(body) == "CancelledError"


async def test_a_result_that_cannot_be_kept_sets_the_run_aside_at_once() -> None:
    """Calling it ten times would do ten times what it does."""
    calls: list[int] = []

    async def thing() -> Any:
        calls.append(1)
        return object()

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(thing)

    world = World(body)

    assert await ended(world) is TurnEnd.SET_ASIDE
    assert calls == [1]


async def test_an_abandoned_call_is_not_tried_again() -> None:
    """Nobody waits for it any more; how it failed is kept."""

    async def fails() -> None:
        await world.io()
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> str:
        try:
            async with asyncio.timeout(0.001):
                await ctx.run(fails)
        except TimeoutError:
            return "late"
        return ""

    world = World(body)
    world.claim()
    await calm()
    world.clock += 2_000
    world.ring()
    await calm()
    world.land()
    await calm()
    world.answer(world.ios[0])

    assert await world.to_the_end() == "late"
    assert sorted((e.kind, e.seq or 0) for e in world.journal.values()) == [("run", 0), ("timer", 1)]


async def test_a_call_abandoned_between_two_attempts_has_had_its_last() -> None:
    """The run does not wait for an attempt that nobody wants."""

    async def fails() -> None:
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> str:
        try:
            async with asyncio.timeout(0.5):
                await ctx.run(fails, retry=Retry(delay="1h", max_delay="1h"))
        except TimeoutError:
            return "late"
        return ""

    world = World(body)

    assert await world.to_the_end() == "late"
    assert [(e.kind, e.seq) for e in world.journal.values()] == [("timer", 1), ("run", None)]
    assert await world.replay() == "late"


async def test_a_drain_does_not_wait_for_the_next_attempt() -> None:
    """A call between two attempts is given back; the next process begins to count anew."""

    async def fails() -> None:
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(fails, retry=Retry(delay="1h", max_delay="1h"))

    world = World(body)
    turn = world.claim()
    await calm()
    turn.drain()

    assert await world.go() is TurnEnd.RELEASED
    assert not world.journal


async def test_a_pause_while_a_call_fails_ends_its_attempts() -> None:
    """The attempt under way may end; another is not begun."""

    async def fails() -> None:
        await world.io()
        raise ConnectionError("refused")

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(fails)

    world = World(body)
    turn = world.claim()
    await calm()
    turn.ask(Asked.PAUSE)
    world.answer(world.ios[0])

    assert await world.go() is TurnEnd.SET_ASIDE
    assert world.end == Release(event="pause")


# ---- attempt()


async def test_the_idempotency_key_is_that_of_the_call() -> None:
    """The same on each attempt and in each process, another for each call."""
    keys: list[str] = []

    async def charge() -> None:
        keys.append(attempt().idempotency_key)
        if len(keys) % 2:
            raise ConnectionError

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(charge, retry=QUICK)
        await asyncio.gather(ctx.run(charge, retry=QUICK))

    await result_of(body)

    assert keys == ["r_test:0.0", "r_test:0.0", "r_test:0/0.0", "r_test:0/0.0"]


async def test_attempt_is_known_only_inside_a_call() -> None:
    """In a body or anywhere else it says where it belongs."""
    with pytest.raises(ContextClosed):
        attempt()

    async def body(ctx: Context, _: Any) -> int:
        with pytest.raises(ContextClosed):
            attempt()
        return 1

    async def starts() -> None:
        assert await World(body).to_the_end() == 1

    async def outer(ctx: Context, _: Any) -> None:
        await ctx.run(starts)

    world = World(outer)
    assert await ended(world) is TurnEnd.ENDED
