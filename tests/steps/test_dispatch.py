"""From a message or a request to the function of a Step, on a real engine."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.errors import ContextClosed, TerminalError
from everstep.steps.config import http, queue, read_config
from everstep.steps.context import StepContext
from everstep.steps.discover import discover
from everstep.steps.dispatch import BadResponse, handler_of
from everstep.steps.on import on, step
from everstep.steps.project import Project
from everstep.steps.request import Request, Response, dump_request, load_response
from everstep.steps.topic import Topic
from everstep.steps.validator import InvalidInput
from tests.steps.world import AnyStep, error_of, running

pytestmark = pytest.mark.anyio
QUICK = Retry(attempts=3, delay=0.001)


class Item(BaseModel):
    price: float


class Order(BaseModel):
    items: list[Item]


submitted = Topic("submitted", Order)


def filed(handler: Callable[..., Any], *triggers: Any, **options: Any) -> AnyStep:
    """A Step of the file form."""
    made, _ = read_config({"name": "Filed", "triggers": list(triggers), **options}, handler)
    return made


# ---- messages


async def test_a_message_becomes_what_the_topic_says() -> None:
    """The handler gets an instance of the topic's type."""
    got: list[Order] = []

    @step(on.queue(submitted))
    async def typed(ctx: StepContext, order: Order) -> None:
        got.append(order)

    async with running(typed) as world:
        await world.send("submitted", {"items": [{"price": 1}]})

    assert got == [Order(items=[Item(price=1)])]


@pytest.mark.parametrize(
    ("data", "said"),
    [({"items": [{"price": 1}, {"price": "x"}, {}]}, "input.items[1].price"), (b"{", "input: Invalid JSON")],
)
async def test_a_message_that_does_not_fit_goes_straight_to_the_dead_letters(data: Any, said: str) -> None:
    """Another attempt would not mend it; its error lists every fault."""

    @step(on.queue(submitted, retry=QUICK))
    async def typed(ctx: StepContext, order: Order) -> None: ...

    async with running(typed) as world:
        [run] = await world.send("submitted", data)

    assert run.state is Status.FAILED
    assert run.attempt <= 1
    assert isinstance(error_of(run), TerminalError)
    assert said in str(error_of(run))
    if isinstance(data, dict):
        assert "input.items[2].price" in str(error_of(run))


async def test_a_json_schema_checks_messages_of_a_file() -> None:
    """The plain data arrives when it fits, and the message is set aside when it does not."""
    got: list[Any] = []

    async def handler(input: Any, ctx: Any) -> None:
        got.append(input)

    made = filed(handler, queue("t", input=Order.model_json_schema()))
    async with running(made) as world:
        await world.send("t", {"items": [{"price": 1}]})
        runs = await world.send("t", {"items": 5})

    assert got == [{"items": [{"price": 1}]}]
    assert [run.state for run in runs] == [Status.DONE, Status.FAILED]


async def test_a_failing_handler_is_tried_as_often_as_its_policy_says() -> None:
    """maxRetries of a file, Retry of a decorator."""
    calls: list[str] = []

    async def handler(input: Any, ctx: Any) -> None:
        calls.append("file")
        raise ValueError

    @step(on.queue("t", retry=QUICK))
    async def decorated(ctx: StepContext, data: Any) -> None:
        calls.append("decorated")
        raise ValueError

    once = filed(handler, queue("t", config={"maxRetries": 0}))
    async with running(once, decorated) as world:
        runs = await world.send("t", 1)

    assert sorted(calls) == ["decorated"] * 3 + ["file"]
    assert {run.state for run in runs} == {Status.FAILED}


async def test_a_terminal_error_is_not_tried_again() -> None:
    """The handler decides that another attempt is of no use."""
    calls: list[int] = []

    @step(on.queue("t", retry=QUICK))
    async def gives_up(ctx: StepContext, data: Any) -> None:
        calls.append(1)
        raise TerminalError("never")

    async with running(gives_up) as world:
        [run] = await world.send("t", 1)

    assert calls == [1]
    assert str(error_of(run)) == "never"


