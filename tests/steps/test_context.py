"""What `ctx` does, on a real engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.errors import ConfigError, ContextClosed, GroupMissing, NotEncodable, UpdateError
from everstep.steps.context import StepContext, TriggerInfo
from everstep.steps.on import on, step
from everstep.steps.request import Request
from everstep.steps.topic import Topic
from everstep.steps.validator import InvalidInput
from tests.steps.world import AnyStep, World, running

pytestmark = pytest.mark.anyio
QUICK = Retry(attempts=3, delay=0.001)


class Order(BaseModel):
    id: str
    total: int


@dataclass
class Note:
    text: str


submitted = Topic("order.submitted", Order)


def probe(fn: Callable[[StepContext], Any]) -> AnyStep:
    """A Step that does one thing when it is asked."""

    @step(on.post("/probe"))
    async def probing(ctx: StepContext, req: Request[Any]) -> Any:
        return await fn(ctx)

    return probing


async def doing(world: World, fn: Callable[[StepContext], Any]) -> Any:
    return (await world.ask(probe(fn))).body


# ---- messages


async def test_both_forms_of_a_message_arrive() -> None:
    """Motia's dict and the typed form send the same; each listener gets the data."""
    got: list[Any] = []

    @step(on.queue(submitted))
    async def typed(ctx: StepContext, order: Order) -> None:
        got.append(("typed", order))

    @step(on.queue("order.submitted"))
    async def plain(ctx: StepContext, data: Any) -> None:
        got.append(("plain", data))

    async with running(typed, plain) as world:
        await doing(world, lambda ctx: ctx.enqueue(submitted, Order(id="1", total=5)))
        message = {"topic": "order.submitted", "data": {"id": "2", "total": 6}}
        mid = await doing(world, lambda ctx: ctx.enqueue(message))
        await world.settled()

    assert mid.startswith("m_")
    assert [order for kind, order in got if kind == "typed"] == [
        Order(id="1", total=5),
        Order(id="2", total=6),
    ]
    assert [data for kind, data in got if kind == "plain"] == [
        {"id": "1", "total": 5},
        {"id": "2", "total": 6},
    ]


async def test_a_message_of_the_wrong_type_is_not_sent() -> None:
    """The sender hears every fault, and nothing has happened."""
    async with running() as world:
        with pytest.raises(InvalidInput) as caught:
            wrong: Any = {"id": 5}
            await doing(world, lambda ctx: ctx.enqueue(submitted, wrong))

        assert [fault.path for fault in caught.value.faults] == ["data.id", "data.total"]
        assert await world.engine.store.unrouted() == []


@pytest.mark.parametrize(
    ("message", "error", "said"),
    [
        ({"data": 1}, ConfigError, "names no 'topic'"),
        ({"topic": "t", "dta": 1}, ConfigError, "Did you mean 'data'?"),
        ({"topic": "", "data": 1}, TypeError, "the topic of a message is ''"),
        ({"topic": "t", "data": 1, "messageGroupId": 5}, TypeError, "group of a message is 5"),
        ({"topic": "t", "data": 1, "dedup": "x"}, ConfigError, "comes in a later release"),
        ({"topic": "t", "data": object()}, NotEncodable, "the message on 't'"),
    ],
)
async def test_a_message_that_makes_no_sense_is_refused(
    message: dict[str, Any], error: type[Exception], said: str
) -> None:
    """The sender is told what a message has."""
    async with running() as world:
        with pytest.raises(error, match=said.replace("?", r"\?")):
            await doing(world, lambda ctx: ctx.enqueue(message))


async def test_a_fifo_topic_wants_a_group() -> None:
    """Both spellings of the group are taken; without one the sender is told."""
    got = []

    @step(on.queue("t", fifo=True))
    async def listener(ctx: StepContext, data: int) -> None:
        got.append(data)

    async with running(listener) as world:
        await doing(world, lambda ctx: ctx.enqueue("t", 1, group="g"))
        await doing(world, lambda ctx: ctx.enqueue({"topic": "t", "data": 2, "messageGroupId": "g"}))
        with pytest.raises(GroupMissing):
            await doing(world, lambda ctx: ctx.enqueue("t", 3))
        await world.settled()

    assert got == [1, 2]


