"""Steps as decorated functions.  What a checker infers is asserted by mypy when it reads this file."""

from typing import Any, assert_type

import pytest
from pydantic import BaseModel

from everstep.core.retry import Retry
from everstep.errors import ConfigError
from everstep.steps.blocking import SyncStepContext
from everstep.steps.context import StepContext
from everstep.steps.on import Trigger, on, step
from everstep.steps.request import Request, Response
from everstep.steps.step import Enqueue, Step
from everstep.steps.topic import Topic


class User(BaseModel):
    email: str


class Click(BaseModel):
    at: str


signed_up = Topic("user.signed_up", User)


# ---- what is inferred

assert_type(signed_up, Topic[User])
assert_type(on.get("/users"), Trigger[Request[None]])
assert_type(on.post("/users"), Trigger[Request[Any]])
assert_type(on.post("/users", body={"type": "object"}), Trigger[Request[Any]])
assert_type(on.put("/users", body=User), Trigger[Request[User]])
assert_type(on.patch("/users", body=list[User]), Trigger[Request[list[User]]])
assert_type(on.delete("/users/:id"), Trigger[Request[Any]])
assert_type(on.queue(signed_up), Trigger[User])
assert_type(on.queue("user.signed_up"), Trigger[Any])


@step(on.post("/users", body=User), enqueues=[signed_up], flows=["users"])
async def submit(ctx: StepContext, req: Request[User]) -> Response:
    """Sign a user up."""
    assert_type(req.body.email, str)
    assert_type(await ctx.enqueue(signed_up, req.body, delay="5m"), str)
    assert_type(await ctx.enqueue({"topic": "x", "data": 1}), str)
    assert_type(await ctx.state.get("users", "u-1", User), User | None)
    assert_type(await ctx.state.list("users", User), list[User])
    assert_type(await ctx.run(fetch, 1, "x"), float)
    assert_type(await ctx.run(compute, 1, process=True), str)
    return Response({"ok": True}, 202)


@step(on.queue(signed_up))
def analyse(ctx: StepContext, user: User) -> None: ...


@step(on.queue(signed_up))
def greet(ctx: SyncStepContext, user: User) -> int:
    assert_type(ctx.enqueue(signed_up, user), str)
    assert_type(ctx.state.get("users", "u-1", User), User | None)
    assert_type(ctx.run(fetch, 1, "x"), float)
    with ctx.atomic():
        ctx.state.set("users", "u-1", user)
    return 1


@step(on.queue(signed_up), process=True)
def crunch(user: User) -> int:
    return len(user.email)


@step(on.queue(signed_up), on.post("/clicks", body=Click))
async def both(ctx: StepContext, data: User | Request[Click]) -> None: ...


@step(on.queue(signed_up), on.post("/c", body=Click), on.get("/d"))
async def three(ctx: StepContext, data: User | Request[Click] | Request[None]) -> None: ...


async def fetch(a: int, b: str) -> float:
    return 1.0


def compute(a: int) -> str:
    return ""


assert_type(submit, Step[Request[User], Response])
assert_type(analyse, Step[User, None])
assert_type(greet, Step[User, int])
assert_type(crunch, Step[User, int])
assert_type(both, Step[User | Request[Click], None])


# ---- what is refused: an ignore that is not needed would be an error of its own


def refused() -> None:
    """Never called; read by the checker."""

    @step(on.queue(signed_up))
    async def wrong_message(ctx: StepContext, user: User) -> None:
        await ctx.enqueue(signed_up, Click(at=""))  # type: ignore[misc]
        await ctx.run(compute, "x")  # type: ignore[arg-type]
        ctx.kvv  # type: ignore[attr-defined]  # noqa: B018

    @step(on.queue(signed_up))  # type: ignore[arg-type]
    def wrong_input(ctx: StepContext, click: Click) -> None: ...

    @step(on.queue(signed_up))  # type: ignore[arg-type]
    async def wrong_async_input(ctx: StepContext, click: Click) -> None: ...

    @step(on.post("/users", body=User))  # type: ignore[arg-type]
    async def body_alone(ctx: StepContext, user: User) -> None: ...


# ---- what happens


def test_a_decorated_function_is_a_step() -> None:
    """Name, description, triggers and edges are read from the function and the decorator."""
    assert isinstance(submit, Step)
    assert (submit.name, submit.description) == ("submit", "Sign a user up.")
    assert [route.route for route in submit.routes] == ["POST /users"]
    assert submit.enqueues == (Enqueue("user.signed_up"),)
    assert submit.flows == ("users",)
    assert submit.file == __file__
    assert submit.module == __name__
    assert submit.is_async


def test_the_types_of_triggers_are_checked_at_run_time_too() -> None:
    """The body of a request and the message of a topic have validators of their types."""
    assert submit.routes[0].body is not None
    assert submit.routes[0].body.source is User
    assert analyse.queues[0].input is signed_up.validator
    assert on.queue("plain").spec.input is None  # type: ignore[union-attr]


def test_options_of_triggers_are_kept() -> None:
    """Retry, concurrency, order, delay and condition reach the trigger."""
    retry = Retry(attempts=5)

    def holds(user: User, ctx: Any) -> bool:
        return True

    @step(
        on.queue(signed_up, retry=retry, concurrency=2, fifo=True, delay="1s", condition=holds), timeout="5m"
    )
    async def fn(ctx: StepContext, user: User) -> None: ...

    [trigger] = fn.queues
    assert (trigger.retry, trigger.concurrency, trigger.fifo) == (retry, 2, True)
    assert (trigger.delay, trigger.condition) == (1_000_000, holds)
    assert fn.timeout == 300_000_000


def test_a_query_may_be_names_or_a_schema() -> None:
    """Names are documented; a type is checked as well."""
    named = on.get("/users", query=["page"]).spec
    typed = on.get("/users", query=User).spec

    assert [param.name for param in named.query] == ["page"]  # type: ignore[union-attr]
    assert typed.query_schema is not None  # type: ignore[union-attr]


def test_what_a_decorator_cannot_use_is_refused() -> None:
    """@step without triggers, with something else, or with options that make no sense."""
    with pytest.raises(ConfigError, match="at least one trigger"):
        step()  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match=r"write @step\(on.queue\(topic\)\)"):
        step("order.submitted")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="'live' or 'on_success'"):
        step(on.get("/"), effects="later")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="concurrency is 0"):
        on.queue("t", concurrency=0)
    with pytest.raises(ConfigError, match=r"flows is 'shop'; it is a list: flows=\["):
        step(on.get("/"), flows="shop")  # a str passes for a sequence of str with every checker
    with pytest.raises(ConfigError, match="enqueues is a Topic; it is a list"):
        step(on.get("/"), enqueues=Topic("t", User))  # type: ignore[call-overload]


def test_a_topic_needs_a_name() -> None:
    """An empty name is refused where it is written."""
    with pytest.raises(ConfigError, match="a topic needs a name"):
        Topic("", User)


def bare(ctx: StepContext, data: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (bare, r'above bare\(\) .* write @step\(on.queue\("topic"\)\)'),
        (on.queue, "on.queue lacks its topic"),
        (on.post, r'on.post lacks its path; write @step\(on.post\("/orders"\)\)'),
    ],
)
def test_a_decorator_without_its_trigger_is_told_how_to_write_it(given: Any, said: str) -> None:
    """The function is named: there are many in a file."""
    with pytest.raises(ConfigError, match=said):
        step(given)