async def test_a_run_of_a_topic_the_step_left_is_set_aside_by_name() -> None:
    """A message that waited over a deploy is not handled as something else."""

    @step(on.queue("new"))
    async def moved(ctx: StepContext, data: Any) -> None: ...

    async with running(moved) as world:
        await world.engine.begin("moved", b"1", topic="old")
        [run] = await world.settled()

    assert run.state is Status.FAILED
    assert "no trigger for 'old'" in str(error_of(run))


# ---- calling


async def test_handlers_are_called_as_they_are_written() -> None:
    """(input, ctx), (input), (ctx), () and their async forms, in a file and decorated."""
    got: list[Any] = []

    async def both(input: Any, ctx: Any) -> None:
        got.append(("both", input, ctx.trigger.topic))

    def both_plain(input: Any, context: Any) -> None:
        got.append(("both_plain", input, context.trigger.topic))

    async def one(data: Any) -> None:
        got.append(("one", data))

    def one_plain(data: Any) -> None:
        got.append(("one_plain", data))

    async def ctx_alone(ctx: Any) -> None:
        got.append(("ctx_alone", ctx.trigger.topic))

    def none() -> None:
        got.append(("none",))

    handlers: list[Callable[..., Any]] = [both, both_plain, one, one_plain, ctx_alone, none]
    steps = [read_config({"name": fn.__name__, "triggers": [queue("t")]}, fn)[0] for fn in handlers]
    async with running(*steps) as world:
        await world.send("t", 5)

    assert sorted(got) == [
        ("both", 5, "t"),
        ("both_plain", 5, "t"),
        ("ctx_alone", "t"),
        ("none",),
        ("one", 5),
        ("one_plain", 5),
    ]


async def test_a_plain_function_that_hands_on_a_coroutine_is_awaited() -> None:
    """A lambda or a partial around an async function works."""
    got: list[Any] = []

    async def later(data: Any) -> None:
        got.append(data)

    async with running(filed(lambda data: later(data), queue("t"))) as world:  # noqa: PLW0108  # a plain function
        await world.send("t", 5)

    assert got == [5]


async def test_a_blocking_handler_does_not_hold_up_the_loop() -> None:
    """While a plain function waits, async ones go on."""
    order: list[str] = []

    @step(on.queue("t"))
    def slow(data: Any) -> None:
        loop_is_free.wait(10)
        order.append("slow")

    @step(on.queue("t"))
    async def quick(data: Any) -> None:
        order.append("quick")
        loop_is_free.set()

    loop_is_free = threading.Event()
    async with running(slow, quick) as world:
        await world.send("t", 1)

    assert order == ["quick", "slow"]


# ---- conditions


@dataclass
class Above:
    """A condition that is an object, and has no hash."""

    limit: int

    def __call__(self, data: Any) -> bool:
        return bool(data > self.limit)


async def uses_state(data: Any, ctx: Any) -> bool:
    return bool(await ctx.state.get("flags", "on"))


def uses_state_plainly(data: Any, ctx: Any) -> bool:
    return bool(ctx.state.get("flags", "on"))


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (lambda data: data > 5, False),
        (lambda data: data > 4, True),
        (lambda data, ctx: data > 4, True),
        (lambda: False, False),
        (Above(5), False),
        (uses_state, False),
        (uses_state_plainly, False),
    ],
)
async def test_a_condition_decides_whether_a_message_is_handled(
    condition: Callable[..., Any], holds: bool
) -> None:
    """Sync or async, with or without ctx; what does not hold ends as skipped."""
    got: list[Any] = []

    @step(on.queue("t", condition=condition))
    async def guarded(ctx: StepContext, data: Any) -> None:
        got.append(data)

    async with running(guarded) as world:
        [run] = await world.send("t", 5)

    assert run.state is (Status.DONE if holds else Status.SKIPPED)
    assert bool(got) == holds


