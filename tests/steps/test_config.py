"""Steps as files: what a config may say, and what is said about one that is wrong."""

from typing import Any

import pytest
from pydantic import BaseModel

from everstep.core.retry import Retry
from everstep.errors import ConfigError
from everstep.steps.config import StepConfig, api, http, queue, read_config
from everstep.steps.on import on
from everstep.steps.step import Enqueue, Step
from everstep.steps.topic import Topic
from everstep.steps.triggers import HttpTrigger, QueryParam, QueueTrigger

FILE = "src/orders/charge_step.py"


class Order(BaseModel):
    total: int


async def handler(input: Any, ctx: Any) -> None: ...
async def layer(req: Any, ctx: Any, following: Any) -> Any: ...
def condition(input: Any, ctx: Any) -> bool:
    return True


def read(config: Any, fn: Any = handler) -> Step[Any, Any]:
    step, warnings = read_config(config, fn, file=FILE)
    assert warnings == []
    return step


def warned(config: Any, fn: Any = handler) -> list[str]:
    return read_config(config, fn, file=FILE)[1]


def refused(config: Any, fn: Any = handler) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(config, fn, file=FILE)
    return str(caught.value)


def trigger(**options: Any) -> dict[str, Any]:
    return {"name": "S", "triggers": [options]}


def test_a_motia_config_is_read_as_it_stands() -> None:
    """All that Motia's reference shows of an API Step is understood."""
    step = read(
        {
            "name": "CreateUser",
            "description": "Creates a new user",
            "triggers": [
                {
                    "type": "api",
                    "method": "POST",
                    "path": "/users",
                    "bodySchema": {"type": "object", "properties": {"name": {"type": "string"}}},
                    "responseSchema": {201: Order.model_json_schema()},
                    "middleware": [layer],
                    "queryParams": [{"name": "invite", "description": "Invite code"}],
                    "condition": condition,
                },
            ],
            "enqueues": ["user.created", {"topic": "mail", "label": "Welcome", "conditional": True}],
            "virtualEnqueues": ["notification.sent"],
            "virtualSubscribes": ["user.invited"],
            "flows": ["user-management"],
            "includeFiles": ["../../assets/template.html"],
        }
    )
    [route] = step.routes

    assert (step.name, step.form, step.kind, step.file) == ("CreateUser", "file", "Http", FILE)
    assert (route.route, route.middleware, route.condition) == ("POST /users", (layer,), condition)
    assert route.query == (QueryParam("invite", "Invite code"),)
    assert list(route.responses) == [201]
    assert step.enqueues == (Enqueue("user.created"), Enqueue("mail", "Welcome", True))
    assert step.virtual_enqueues == (Enqueue("notification.sent"),)
    assert step.virtual_subscribes == ("user.invited",)
    assert step.flows == ("user-management",)
    assert step.include_files == ("../../assets/template.html",)


def test_infrastructure_of_a_trigger_is_honoured() -> None:
    """FIFO, retries, timeouts and delay as Motia's reference writes them."""
    step = read(
        trigger(
            type="queue",
            topic="order.created",
            input=Order.model_json_schema(),
            infrastructure={
                "handler": {"ram": 2048, "cpu": 1, "timeout": 60},
                "queue": {"type": "fifo", "maxRetries": 5, "visibilityTimeout": 90, "delaySeconds": 2},
            },
        )
    )
    [found] = step.queues

    assert found.fifo
    assert found.retry.attempts == 6
    assert (found.timeout, found.visibility_timeout, found.delay) == (60_000_000, 90_000_000, 2_000_000)
    assert step.longest == 60_000_000


def test_infrastructure_of_a_step_holds_for_all_its_triggers() -> None:
    """A trigger may say something else for itself, in `infrastructure` or in `config`."""
    step = read(
        {
            "name": "SendEmail",
            "triggers": [
                {"type": "queue", "topic": "a"},
                {"type": "queue", "topic": "b", "config": {"maxRetries": 5, "concurrency": 2}},
            ],
            "infrastructure": {"handler": {"timeout": 10}, "queue": {"maxRetries": 5}},
        }
    )
    first, second = step.queues

    assert first.retry.attempts == second.retry.attempts == 6
    assert (first.timeout, second.timeout, step.timeout) == (10_000_000,) * 3
    assert (first.concurrency, second.concurrency) == (None, 2)


