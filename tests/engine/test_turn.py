"""One drive of a run: its batches, its ends, and what may be asked of it meanwhile."""

import asyncio
from typing import Any

import pytest

from everstep.core.batch import Asked, Finish, Park, Refused, Release, Unknown
from everstep.core.replay import CONTROL
from everstep.engine.context import Context
from everstep.engine.turn import TurnEnd
from everstep.errors import Cancelled, ContextClosed, StepFailed, TerminalError
from tests.engine.programs import Boom
from tests.engine.world import World, calm

pytestmark = pytest.mark.anyio


async def add(ctx: Context, given: Any) -> int:
    """A body whose functions end at once."""

    async def two() -> int:
        return 2

    return await ctx.run(two, name="two") + await ctx.run(two, name="two")


async def test_each_result_is_durable_before_the_code_after_it_runs() -> None:
    """The body is not driven until its batch has landed."""
    log: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(world.io)
        log.append("after")

    world = World(body)
    world.claim()
    await calm()
    world.answer(world.ios[0])
    await calm()
    assert world.commits
    assert not log

    world.land()
    assert log == ["after"]


async def test_all_that_finished_while_a_batch_was_in_flight_is_the_next_batch() -> None:
    """One batch of a run at a time; the others gather and go together."""

    async def body(ctx: Context, _: Any) -> None:
        await asyncio.gather(*[ctx.run(world.io, i) for i in range(5)])

    world = World(body)
    world.claim()
    await calm()
    for io in list(world.ios):
        world.answer(io)
    await calm()
    world.land()
    await calm()
    world.land()

    assert [len(batch.entries) for batch in world.batches] == [1, 4]
    assert await world.go() is None or world.commits == []


async def test_the_result_is_what_the_body_returned() -> None:
    """The last batch of the run carries it, and the epoch of the claim."""
    world = World(add)

    assert await world.to_the_end() == 4
    assert [batch.epoch for batch in world.batches] == [1, 1, 1]


@pytest.mark.parametrize(
    "error", [Boom("no"), ValueError("a bug"), ExceptionGroup("two", [Boom("a"), ValueError("b")])]
)
async def test_an_error_that_leaves_the_body_fails_the_run(error: Exception) -> None:
    """A TerminalError by intent, any other as a bug that must be seen; both are final."""

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(world.io)
        raise error

    world = World(body)
    with pytest.raises(TerminalError) as caught:
        await world.to_the_end()

    assert isinstance(world.end, Finish)
    assert world.end.event == "fail"
    assert type(caught.value) is (Boom if isinstance(error, Boom) else StepFailed)


async def test_a_failed_body_leaves_the_functions_of_its_siblings_to_end() -> None:
    """Its run does not finish before they ended; their results are kept and handed to nobody."""

    async def body(ctx: Context, _: Any) -> None:
        async def fails() -> None:
            await ctx.run(world.io, name="first")
            raise Boom("no")

        async def slow() -> None:
            await ctx.run(world.io, name="slow")
            raise AssertionError

        await asyncio.gather(fails(), slow())

    world = World(body)
    world.claim()
    await calm()
    world.answer(world.ios[0])
    await calm()
    world.land()
    await calm()
    assert not world.commits
    world.answer(world.ios[0])
    with pytest.raises(Boom):
        await world.to_the_end()

    assert [(entry.name, entry.seq) for entry in world.journal.values()] == [("first", 1), ("slow", None)]
    with pytest.raises(Boom):
        await world.replay()


async def test_a_memory_error_is_not_the_runs_fault() -> None:
    """The process is not fit to go on; nothing is committed."""

    async def body(ctx: Context, _: Any) -> None:
        raise MemoryError

    world = World(body)
    with pytest.raises(MemoryError):
        await world.go()

    assert not world.batches


# ---- cancel, pause, drain, fence


async def test_cancel_is_an_entry_and_is_seen_again_on_replay() -> None:
    """It surfaces as Cancelled where the body waits; cleaning up is ordinary durable work."""
    seen: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        try:
            await asyncio.gather(ctx.sleep("30d"), ctx.promise("signature").wait())
        except Cancelled as error:
            seen.append(type(error).__name__)
            await ctx.run(world.io, name="refund")
            raise

    world = World(body)
    turn = world.claim()
    turn.ask(Asked.CANCEL)
    await calm()
    world.land()
    await calm()
    await world.crash()
    with pytest.raises(asyncio.CancelledError):
        await world.to_the_end()

    assert isinstance(world.end, Finish)
    assert world.end.event == "cancel"
    assert seen == ["Cancelled", "Cancelled"]
    assert [(e.lane, e.kind, e.name, e.seq) for e in world.journal.values()] == [
        (CONTROL, "cancel", "", 1),
        ("0", "run", "refund", 2),
    ]


async def test_a_body_may_decide_to_end_well_although_it_was_cancelled() -> None:
    """Then its result counts."""

    async def body(ctx: Context, _: Any) -> str:
        try:
            await ctx.sleep("30d")
        except asyncio.CancelledError:
            return "kept what there was"
        return "slept"

    world = World(body, evict_always=True)
    world.claim().ask(Asked.CANCEL)

    assert await world.to_the_end() == "kept what there was"


