"""A Step as a value: its triggers, its policy, and how its function wants to be called."""

from collections.abc import Callable
from typing import Any

import pytest

from everstep.core.retry import STEP_RETRY, Retry
from everstep.errors import ConfigError
from everstep.steps.context import StepContext
from everstep.steps.step import Step, arguments
from everstep.steps.triggers import HttpTrigger, QueueTrigger
from everstep.store.base import Subscription


def nothing() -> None: ...
def both(input: Any, ctx: Any) -> None: ...
def only_input(order: Any) -> None: ...
def only_ctx(context: Any) -> None: ...
def annotated(c: StepContext) -> None: ...
def optional_ctx(data: Any, ctx: Any = None) -> None: ...
def with_setting(data: Any, retries: int = 3) -> None: ...
def anything(*args: Any) -> None: ...
def keyword_extra(input: Any, *, dry: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("fn", "file_form", "decorated"),
    [
        (nothing, (), ()),
        (both, ("input", "ctx"), ("ctx", "input")),
        (only_input, ("input",), ("input",)),
        (only_ctx, ("ctx",), ("ctx",)),
        (annotated, ("ctx",), ("ctx",)),
        (optional_ctx, ("input", "ctx"), ("ctx", "input")),
        (with_setting, ("input",), ("ctx", "input")),
        (anything, ("input", "ctx"), ("ctx", "input")),
        (keyword_extra, ("input",), ("input",)),
        (print, ("input", "ctx"), ("ctx", "input")),
    ],
)
def test_a_handler_is_called_as_its_signature_wants(
    fn: Callable[..., Any], file_form: tuple[str, ...], decorated: tuple[str, ...]
) -> None:
    """A file's handler gets (input, ctx), a decorated function (ctx, input), or fewer if it takes fewer."""
    assert arguments(fn) == file_form
    assert arguments(fn, ctx_first=True) == decorated


def test_a_handler_that_asks_for_more_is_refused() -> None:
    """What nobody would pass is named when the Step is made, not when it first runs."""

    def three(input: Any, ctx: Any, more: Any) -> None: ...
    def keyword(input: Any, *, db: Any) -> None: ...

    for fn, asked in ((three, "input, ctx, more"), (keyword, "input, db")):
        with pytest.raises(ConfigError, match=rf"asks for \({asked}\)"):
            Step(name="S", fn=fn, form="file")


def queue(topic: str, **options: Any) -> QueueTrigger:
    return QueueTrigger(topic=topic, **options)


def test_each_queue_trigger_is_one_subscription() -> None:
    """A message reaches the Step by any of its topics, under the Step's name."""
    step = Step[Any, Any](name="S", fn=both, triggers=(queue("a", fifo=True), queue("b", delay=5)))

    assert step.subscriptions == (
        Subscription("a", "S", fifo=True, delay=0),
        Subscription("b", "S", fifo=False, delay=5),
    )


def test_one_topic_twice_in_a_step_is_refused() -> None:
    """A Step gets one copy of a message, so the second trigger would never run."""
    with pytest.raises(ConfigError, match="two queue triggers on 'a'"):
        Step(name="S", fn=both, triggers=(queue("a"), queue("a")))


def test_where_triggers_differ_nobody_gets_less_than_was_written() -> None:
    """Most attempts, longest time, smallest load hold for all runs of a Step."""
    step = Step[Any, Any](
        name="S",
        fn=both,
        timeout=30,
        triggers=(
            queue("a", retry=Retry(attempts=2), timeout=10, concurrency=5),
            queue("b", retry=Retry(attempts=9), timeout=60),
            queue("c", concurrency=2),
        ),
    )

    assert step.retry.attempts == 9
    assert step.longest == 60
    assert step.concurrency == 2


def test_a_step_without_policies_has_the_defaults() -> None:
    """Three retries and thirty seconds."""
    step = Step[Any, Any](name="S", fn=both, triggers=(queue("a"),))

    assert step.retry == STEP_RETRY
    assert STEP_RETRY.attempts == 4
    assert step.longest == 30_000_000


def test_a_step_can_be_called_as_its_function() -> None:
    """A unit test calls what was written."""
    assert Step[Any, Any](name="S", fn=lambda ctx, data: data + 1)(None, 1) == 2
    with pytest.raises(TypeError, match="NOOP"):
        Step[Any, Any](name="N")()


@pytest.mark.parametrize(
    ("triggers", "kind"),
    [
        ((queue("a"), queue("b")), "Queue"),
        ((HttpTrigger(method="GET", path="/"), queue("b")), "Http+Queue"),
        ((), "Noop"),
    ],
)
def test_a_step_says_what_kind_it_is(triggers: tuple[Any, ...], kind: str) -> None:
    """`everstep dev` prints each Step with what runs it."""
    assert Step[Any, Any](name="S", fn=both if triggers else None, triggers=triggers).kind == kind


async def an_async_one(data: Any) -> None: ...


@pytest.mark.parametrize(("fn", "why"), [(both, "takes ctx"), (an_async_one, "is async")])
def test_a_process_of_its_own_is_for_plain_functions_of_the_input(fn: Any, why: str) -> None:
    """process=True with ctx or async is refused, and says what to write instead."""
    with pytest.raises(ConfigError, match=rf"{why}.*take only the input"):
        Step(name="S", fn=fn, form="file", process=True)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("orders", "begins with a slash"),
        ("/orders/{id}", r"'/orders/:id'"),
        ("/orders/:id/:id", "twice"),
        ("/or ders", "no blank"),
        ("/orders?x=1", "queryParams"),
        ("/orders/a:id", "whole part"),
    ],
)
def test_a_path_no_request_could_match_is_refused(path: str, why: str) -> None:
    """The message says how it is written here."""
    with pytest.raises(ConfigError, match=why):
        HttpTrigger(method="GET", path=path)


def test_a_method_nobody_knows_is_refused() -> None:
    """The message names the methods, and the nearest."""
    with pytest.raises(ConfigError, match="Did you mean 'POST'"):
        HttpTrigger(method="POTS", path="/")


def test_routes_that_match_the_same_requests_have_one_shape() -> None:
    """The name of a parameter does not tell two routes apart, nor does a slash at the end."""
    one = HttpTrigger(method="GET", path="/orders/:id")
    other = HttpTrigger(method="GET", path="/orders/:key/")

    assert one.shape == other.shape
    assert one.route == "GET /orders/:id"
    assert one.params == ("id",)
    assert one.shape != HttpTrigger(method="POST", path="/orders/:id").shape
    assert one.shape != HttpTrigger(method="GET", path="/orders/id").shape