def test_snake_case_and_camel_case_are_the_same() -> None:
    """A Python programmer may write the keys as Python is written."""
    camel = read({"name": "S", "triggers": [], "virtualEnqueues": ["a"], "includeFiles": ["x"]}, None)
    snake = read({"name": "S", "triggers": [], "virtual_enqueues": ["a"], "include_files": ["x"]}, None)

    assert camel.virtual_enqueues == snake.virtual_enqueues == (Enqueue("a"),)
    assert camel.include_files == snake.include_files == ("x",)


def test_helpers_write_triggers() -> None:
    """http(), api() and queue() make the same triggers as dicts, options in either case."""
    step = read(
        StepConfig(
            name="S",
            triggers=[
                http("POST", "/a", {"bodySchema": Order}),
                api("get", "/b", query_params=["page"]),
                queue("t", input=Order, condition=condition),
            ],
        )
    )

    post, get, message = step.triggers
    assert isinstance(post, HttpTrigger)
    assert isinstance(get, HttpTrigger)
    assert isinstance(message, QueueTrigger)
    assert post.body is not None
    assert post.body.source is Order
    assert (get.method, get.query) == ("GET", (QueryParam("page"),))
    assert message.condition is condition


def test_typed_words_may_be_used_in_a_file() -> None:
    """A Topic, a Retry and the triggers of `on` do in a config what they do in a decorator."""
    submitted = Topic("order.submitted", Order)
    step = read(
        {
            "name": "S",
            "triggers": [
                {"type": "queue", "topic": submitted, "retry": Retry(attempts=2)},
                on.get("/x"),
            ],
            "enqueues": [submitted],
        }
    )

    assert step.queues[0].topic == "order.submitted"
    assert step.queues[0].input is submitted.validator
    assert step.queues[0].retry.attempts == 2
    assert step.routes[0].route == "GET /x"
    assert step.enqueues == (Enqueue("order.submitted"),)


@pytest.mark.parametrize("config", [{"triggers": []}, {"type": "noop"}, {"type": "noop", "triggers": []}])
def test_a_noop_is_a_node_of_the_picture(config: dict[str, Any]) -> None:
    """No triggers, no handler: it is drawn with its virtual edges and nothing more."""
    step = read({"name": "Gate", "virtualSubscribes": ["a"], **config}, None)

    assert step.noop
    assert step.virtual_subscribes == ("a",)


# ---- what is wrong is named


def test_a_misspelt_trigger_names_file_place_and_word() -> None:
    """The message says which trigger, what it is, what triggers are, and which was meant."""
    config = {"name": "S", "triggers": [http("GET", "/"), {"type": "quue", "topic": "t"}]}

    assert refused(config) == (
        "src/orders/charge_step.py: trigger 2 is 'quue'; "
        "triggers are http and queue. Did you mean 'queue'?"
    )