async def test_a_model_may_be_sent_on_a_plain_topic() -> None:
    """Its public JSON is what arrives."""
    async with running() as world:
        await doing(world, lambda ctx: ctx.enqueue("nobody", Order(id="1", total=2)))
        [message] = await world.engine.store.unrouted()

    assert message.data == b'{"id":"1","total":2}'


# ---- state


async def test_state_is_read_and_written() -> None:
    """get, set, update, delete, list, list_groups and clear, in one life of a group."""

    async def life(ctx: StepContext) -> list[Any]:
        state = ctx.state
        first = await state.set("orders", "b", {"n": 1})
        second = await state.set("orders", "b", {"n": 2})
        updated = await state.update("orders", "b", [{"type": "increment", "path": "n", "by": 5}])
        await state.set("orders", "a", 1)
        return [
            first,
            (second["old_value"], second.new_value),
            (updated.old_value, updated["new_value"]),
            await state.get("orders", "b"),
            await state.get("orders", "none"),
            await state.list("orders"),
            await state.list_groups() + await state.listGroups() + await state.get_groups(),
            await state.delete("orders", "a"),
            await state.delete("orders", "a"),
            await state.clear("orders"),
            await ctx.kv.list("orders"),
        ]

    async with running() as world:
        seen = await doing(world, life)

    assert seen == [
        {"new_value": {"n": 1}, "old_value": None},
        ({"n": 1}, {"n": 2}),
        ({"n": 2}, {"n": 7}),
        {"n": 7},
        None,
        [1, {"n": 7}],
        ["orders"] * 3,
        1,
        None,
        1,
        [],
    ]


async def test_state_gives_back_the_type_that_is_asked_for() -> None:
    """A model or dataclass is kept as its fields, and read as itself or as plain data."""

    async def life(ctx: StepContext) -> list[Any]:
        await ctx.state.set("o", "1", Order(id="1", total=2))
        await ctx.state.set("o", "2", Note("hi"))
        await ctx.state.update("o", "1", [{"type": "set", "path": "note", "value": Note("x")}])
        return [
            await ctx.state.get("o", "1"),
            await ctx.state.get("o", "1", Order),
            await ctx.state.get("o", "2", Note),
            await ctx.state.get("o", "3", Order),
            await ctx.state.list("o", dict[str, Any]),
        ]

    async with running() as world:
        plain, order, note, nothing, listed = await doing(world, life)

    assert plain == {"id": "1", "total": 2, "note": {"text": "x"}}
    assert (order, note, nothing) == (Order(id="1", total=2), Note("hi"), None)
    assert len(listed) == 2


@pytest.mark.parametrize(
    ("fn", "error", "said"),
    [
        (lambda ctx: ctx.state.set("g", 5, 1), TypeError, "the key is 5"),
        (lambda ctx: ctx.state.get("", "k"), TypeError, "the group is ''"),
        (lambda ctx: ctx.state.set("g", "k", object()), NotEncodable, "state g/k"),
        (lambda ctx: ctx.state.update("g", "k", [{"type": "incr", "path": "n"}]), UpdateError, "incr"),
    ],
)
async def test_what_state_cannot_keep_is_refused(
    fn: Callable[[StepContext], Any], error: type[Exception], said: str
) -> None:
    """Nothing is written, and the message says what was given."""
    async with running() as world:
        with pytest.raises(error, match=said):
            await doing(world, fn)
        assert await world.engine.store.kv_groups() == []


WORD = [{"type": "increment", "path": "n"}]
MISSPELT = [{"type": "incremnt", "path": "n"}]
UNKNOWN = (
    "op 0 is 'incremnt'; ops are set, increment, decrement, append, merge, remove; nothing was changed. "
    "Did you mean 'increment'?"
)


