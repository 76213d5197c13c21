"""Plain functions as Steps: the same ctx, whose methods wait."""

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.errors import ContextClosed
from everstep.steps.blocking import Portal, SyncStepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request
from everstep.steps.topic import Topic
from everstep.steps.validator import InvalidInput
from tests.steps.world import running

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    total: int


submitted = Topic("submitted", Order)


async def test_a_plain_function_has_the_whole_ctx() -> None:
    """Each operation returns its answer, in the function's own thread, off the loop."""
    seen: list[Any] = []
    loop_thread = threading.get_ident()

    async def fetch(a: int) -> int:
        return a * 2

    @step(on.queue("t"))
    def plain(ctx: SyncStepContext, data: int) -> None:
        assert threading.get_ident() != loop_thread
        mid = ctx.enqueue(submitted, Order(total=1))
        ctx.enqueue({"topic": "nobody", "data": 1})
        seen.append(mid.startswith("m_"))
        seen.append(ctx.state.set("g", "k", 1).old_value)
        seen.append(ctx.kv.update("g", "k", [{"type": "increment", "path": "", "by": 1}]).new_value)
        seen.append((ctx.state.get("g", "k"), ctx.state.list("g", int), ctx.state.listGroups()))
        seen.append((ctx.run(fetch, 4), ctx.run(abs, -3)))
        seen.append((ctx.uuid() != ctx.uuid(), 0 <= ctx.random() < 1, ctx.now() <= ctx.now()))
        seen.append((ctx.is_queue(), ctx.is_.http(data), ctx.get_data(), ctx.trigger.topic))
        seen.append((ctx.match({"queue": lambda d: d + 1}), ctx.match({"queue": fetch})))
        seen.append((ctx.state.delete("g", "k"), ctx.state.clear("g")))
        ctx.logger.info("done")

    async with running(plain) as world:
        [run] = await world.send("t", 5)

        assert run.state is Status.DONE, run.error
        assert len(await world.engine.store.unrouted()) == 2
    assert seen == [
        True,
        None,
        2,
        (2, [2], ["g"]),
        (8, 3),
        (True, True, True),
        (True, False, 5, "t"),
        (6, 10),
        (2, 0),
    ]


async def test_a_file_handler_that_is_plain_gets_the_same() -> None:
    """Arguments stand the other way round, and the ctx waits as well."""
    from everstep.steps.config import queue, read_config

    def handler(input: Any, ctx: Any) -> None:
        ctx.state.set("g", "k", input)

    plain, _ = read_config({"name": "Plain", "triggers": [queue("t")]}, handler)

    async with running(plain) as world:
        await world.send("t", 5)

        assert await world.state("g", "k") == 5


async def test_an_atomic_block_of_a_plain_function() -> None:
    """With an error nothing of the block happens; without one all of it does."""

    @step(on.post("/x"))
    def plain(ctx: SyncStepContext, req: Request[Any]) -> None:
        with pytest.raises(LookupError), ctx.atomic():
            ctx.state.set("g", "a", 1)
            raise LookupError
        with ctx.atomic():
            ctx.state.set("g", "b", 1)
            assert ctx.state.get("g", "b") == 1

    async with running() as world:
        await world.ask(plain)

        assert await world.state("g", "a") is None
        assert await world.state("g", "b") == 1


async def test_errors_arrive_in_the_thread_as_they_are() -> None:
    """What an operation raises, the function can catch by its class."""
    caught: list[Exception] = []

    @step(on.post("/x"))
    def plain(ctx: Any, req: Request[Any]) -> None:
        for data in ({"total": "x"}, {}):
            try:
                ctx.enqueue(submitted, data)
            except InvalidInput as error:
                caught.append(error)
        raise TimeoutError("mine")

    async with running() as world:
        with pytest.raises(TimeoutError, match="mine"):
            await world.ask(plain)

    assert len(caught) == 2


async def test_many_plain_functions_at_once_do_not_wait_for_each_other_for_ever() -> None:
    """More Steps than there are threads, each with several waits: all of them end."""

    @step(on.queue("t"))
    def plain(ctx: SyncStepContext, number: int) -> None:
        for round in range(3):
            ctx.state.set("g", f"{number}", round)

    async with running(plain) as world:
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(world.engine.publish("t", str(number).encode()))
        runs = await world.settled()

        assert len(await world.engine.store.kv_list("g")) == 300
    assert {run.state for run in runs} == {Status.DONE}


async def test_the_ctx_of_a_plain_function_is_refused_on_the_loop() -> None:
    """Waiting in the loop's own thread would be for ever; the error says what to write."""
    portal = Portal()

    async def operation() -> None: ...

    with pytest.raises(ContextClosed, match="the thread of the loop") as caught:
        portal.call(operation)

    assert "async def" in caught.value.remedy


async def test_a_thread_learns_that_its_loop_is_gone() -> None:
    """A function left behind at shutdown gets an error instead of waiting for ever."""
    made: list[Portal] = []

    async def make() -> None:
        made.append(Portal())

    await asyncio.to_thread(lambda: asyncio.run(make()))
    with pytest.raises(ContextClosed, match="shutting down"):
        await asyncio.to_thread(made[0].call, make)


async def test_a_thread_left_behind_has_no_effect() -> None:
    """A request was given up at its timeout; what its thread still does is refused."""
    go_on, ended = threading.Event(), threading.Event()
    caught: list[Exception] = []

    @step(on.post("/x"))
    def slow(ctx: SyncStepContext, req: Request[Any]) -> None:
        go_on.wait(10)
        try:
            ctx.state.set("g", "k", 1)
        except Exception as error:
            caught.append(error)
        finally:
            ended.set()

    async with running() as world:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await world.ask(slow)
        go_on.set()
        await asyncio.to_thread(ended.wait, 10)

        assert isinstance(caught[0], ContextClosed)
        assert await world.state("g", "k") is None


async def test_a_message_handler_left_behind_has_no_effect() -> None:
    """The attempt that took too long commits nothing; the next one does."""
    go_on = threading.Event()
    attempts: list[int] = []

    @step(on.queue("t", retry=Retry(attempts=2, delay=0.001)), timeout=0.05)
    def slow(ctx: SyncStepContext, data: Any) -> None:
        attempts.append(ctx.trigger.attempt)
        if ctx.trigger.attempt == 1:
            go_on.wait(10)
            ctx.state.set("g", "first", 1)
        else:
            ctx.state.set("g", "second", 1)
            go_on.set()

    async with running(slow) as world:
        [run] = await world.send("t", 1)

        assert run.state is Status.DONE
        assert await world.state("g", "first") is None
        assert await world.state("g", "second") == 1
    assert attempts == [1, 2]
