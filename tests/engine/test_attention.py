"""What sets a run aside: nothing is continued silently, nothing is lost, and the error says what to do."""

import asyncio
import logging
from typing import Any

import pytest

from everstep.core.batch import Release
from everstep.core.failure import decode_error
from everstep.core.journal import Entry
from everstep.engine import faults
from everstep.engine.context import Context
from everstep.engine.turn import TurnEnd
from tests.engine.world import START, World

pytestmark = pytest.mark.anyio


async def add(ctx: Context, given: Any) -> int:
    """A body whose functions end at once."""

    async def two() -> int:
        return 2

    return await ctx.run(two, name="two") + await ctx.run(two, name="two")


def aside(world: World) -> str:
    """Why the run was set aside."""
    assert isinstance(world.end, Release)
    assert world.end.event == "attention"
    return str(decode_error(world.end.error or b""))


async def edited(first: Any, second: Any) -> str:
    """Run one body until it waits, then go on with another; why the run was set aside."""
    world = World(first)
    await world.go()
    world.handler = World(second).handler
    world.drive = None
    known = dict(world.journal)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert world.journal == known
    return aside(world)


async def tick(i: int = 0) -> int:
    return i


async def tock(i: int = 0) -> int:
    return i


async def waits(ctx: Context) -> None:
    await ctx.promise("signature")


async def test_another_name_at_an_address_is_a_mismatch() -> None:
    """Both sides are shown, and the line that asks now; the body cannot catch it."""

    async def first(ctx: Context, _: Any) -> None:
        await ctx.run(tick)
        await waits(ctx)

    async def second(ctx: Context, _: Any) -> None:
        try:
            await ctx.run(tock)
        except BaseException:
            await waits(ctx)

    text = await edited(first, second)

    assert "entry 0.0 in the journal: run 'tick'" in text
    assert "entry 0.0 asked for now:  run 'tock'" in text
    assert f"test_attention.py:{second.__code__.co_firstlineno + 2}" in text


async def test_other_arguments_are_a_mismatch_that_may_be_accepted() -> None:
    """With accept_args the recorded answer is taken."""

    async def first(ctx: Context, _: Any) -> Any:
        return await ctx.run(tick, 1), await ctx.promise("signature")

    async def second(ctx: Context, _: Any) -> Any:
        return await ctx.run(tick, 2), await ctx.promise("signature")

    assert "--accept-args" in await edited(first, second)

    world = World(first)
    await world.go()
    world.handler, world.accept_args, world.drive = World(second).handler, True, None
    world.settle("signature", b"3")

    assert await world.to_the_end() == [1, 3]


async def test_a_recorded_call_that_is_not_asked_for_is_a_mismatch() -> None:
    """What the body waits for instead is shown, or that it ended."""

    async def first(ctx: Context, _: Any) -> None:
        await ctx.run(tick)
        await waits(ctx)

    async def waits_at_once(ctx: Context, _: Any) -> None:
        await asyncio.gather(waits(ctx))

    async def ends(ctx: Context, _: Any) -> None:
        pass

    assert "asked for now:  promise 'signature'" in await edited(first, waits_at_once)
    assert "nothing, the handler ended" in await edited(first, ends)


async def test_a_kind_that_changed_is_a_mismatch() -> None:
    """A sleep is no call."""

    async def first(ctx: Context, _: Any) -> None:
        await ctx.run(tick)
        await waits(ctx)

    async def second(ctx: Context, _: Any) -> None:
        await ctx.sleep(1)
        await waits(ctx)

    text = await edited(first, second)
    assert "run 'tick'" in text
    assert "sleep" in text


async def test_an_answer_that_no_longer_fits_its_type_sets_the_run_aside() -> None:
    """The journal is untouched; a type that accepts what was written lets it go on."""

    async def price() -> int:
        return 1

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(price)
        await waits(ctx)

    async def other() -> str:
        return "1"

    async def second(ctx: Context, _: Any) -> None:
        await ctx.run(other, name="price")
        await waits(ctx)

    assert "cannot be read as the type" in await edited(body, second)