@pytest.mark.parametrize("how", ["live", "atomic"])
async def test_an_update_that_does_not_fit_names_the_state(how: str) -> None:
    """Group and key, for one Step may change many; a misspelt op is told what was meant."""

    async def update(ctx: StepContext, ops: list[dict[str, Any]]) -> None:
        if how == "live":
            await ctx.state.update("orders", "o-1", ops)
        else:
            async with ctx.atomic():
                await ctx.state.update("orders", "o-1", ops)

    async with running() as world:
        await world.engine.kv_set("orders", "o-1", b'{"n": "one"}')
        for ops, said in ((WORD, "op 0 (increment at 'n') expected a number"), (MISSPELT, UNKNOWN)):
            with pytest.raises(UpdateError) as refused:
                await doing(world, lambda ctx, ops=ops: update(ctx, ops))  # type: ignore[misc]
            assert str(refused.value).startswith(f"state 'orders' 'o-1': {said}")
            assert refused.value.state == ("orders", "o-1")


async def test_atomic_is_all_or_nothing() -> None:
    """What fails inside the block leaves nothing of it."""

    async def fails(ctx: StepContext) -> None:
        async with ctx.atomic():
            await ctx.state.set("g", "k", 1)
            assert await ctx.state.get("g", "k") == 1
            raise LookupError("no such order")

    async def works(ctx: StepContext) -> None:
        async with ctx.atomic():
            await ctx.state.set("g", "k", 2)
            await ctx.enqueue("nobody", 1)

    async with running() as world:
        with pytest.raises(LookupError, match="no such order"):
            await doing(world, fails)
        assert await world.state("g", "k") is None
        await doing(world, works)

        assert await world.state("g", "k") == 2
        assert len(await world.engine.store.unrouted()) == 1


# ---- who triggered it, and which attempt it is


async def test_a_trace_leads_through_all_steps() -> None:
    """The message carries the trace of the request, in both spellings of the name."""
    seen: list[Any] = []

    @step(on.queue("t"))
    async def second(ctx: StepContext, data: Any) -> None:
        seen.append((ctx.trace_id, ctx.traceId, ctx.run_id))

    async with running(second) as world:
        await world.ask(probe(lambda ctx: ctx.enqueue("t", 1)), trace="trace-7")
        [run] = await world.settled()

    assert seen == [("trace-7", "trace-7", run.rid)]


async def test_ctx_knows_its_trigger() -> None:
    """Topic and attempt of a message, method and path of a request; guards agree."""
    seen: list[Any] = []

    @step(on.queue("t", retry=QUICK), on.post("/orders/:id"))
    async def both(ctx: StepContext, data: Any) -> None:
        guards: Any = getattr(ctx, "is")
        seen.append(
            (
                ctx.trigger,
                (ctx.is_queue(), ctx.is_http(), ctx.is_api(), ctx.is_cron(), ctx.is_state(), ctx.is_stream()),
                (ctx.is_.queue(data), ctx.is_.http(data), guards.api(data), guards.cron(data)),
                (ctx.get_data(), ctx.getData()),
            )
        )
        if ctx.is_queue() and ctx.trigger.attempt == 1:
            raise ValueError

    async with running(both) as world:
        await world.send("t", 5)
        await world.ask(both, {"a": 1})

    queue = ((True, False, False, False, False, False), (True, False, False, False), (5, 5))
    assert seen == [
        (TriggerInfo("queue", topic="t", attempt=1), *queue),
        (TriggerInfo("queue", topic="t", attempt=2), *queue),
        (
            TriggerInfo("http", method="POST", path="/orders/:id"),
            (False, True, True, False, False, False),
            (False, True, True, False),
            ({"a": 1}, {"a": 1}),
        ),
    ]


async def test_match_calls_the_branch_of_the_trigger() -> None:
    """Async and plain branches, with or without the input; `api` and `default` stand in for `http`."""

    async def matching(ctx: StepContext) -> list[Any]:
        async def on_http(req: Request[Any]) -> str:
            return f"http {req.method}"

        return [
            await ctx.match({"http": on_http, "queue": lambda data: "queue"}),
            await ctx.match({"api": lambda: "api", "default": lambda: "default"}),
            await ctx.match({"queue": lambda data: "queue", "default": lambda req: "default"}),
            await ctx.match({"queue": lambda data: "queue"}),
        ]

    async with running() as world:
        assert await doing(world, matching) == ["http POST", "api", "default", None]