@pytest.mark.parametrize("kind", ["cron", "state", "stream"])
def test_triggers_of_a_later_release_are_known_by_name(kind: str) -> None:
    """Nobody looks for a typing mistake where there is none."""
    message = refused({"name": "S", "triggers": [{"type": kind, "expression": "* * * * *"}]})

    assert f"trigger 1 is '{kind}', and {kind} triggers come in a later release" in message


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("text", "config is 'text'; it is a dict"),
        ({}, "config has no name; write \"name\": \"…\""),
        ({"nam": "S"}, "config has no name; write \"name\": \"…\". There is 'nam'; call it 'name'"),
        ({"name": 5, "triggers": []}, "config: name is 5; it is text"),
        ({"name": " ", "triggers": []}, "name is ' '"),
        ({"name": "S"}, "'S' has no triggers"),
        ({"name": "S", "trigers": []}, "There is 'trigers'; call it 'triggers'"),
        ({"name": "S", "triggers": "queue"}, "triggers is 'queue'; it is a list"),
        ({"name": "S", "triggers": ["queue"]}, "trigger 1 is 'queue'; a trigger is a dict"),
        ({"name": "S", "triggers": [{}]}, "trigger 1 has no type; triggers are http"),
        (trigger(type="event", topic="t"), "Did you mean 'queue'?"),
        (trigger(type="queue"), "trigger 1 has no topic"),
        (trigger(type="queue", topic=5), "trigger 1: topic is 5"),
        (trigger(type="http", path="/"), "trigger 1 has no method"),
        (trigger(type="http", path="/", methd="GET"), "There is 'methd'; call it 'method'"),
        (trigger(type="http", method="GET"), "trigger 1 has no path"),
        (trigger(type="http", method="GOT", path="/"), "trigger 1: method is 'GOT'"),
        (trigger(type="http", method="GET", path="x"), "trigger 1: path is 'x'; a path begins with a slash"),
        (trigger(type="http", method="GET", path="/", bodySchema={"type": "x"}), "bodySchema is not a valid"),
        (trigger(type="http", method="GET", path="/", responseSchema=[]), "responseSchema is []"),
        (trigger(type="http", method="GET", path="/", responseSchema={"ok": {}}), "the status 'ok'"),
        (trigger(type="http", method="GET", path="/", middleware=["auth"]), "middleware holds 'auth'"),
        (trigger(type="http", method="GET", path="/", condition="yes"), "condition is 'yes'"),
        (trigger(type="queue", topic="t", config={"maxRetries": -1}), "config: maxRetries is -1"),
        (trigger(type="queue", topic="t", config={"maxRetries": True}), "maxRetries is True"),
        (trigger(type="queue", topic="t", config={"concurrency": 0}), "concurrency is 0"),
        (trigger(type="queue", topic="t", config={"type": "fif"}), "Did you mean 'fifo'?"),
        (trigger(type="queue", topic="t", config=5), "trigger 1: config is 5; it is a dict"),
        (
            trigger(type="queue", topic="t", infrastructure={"handler": {"timeout": "soon"}}),
            "timeout is 'soon'",
        ),
        (trigger(type="queue", topic="t", infrastructure={"handler": {"timeout": 0}}), "timeout is 0"),
        (trigger(type="queue", topic="t", retry=3), "retry is 3; it is a Retry"),
        ({"name": "S", "triggers": [], "flows": "orders"}, "flows is 'orders'; it is a list"),
        ({"name": "S", "triggers": [], "enqueues": [5]}, "enqueues holds 5"),
        ({"name": "S", "triggers": [], "enqueues": [{"label": "x"}]}, "enqueues has no topic"),
        ({"name": "S", "triggers": [http("GET", "/")], "effects": "live_"}, "Did you mean 'live'?"),
        ({"name": "S", "type": "api", "path": "/", "method": "GET"}, "older Motia (type 'api', no triggers)"),
        ({"name": "S", "type": "event", "subscribes": ["a"], "emits": []}, '"type": "queue"'),
    ],
)
def test_a_wrong_value_is_named(config: Any, said: str) -> None:
    """Each message begins with the file, and says what was found and what would do."""
    message = refused(config)

    assert message.startswith(f"{FILE}: ")
    assert said in message


def test_a_handler_that_is_missing_is_named() -> None:
    """A Step that would never do anything is not started silently."""
    assert "'S' has triggers and no handler" in refused({"name": "S", "triggers": [http("GET", "/")]}, None)


# ---- what is probably not meant is said, and the Step runs


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"name": "S", "triggers": [http("GET", "/")], "enques": []},
            f"{FILE}: config: unknown key 'enques' is ignored. Did you mean 'enqueues'?",
        ),
        (
            {"name": "S", "triggers": [http("GET", "/", body_shema={})]},
            f"{FILE}: trigger 1: unknown key 'body_shema' is ignored. Did you mean 'body_schema'?",
        ),
        (
            {"name": "S", "triggers": [http("GET", "/")], "emits": ["a"]},
            f"{FILE}: config: 'emits' is ignored: it is called 'enqueues' now, and ctx.emit is ctx.enqueue",
        ),
        (
            {"name": "S", "triggers": [queue("t", config={"maxRetry": 3})]},
            f"{FILE}: trigger 1: config: unknown key 'maxRetry' is ignored. Did you mean 'maxRetries'?",
        ),
        (
            {"name": "S", "triggers": []},
            f"{FILE}: 'S' has no trigger, so its handler is never called",
        ),
    ],
)
def test_what_is_not_understood_is_a_warning(config: Any, said: str) -> None:
    """An unknown key stops nothing, and is told with the nearest known one."""
    assert warned(config) == [said]


def test_a_visibility_timeout_below_the_timeout_is_a_warning() -> None:
    """Elsewhere it would hand a message out twice; here it changes nothing, and says so."""
    [said] = warned(trigger(type="queue", topic="t", config={"visibilityTimeout": 10}))

    assert "visibilityTimeout 10s is shorter than the handler's timeout 30s" in said


def test_triggers_that_retry_differently_are_a_warning() -> None:
    """A run has one policy, and the config is told which."""
    config = {"name": "S", "triggers": [queue("a", config={"maxRetries": 1}), queue("b")]}

    assert "4 attempts hold for all of them" in warned(config)[0]