async def test_an_input_that_no_longer_fits_sets_the_run_aside() -> None:
    """So does the input."""
    world = World(add)
    world.run.input = b"{"

    assert await world.go() is TurnEnd.SET_ASIDE
    assert "the input of run r_test" in aside(world)


async def test_an_entry_that_ended_late_and_is_wanted_now_is_a_mismatch() -> None:
    """A call that was abandoned once must be abandoned again."""
    world = World(add)
    world.run.epoch = 1  # somebody had it before
    world.journal["0", 0] = Entry("0", 0, "run", "two", 0, None, START, 0, b"2")

    assert await world.go() is TurnEnd.SET_ASIDE
    assert "took a different path" in aside(world)


async def test_an_operation_never_awaited_sets_the_run_aside_with_its_line() -> None:
    """Its effect would be lost without a word."""

    async def body(ctx: Context, _: Any) -> int:
        ctx.run(world.io)  # type: ignore[unused-coroutine]
        return await ctx.run(tick)

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert f"test_attention.py:{body.__code__.co_firstlineno + 1}" in aside(world)
    assert not world.ran


async def test_a_task_left_waiting_for_a_call_sets_the_run_aside() -> None:
    """The function is waited for and recorded; then the run says which line was left."""

    async def body(ctx: Context, _: Any) -> int:
        async def left() -> None:
            await ctx.run(world.io, 1)

        task = asyncio.create_task(left())
        await ctx.run(tick)
        assert not task.done()
        return 1

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert "test_attention.py" in aside(world)
    assert "await ctx.run(world.io, 1)" not in aside(world)
    assert [entry.seq for entry in world.journal.values()] == [1, 2]


async def test_a_call_asked_after_the_end_sets_the_run_aside() -> None:
    """A task that goes on when the handler has returned asks in vain."""

    async def body(ctx: Context, _: Any) -> int:
        event = asyncio.Event()

        async def left() -> None:
            await event.wait()
            await ctx.run(world.io)

        task = asyncio.create_task(left())
        await ctx.run(tick)
        event.set()
        assert not task.done()
        return 1

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert "the body has ended" in aside(world)
    assert not world.ran


async def test_a_result_that_cannot_be_kept_sets_the_run_aside() -> None:
    """The body's work is not lost: with a declared type, it is read from its journal and ends."""

    async def body(ctx: Context, _: Any) -> Any:
        return object()

    world = World(body)

    assert await world.go() is TurnEnd.SET_ASIDE
    assert "the result of body" in aside(world)


async def test_a_journal_that_grows_too_long_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning first; then the run is set aside and continue_as is named."""
    monkeypatch.setattr(faults.Limits, "warn_entries", 5)
    monkeypatch.setattr(faults.Limits, "most_entries", 8)

    async def body(ctx: Context, _: Any) -> None:
        for i in range(20):
            await ctx.run(tick, i)

    world = World(body)
    with caplog.at_level(logging.WARNING):
        assert await world.go() is TurnEnd.SET_ASIDE

    assert "continue_as" in aside(world)
    assert len(world.journal) == 9
    assert sum("grows long" in record.message for record in caplog.records) == 1


async def test_a_long_journal_lets_the_process_breathe() -> None:
    """While thousands of entries are replayed, others get their turn."""

    async def body(ctx: Context, _: Any) -> int:
        total = 0
        for i in range(6_000):
            total += await ctx.run(tick, i)
        return total

    world = World(body)
    world.run.epoch = 1
    for i in range(6_000):
        world.journal["0", i] = Entry("0", i, "run", "tick", 0, i + 1, START + i, 0, str(i).encode())
    world.claim()
    turns = 0
    while not world.commits:
        turns += 1
        await asyncio.sleep(0)
    world.land()

    assert await world.go() is TurnEnd.ENDED
    assert world.result() == sum(range(6_000))
    assert turns >= 4