async def test_what_a_retry_asks_again_is_answered_the_same() -> None:
    """uuid, now and random are those of the first attempt; a function of ctx.run is not called again."""
    seen: list[Any] = []
    calls = []

    async def charge(amount: int) -> int:
        calls.append(amount)
        return amount * 2

    @step(on.queue("t", retry=QUICK))
    async def retried(ctx: StepContext, data: Any) -> None:
        seen.append((ctx.uuid(), ctx.now(), ctx.random(), await ctx.run(charge, 5)))
        if len(seen) == 1:
            raise ValueError

    async with running(retried) as world:
        [run] = await world.send("t", 1)

    assert run.state is Status.DONE
    assert seen[0] == seen[1]
    assert isinstance(seen[0][0], UUID)
    assert calls == [5]


async def test_a_retry_does_not_repeat_equal_effects() -> None:
    """A message that was sent before the failure is not sent again."""
    got: list[Any] = []
    failed: list[int] = []

    @step(on.queue("a", retry=QUICK))
    async def sender(ctx: StepContext, data: Any) -> None:
        await ctx.enqueue("b", {"n": 1})
        await ctx.state.update("g", "k", [{"type": "increment", "path": "n", "by": 1}])
        if not failed:
            failed.append(1)
            raise ValueError

    @step(on.queue("b"))
    async def receiver(ctx: StepContext, data: Any) -> None:
        got.append(data)

    async with running(sender, receiver) as world:
        await world.send("a", 1)

        assert got == [{"n": 1}]
        assert await world.state("g", "k") == {"n": 1}


# ---- what is not there


async def test_a_name_ctx_does_not_have_says_which_it_has() -> None:
    """A misspelt method names the nearest; what comes later, and what was before, is named as such."""

    async def asking(ctx: Any) -> list[str]:
        said = []
        for name in ("enqueu", "streams", "emit"):
            with pytest.raises(AttributeError) as caught:
                getattr(ctx, name)
            said.append(str(caught.value))
        return said

    async with running() as world:
        misspelt, streams, emit = await doing(world, asking)

    assert "Did you mean 'enqueue'?" in misspelt
    assert "later release" in streams
    assert "ctx.enqueue" in emit


async def test_a_ctx_that_outlives_its_request_does_nothing() -> None:
    """A task that was left behind cannot write after the answer was sent."""
    kept: list[StepContext] = []

    async def keep(ctx: StepContext) -> None:
        kept.append(ctx)

    async with running() as world:
        await doing(world, keep)
        with pytest.raises(ContextClosed):
            await kept[0].state.set("g", "k", 1)
        assert await world.state("g", "k") is None


async def test_log_lines_say_whose_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """Each line carries Step, trace and run; `warn` and a dict of data are Motia's."""

    @step(on.queue("t"))
    async def talker(ctx: StepContext, data: Any) -> None:
        ctx.logger.warn("hello", {"a": 1}, b=2)  # noqa: PLE1205  # not the logging of the standard library

    async with running(talker) as world:
        [run] = await world.send("t", 1, trace="t-9")

    [record] = [r for r in caplog.records if r.message == "hello"]
    assert record.everstep_fields == {"step": "talker", "trace": "t-9", "run": run.rid, "a": 1, "b": 2}  # type: ignore[attr-defined]


async def test_a_block_entered_without_async_is_told_how_to_write_it() -> None:
    """The word that is missing, in the words of the Step."""

    async def forgetful(ctx: StepContext) -> None:
        with ctx.atomic():  # type: ignore[attr-defined]
            pass

    async with running() as world:
        with pytest.raises(TypeError, match=r"write async with ctx\.atomic"):
            await doing(world, forgetful)