async def test_a_condition_that_fails_is_tried_again_like_a_handler() -> None:
    """A condition that reads a database which is away does not lose the message."""
    asked: list[int] = []

    def shaky(data: Any) -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError
        return True

    @step(on.queue("t", condition=shaky, retry=QUICK))
    async def guarded(ctx: StepContext, data: Any) -> None: ...

    async with running(guarded) as world:
        [run] = await world.send("t", 5)

    assert run.state is Status.DONE
    assert len(asked) == 2


# ---- effects


@pytest.mark.parametrize("effects", ["live", "on_success"])
async def test_what_a_failed_attempt_leaves_behind(effects: Any) -> None:
    """Live effects stay; gathered ones are applied only with the success of their attempt."""
    seen: list[Any] = []

    @step(on.queue("t", retry=QUICK), effects=effects)
    async def shaky(ctx: StepContext, data: Any) -> None:
        seen.append(await ctx.state.get("g", f"attempt-{ctx.trigger.attempt - 1}"))
        await ctx.state.set("g", f"attempt-{ctx.trigger.attempt}", 1)
        assert await ctx.state.get("g", f"attempt-{ctx.trigger.attempt}") == 1
        if ctx.trigger.attempt == 1:
            raise ValueError

    async with running(shaky) as world:
        await world.send("t", 5)
        kept = [row.key for row in await world.engine.store.kv_list("g")]

    assert seen == ([None, 1] if effects == "live" else [None, None])
    assert kept == (["attempt-1", "attempt-2"] if effects == "live" else ["attempt-2"])


async def test_gathered_effects_of_a_request() -> None:
    """They are committed before the answer, and not at all when the request fails."""

    @step(on.post("/x"), effects="on_success")
    async def gathering(ctx: StepContext, req: Request[Any]) -> str:
        await ctx.state.set("g", "k", req.body)
        if req.body == "bad":
            raise ValueError("bad")
        return "ok"

    async with running() as world:
        with pytest.raises(ValueError, match="bad"):
            await world.ask(gathering, "bad")
        assert await world.state("g", "k") is None

        assert (await world.ask(gathering, "good")).body == "ok"
        assert await world.state("g", "k") == "good"


# ---- processes


CRUNCH = """
import os
from .numbers_of_ours import double

config = {"name": "Crunch", "process": True, "triggers": [
    {"type": "queue", "topic": "t"}, {"type": "http", "method": "POST", "path": "/crunch"}]}

def handler(data):
    if hasattr(data, "body"):
        return {"body": [double(data.body), os.getpid()]}
    with open(data["file"], "w") as file:
        file.write(f"{double(data['n'])} {os.getpid()}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project's folder, closed after the test."""
    yield tmp_path
    if Project.current is not None:
        Project.current.close()


async def test_heavy_work_runs_in_a_process_of_its_own(project: Path) -> None:
    """The file and what it imports are found there again; requests and messages both work."""
    folder = project / "src" / "heavy"
    folder.mkdir(parents=True)
    (folder / "crunch_step.py").write_text(CRUNCH)
    (folder / "numbers_of_ours.py").write_text("def double(n): return n * 2")
    found = discover(project)
    assert found.problems == []
    [crunch] = found.steps
    output = project / "output"

    async with running(crunch) as world:
        [run] = await world.send("t", {"n": 4, "file": str(output)})
        answer = await world.ask(crunch, 21)

    assert run.state is Status.DONE
    result, pid = output.read_text().split()
    assert (result, answer.body[0]) == ("8", 42)
    assert os.getpid() not in (int(pid), answer.body[1])


