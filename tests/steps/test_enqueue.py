"""What is said of a message that no Step reads, and of one that its sender did not declare."""

from typing import Any

import pytest

from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request
from tests.steps.world import running

pytestmark = pytest.mark.anyio


@step(on.queue("order.submitted"))
async def reader(ctx: StepContext, data: Any) -> None:
    pass


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


async def live(ctx: StepContext) -> None:
    await ctx.enqueue("ordr.submitted", 1)


async def atomic(ctx: StepContext) -> None:
    async with ctx.atomic():
        await ctx.state.set("g", "k", 1)
        await ctx.enqueue("ordr.submitted", 1)


@pytest.mark.parametrize("effects", ["live", "on_success"])
@pytest.mark.parametrize("send", [live, atomic])
@pytest.mark.parametrize("by", ["a request", "a message"])
async def test_a_topic_nobody_reads_is_said_once(
    caplog: pytest.LogCaptureFixture, effects: Any, send: Any, by: str
) -> None:
    """However it is sent: the first message is said, with the topic that was meant; no other is."""

    @step(on.post("/send"), on.queue("send"), effects=effects)
    async def sender(ctx: StepContext, data: Any) -> None:
        await send(ctx)

    async with running(reader, sender) as world:
        for _ in range(2):
            await (world.ask(sender) if by == "a request" else world.send("send", 1))
        kept = await world.engine.store.unrouted()

    [line] = said(caplog, "nobody reads topic 'ordr.submitted'")
    assert line.endswith("Did you mean 'order.submitted'?")
    assert len(kept) == 2


async def test_a_topic_nobody_reads_is_said_when_it_comes_from_outside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the application itself enqueues is said too; a topic with a reader is not."""
    async with running(reader) as world:
        await world.send("ordr.submitted", 1)
        await world.send("order.submitted", 1)

    assert len(said(caplog, "nobody reads topic")) == 1


async def test_a_topic_its_enqueues_do_not_name_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """In dev, and only of Steps that name any: the others draw no flow."""

    @step(on.post("/send"), enqueues=["order.submitted"])
    async def drawn(ctx: StepContext, req: Request[Any]) -> None:
        await ctx.enqueue("order.submitted", 1)
        await ctx.enqueue("order.submited", 1)

    @step(on.post("/other"))
    async def plain(ctx: StepContext, req: Request[Any]) -> None:
        await ctx.enqueue("order.rejected", 1)

    async with running(reader, drawn, plain) as world:
        for one in (drawn, drawn, plain):
            await world.ask(one, dev=True)
    [line] = said(caplog, "enqueues do not name")
    assert "'order.submited'" in line
    assert line.endswith("Did you mean 'order.submitted'?")


async def test_what_enqueues_do_not_name_is_no_matter_in_production(caplog: pytest.LogCaptureFixture) -> None:
    """The picture of a flow is for who writes it."""

    @step(on.post("/send"), enqueues=["order.submitted"])
    async def drawn(ctx: StepContext, req: Request[Any]) -> None:
        await ctx.enqueue("order.rejected", 1)

    async with running(reader, drawn) as world:
        await world.ask(drawn, dev=False)

    assert not said(caplog, "enqueues do not name")