async def test_a_function_in_flight_when_its_run_is_cancelled_is_waited_for() -> None:
    """The run ends after it; its late result is kept without a seq."""

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(world.io, name="charge")

    world = World(body)
    turn = world.claim()
    await calm()
    turn.ask(Asked.CANCEL)
    await calm()
    world.land()
    await calm()
    assert not world.commits
    assert len(world.ios) == 1
    world.answer(world.ios[0])
    with pytest.raises(asyncio.CancelledError):
        await world.to_the_end()

    assert [(e.kind, e.seq) for e in world.journal.values()] == [("cancel", 1), ("run", None)]


async def test_pause_sets_the_run_aside_once_its_functions_ended() -> None:
    """What was in flight is recorded; resumed, the run goes on behind it."""

    async def body(ctx: Context, _: Any) -> Any:
        return [await ctx.run(world.io, 1), await ctx.run(world.io, 2)]

    world = World(body)
    turn = world.claim()
    await calm()
    turn.ask(Asked.PAUSE)
    await calm()
    assert not world.commits
    world.answer(world.ios[0])

    assert await world.go() is TurnEnd.SET_ASIDE
    assert world.end == Release(event="pause")

    world.end = world.drive = None
    assert await world.to_the_end() == [1, 2]
    assert len(world.ran) == 2


async def test_a_drained_turn_records_what_is_in_flight_and_gives_the_run_back() -> None:
    """Nothing new is begun; another process goes on at once."""

    async def body(ctx: Context, _: Any) -> Any:
        async def branch(i: int) -> Any:
            return [await ctx.run(world.io, i), await ctx.run(world.io, i)]

        return await asyncio.gather(branch(1), branch(2))

    world = World(body)
    turn = world.claim()
    await calm()
    turn.drain()
    for io in list(world.ios):
        world.answer(io)

    assert await world.go() is TurnEnd.RELEASED
    assert world.end == Release()
    assert len(world.journal) == 2
    assert len(world.ran) == 2

    world.end = world.drive = None
    assert await world.to_the_end() == [[1, 1], [2, 2]]
    assert len(world.ran) == 4


async def test_a_turn_that_waits_is_drained_at_once() -> None:
    """A wait in memory holds up no shutdown."""

    async def body(ctx: Context, _: Any) -> None:
        await asyncio.sleep(0.5)

    world = World(body)
    turn = world.claim()
    await calm()
    turn.drain()

    assert await world.go() is TurnEnd.RELEASED


async def test_a_fenced_turn_commits_nothing_more() -> None:
    """Its functions are cancelled, its body leaves memory, a batch in flight is not heard."""
    gone: list[str] = []

    async def body(ctx: Context, _: Any) -> None:
        try:
            await asyncio.gather(ctx.run(world.io), ctx.run(function, name="function"))
        finally:
            gone.append("body")

    async def function() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            gone.append("function")

    world = World(body)
    turn = world.claim()
    await calm()
    world.answer(world.ios[0])
    await calm()
    turn.fence()
    world.land()

    assert await world.go() is TurnEnd.LOST
    assert sorted(gone) == ["body", "function"]
    assert not world.commits


@pytest.mark.parametrize(
    "outcome", [Refused("run_epoch", 2), Refused("worker_epoch"), Refused("poison"), Unknown("lost")]
)
async def test_a_refused_batch_ends_the_turn(outcome: Any) -> None:
    """Somebody else has the run, or nobody can tell: this copy throws itself away."""
    world = World(add)
    world.claim()
    await calm()
    _, done = world.commits.pop()
    done(outcome)

    assert await world.go() is TurnEnd.LOST
    assert not world.commits


async def test_a_worker_that_has_stopped_committing_loses_its_turns() -> None:
    """Nothing is raised into the functions that end afterwards."""
    world = World(add)

    def stopped(batch: object, done: object) -> None:
        raise ContextClosed("commit", why="stopped")

    world.commit = stopped  # type: ignore[method-assign]

    assert await world.go() is TurnEnd.LOST


async def test_a_run_that_was_asked_something_while_parked_hears_it_when_resumed() -> None:
    """Its row says so when it is claimed again."""

    async def body(ctx: Context, _: Any) -> str:
        try:
            await ctx.promise("never")
        except Cancelled:
            return "cancelled"
        return ""

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    world.run.asked = Asked.CANCEL
    world.resume()

    assert await world.to_the_end() == "cancelled"


async def test_a_host_whose_commits_are_applied_at_once_is_served_too() -> None:
    """`done` may be called before `commit` returns."""

    async def body(ctx: Context, _: Any) -> Any:
        out = [await ctx.run(world.io, i) for i in range(20)]
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        return [*out, *await asyncio.gather(*[ctx.run(world.io, i) for i in range(5)])]

    world = World(body)
    world.commit = lambda batch, done: done(world.apply(batch))  # type: ignore[method-assign]

    assert await world.to_the_end() == [*range(20), *range(5)]
    assert await world.replay() == [*range(20), *range(5)]


async def test_a_park_in_flight_excludes_every_other_batch() -> None:
    """Cancel that comes while the run is being parked waits for the answer."""

    async def body(ctx: Context, _: Any) -> None:
        await ctx.sleep("1d")

    world = World(body)
    turn = world.claim()
    await calm()
    assert isinstance(world.commits[0][0].changes[0], Park)
    turn.ask(Asked.CANCEL)
    turn.drain()
    turn.wake()
    await calm()

    assert len(world.commits) == 1
    assert await world.go() is TurnEnd.PARKED