# ---- responses


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": 201, "body": {"a": 1}, "headers": {"X": "1"}}, Response({"a": 1}, 201, {"X": "1"})),
        ({"body": "text"}, Response("text")),
        ({"status": 204}, Response(None, 204)),
        (Response(b"raw", 202), Response(b"raw", 202)),
        (None, Response()),
    ],
)
async def test_a_file_answers_with_an_envelope(answer: Any, expected: Response) -> None:
    """A dict says status, body and headers; a Response is taken as it is."""

    async def handler(req: Any) -> Any:
        return answer

    async with running() as world:
        assert await world.ask(filed(handler, http("POST", "/x"))) == expected


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 200, "boddy": {}}, "with the key 'boddy'; .* Did you mean 'body'?"),
        ({"id": 1}, "with the key 'id'; .* put data into \"body\""),
        ({"status": "ok"}, "with the status 'ok'"),
        ({"status": 99}, "with the status 99"),
        ({"headers": ["X"]}, "with a list as headers"),
        ([1], "with a list; return"),
        ("text", "with a str; return"),
    ],
)
async def test_an_answer_that_is_no_envelope_is_named(answer: Any, said: str) -> None:
    """The Step and the mistake are named, and what to return instead."""

    async def handler(req: Any) -> Any:
        return answer

    async with running() as world:
        with pytest.raises(BadResponse, match=said.replace("?", r"\?")):
            await world.ask(filed(handler, http("POST", "/x")))


async def test_outside_dev_unknown_keys_of_an_envelope_are_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A live service goes on answering; the line says which keys."""

    async def handler(req: Any) -> Any:
        return {"status": 200, "body": 1, "etxra": 2}

    async with running() as world:
        answer = await world.ask(filed(handler, http("POST", "/x")), dev=False)

    assert answer == Response(1)
    assert "keys that say nothing" in caplog.text


@pytest.mark.parametrize("answer", [{"status": 1, "x": 2}, [1], "text", 5, None, Order(items=[])])
async def test_what_a_decorated_step_returns_is_the_body(answer: Any) -> None:
    """Whatever it is; only a Response says more."""

    @step(on.post("/x"))
    async def answering(ctx: StepContext, req: Request[Any]) -> Any:
        return answer

    async with running() as world:
        assert await world.ask(answering) == Response(answer)


@pytest.mark.parametrize("declared", [Order, Order.model_json_schema()], ids=["model", "schema"])
@pytest.mark.parametrize("body", [Order(items=[Item(price=1)]), {"items": [{"price": 1}]}])
async def test_a_response_that_keeps_its_promise_passes(declared: Any, body: Any) -> None:
    """Models and plain data, against a type or a JSON Schema; other statuses are not looked at."""

    @step(on.post("/x", responses={200: declared}))
    async def answering(ctx: StepContext, req: Request[Any]) -> Any:
        return Response("anything", 404) if req.body == 404 else body

    async with running() as world:
        assert (await world.ask(answering)).body == body
        assert (await world.ask(answering, 404)).status == 404


async def test_a_response_that_breaks_its_promise_is_an_error_in_dev_and_a_line_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The faults are named by path; a client of a live service still gets its answer."""

    @step(on.post("/x", responses={200: Order}))
    async def answering(ctx: StepContext, req: Request[Any]) -> Any:
        return {"items": [{"price": "x"}]}

    async with running() as world:
        with pytest.raises(BadResponse, match=r"POST /x declares. body.items\[0\].price"):
            await world.ask(answering)
        answer = await world.ask(answering, dev=False)

    assert answer.status == 200
    assert "the response is not what is declared" in caplog.text


async def test_a_condition_of_a_request_that_does_not_hold_is_422() -> None:
    """The Step does not run, and the client is told that it was skipped."""
    ran: list[int] = []

    @step(on.post("/x", body=Order, condition=lambda req: len(req.body.items) > 0))
    async def guarded(ctx: StepContext, req: Request[Order]) -> None:
        ran.append(1)

    async with running() as world:
        answer = await world.ask(guarded, {"items": []})

    assert answer.status == 422
    assert answer.body["skipped"] is True
    assert answer.body["error"]
    assert ran == []


async def test_a_body_that_does_not_fit_never_reaches_the_step() -> None:
    """Its faults are named before anything runs."""

    @step(on.post("/x", body=Order))
    async def typed(ctx: StepContext, req: Request[Order]) -> None: ...

    async with running() as world:
        with pytest.raises(InvalidInput) as caught:
            await world.ask(typed, {"items": [{}]})

    assert [fault.path for fault in caught.value.faults] == ["body.items[0].price"]


async def test_a_stream_may_use_ctx_after_the_handler_returned() -> None:
    """The body of a streaming response reads state while it is sent."""

    @step(on.post("/x"))
    async def streaming(ctx: StepContext, req: Request[Any]) -> Any:
        await ctx.state.set("g", "k", 5)

        async def parts() -> AsyncIterator[Any]:
            yield await ctx.state.get("g", "k")

        return parts()

    async with running() as world:
        answer = await world.ask(streaming)

        assert [part async for part in answer.body] == [5]


# ---- requests that are runs


async def test_a_request_with_an_idempotency_key_is_a_run_whose_output_is_its_response() -> None:
    """It is checked, called and answered like the plain request."""

    @step(on.post("/orders/:id", body=Order, responses={201: Order}), on.queue("t"))
    async def create(ctx: StepContext, req: Any) -> Response:
        await ctx.state.set("g", req.path_params["id"], req.body)
        return Response(req.body, 201, {"X-Attempt": str(ctx.trigger.attempt)})

    [route] = create.routes
    request: Request[Any] = Request(
        body={"items": [{"price": 1}]}, path_params={"id": "o-1"}, method="POST", path="/orders/o-1"
    )
    async with running(create) as world:
        begun = await world.engine.begin("create", dump_request(request), topic=route.route)
        run = await world.engine.result(begun.run.rid, timeout=10)

        assert run.output is not None
        assert load_response(run.output) == Response({"items": [{"price": 1.0}]}, 201, {"X-Attempt": "1"})
        assert await world.state("g", "o-1") == {"items": [{"price": 1.0}]}


async def test_an_idempotent_request_that_is_skipped_keeps_its_answer() -> None:
    """The 422 is stored, so that the repeated request gets the same."""

    @step(on.post("/x", condition=lambda req: False))
    async def guarded(ctx: StepContext, req: Request[Any]) -> None: ...

    async with running(guarded) as world:
        begun = await world.engine.begin("guarded", dump_request(Request(body=None)), topic="POST /x")
        run = await world.engine.result(begun.run.rid, timeout=10)

    assert run.output is not None
    assert load_response(run.output).status == 422


def test_what_the_engine_is_told_of_a_step() -> None:
    """Name, policy, time, load and subscriptions of the Step are those of its handler."""

    @step(
        on.queue("a", retry=QUICK, concurrency=3, fifo=True),
        on.queue("b"),
        timeout="1m",
        effects="on_success",
    )
    async def told(ctx: StepContext, data: Any) -> None: ...

    handler = handler_of(told)

    assert (handler.name, handler.timeout, handler.concurrency) == ("told", 60_000_000, 3)
    assert handler.gather
    assert handler.subscriptions == told.subscriptions
    assert handler.source == told.source
    assert handler.retry.attempts == 4


async def test_an_effect_nobody_awaited_is_refused_after_the_end() -> None:
    """A task the handler left behind cannot write into a run that is done."""
    left: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    @step(on.queue("t"))
    async def careless(ctx: StepContext, data: Any) -> None:
        async def late() -> None:
            await go_on.wait()
            await ctx.state.set("g", "k", 1)

        left.append(asyncio.create_task(late()))

    async with running(careless) as world:
        await world.send("t", 1)
        go_on.set()
        with pytest.raises(ContextClosed):
            await left[0]

        assert await world.state("g", "k") is None
