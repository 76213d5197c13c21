"""Steps as decorated functions: `on` and `step`.

The types say what the function gets: the body of `on.post`, the message of a
`Topic`.  A checker refuses a function that takes something else.

Floor 5.  May import: core.retry, durations, blocking, context, request, step, topic, triggers, validator.
Imported by: users, config.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, overload

from typing_extensions import TypeForm, TypeVar

from everstep.core.retry import STEP_RETRY, Retry
from everstep.durations import Duration, micros
from everstep.errors import ConfigError
from everstep.steps.blocking import SyncStepContext
from everstep.steps.context import StepContext
from everstep.steps.request import Request
from everstep.steps.step import Effects, Enqueue, I, O, Step
from everstep.steps.topic import Topic
from everstep.steps.triggers import AnyTrigger, Condition, HttpTrigger, Middleware, QueryParam, QueueTrigger
from everstep.steps.validator import validator_of

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Schema = Mapping[str, Any]  # a JSON Schema
Responses = Mapping[int, Any]
Topics = Sequence[Topic[Any] | str | Enqueue]


class Trigger(Generic[T_co]):
    """What makes a Step run, and the type of what it then gets.  Made by `on`."""

    __slots__ = ("spec",)

    def __init__(self, spec: AnyTrigger) -> None:
        self.spec = spec

    def __repr__(self) -> str:
        return f"Trigger({self.spec!r})"


class _Route:
    """
    A request of one method to a path such as ``"/orders/:id"``.

    Args:
        body: The type, or JSON Schema, its body must fit; a request that does
            not is answered 400, naming every fault, before the Step runs.
        query: The names the query may have, or a type or JSON Schema for all of it.
        responses: What the body must fit, for each status.
        condition: ``(request, ctx)``; when false the answer is 422 and the Step does not run.
        middleware: What stands around the Step, outermost first.
    """

    __slots__ = ("method",)

    def __init__(self, method: str) -> None:
        self.method = method

    @overload
    def __call__(
        self,
        path: str,
        /,
        *,
        body: TypeForm[T],
        query: Sequence[str] | Schema | type[Any] = (),
        responses: Responses | None = None,
        condition: Condition | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> Trigger[Request[T]]: ...
    @overload
    def __call__(
        self,
        path: str,
        /,
        *,
        body: Schema = ...,
        query: Sequence[str] | Schema | type[Any] = (),
        responses: Responses | None = None,
        condition: Condition | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> Trigger[Request[Any]]: ...
    def __call__(self, path: str, /, *, body: Any = None, **options: Any) -> Trigger[Request[Any]]:
        return Trigger(_http(self.method, path, body, **options))


class _BareRoute(_Route):
    """A request without a body.  Takes what `on.post` takes, but `body`."""

    __slots__ = ()

    def __call__(  # type: ignore[override]  # fewer options on purpose
        self,
        path: str,
        /,
        *,
        query: Sequence[str] | Schema | type[Any] = (),
        responses: Responses | None = None,
        condition: Condition | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> Trigger[Request[None]]:
        return Trigger(
            _http(
                self.method,
                path,
                None,
                query=query,
                responses=responses,
                condition=condition,
                middleware=middleware,
            )
        )


class on:
    """What makes a decorated Step run: ``@step(on.post("/orders", body=Order))``."""

    get = _BareRoute("GET")
    post = _Route("POST")
    put = _Route("PUT")
    patch = _Route("PATCH")
    delete = _Route("DELETE")

    @overload
    @staticmethod
    def queue(
        topic: Topic[T],
        /,
        *,
        retry: Retry | None = None,
        concurrency: int | None = None,
        fifo: bool = False,
        delay: Duration = 0,
        condition: Condition | None = None,
    ) -> Trigger[T]: ...
    @overload
    @staticmethod
    def queue(
        topic: str,
        /,
        *,
        retry: Retry | None = None,
        concurrency: int | None = None,
        fifo: bool = False,
        delay: Duration = 0,
        condition: Condition | None = None,
    ) -> Trigger[Any]: ...
    @staticmethod
    def queue(
        topic: Topic[Any] | str,
        /,
        *,
        retry: Retry | None = None,
        concurrency: int | None = None,
        fifo: bool = False,
        delay: Duration = 0,
        condition: Condition | None = None,
    ) -> Trigger[Any]:
        """
        A message on a topic.

        Args:
            topic: A `Topic`, whose type is what the Step gets, or a name for plain data.
            retry: How often to try, and how long to wait between; 3 retries with backoff by default.
            concurrency: How many of its messages one process handles at once.
            fifo: Messages of one group are handled one after another, in order.
            delay: Wait this long before a message is handled.
            condition: ``(message, ctx)``; when false the message is skipped, and counted as skipped.
        """
        if concurrency is not None and concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}; it is 1 or more, or None for no limit")
        return Trigger(
            QueueTrigger(
                topic=topic.name if isinstance(topic, Topic) else topic,
                input=topic.validator if isinstance(topic, Topic) else None,
                retry=retry or STEP_RETRY,
                concurrency=concurrency,
                fifo=fifo,
                delay=micros(delay),
                condition=condition,
            )
        )


def _http(
    method: str,
    path: str,
    body: Any,
    *,
    query: Any = (),
    responses: Responses | None = None,
    condition: Condition | None = None,
    middleware: Sequence[Middleware] = (),
) -> HttpTrigger:
    listed = isinstance(query, Sequence)
    return HttpTrigger(
        method=method,
        path=path,
        body=None if body is None else validator_of(body),
        query=tuple(QueryParam(name) for name in query) if listed else (),
        query_schema=None if listed else validator_of(query),
        responses={status: validator_of(declared) for status, declared in (responses or {}).items()},
        condition=condition,
        middleware=tuple(middleware),
    )


class _StepDecorator(Protocol[I]):
    # An async function comes first: its coroutine would fit `O` as well.
    @overload
    def __call__(self, fn: Callable[[StepContext, I], Awaitable[O]], /) -> Step[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[StepContext, I], O], /) -> Step[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStepContext, I], O], /) -> Step[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[I], O], /) -> Step[I, O]: ...


@overload
def step(
    t1: Trigger[A],
    /,
    *,
    name: str | None = None,
    description: str = "",
    enqueues: Topics = (),
    flows: Sequence[str] = (),
    timeout: Duration = 30,
    effects: Effects = "live",
    process: bool = False,
    virtual_enqueues: Topics = (),
    virtual_subscribes: Topics = (),
    include_files: Sequence[str] = (),
) -> _StepDecorator[A]: ...
@overload
def step(
    t1: Trigger[A],
    t2: Trigger[B],
    /,
    *,
    name: str | None = None,
    description: str = "",
    enqueues: Topics = (),
    flows: Sequence[str] = (),
    timeout: Duration = 30,
    effects: Effects = "live",
    process: bool = False,
    virtual_enqueues: Topics = (),
    virtual_subscribes: Topics = (),
    include_files: Sequence[str] = (),
) -> _StepDecorator[A | B]: ...
@overload
def step(
    t1: Trigger[A],
    t2: Trigger[B],
    t3: Trigger[C],
    /,
    *more: Trigger[Any],
    name: str | None = None,
    description: str = "",
    enqueues: Topics = (),
    flows: Sequence[str] = (),
    timeout: Duration = 30,
    effects: Effects = "live",
    process: bool = False,
    virtual_enqueues: Topics = (),
    virtual_subscribes: Topics = (),
    include_files: Sequence[str] = (),
) -> _StepDecorator[A | B | C]: ...
def step(
    *triggers: Trigger[Any],
    name: str | None = None,
    description: str = "",
    enqueues: Topics = (),
    flows: Sequence[str] = (),
    timeout: Duration = 30,
    effects: Effects = "live",
    process: bool = False,
    virtual_enqueues: Topics = (),
    virtual_subscribes: Topics = (),
    include_files: Sequence[str] = (),
) -> Any:
    """
    Make a function a Step: it runs for each request or message its triggers name.

    The function gets ctx and then one value; a function that needs no ctx may
    take the value alone.  An async function runs on the loop, a plain one in a
    thread, with the same ctx.

    Args:
        triggers: What makes it run; made by `on`.
        name: What it is called in the store, the console and messages; by default the function's name.
        enqueues: Topics it may enqueue to, for the picture of the flow.
        flows: The pictures it appears in.
        timeout: How long one attempt may take.
        effects: "live": each effect is durable when its await returns. "on_success":
            those of an attempt are committed together, with its success.
        process: Run it in a process of its own; for functions that compute and take only the input.

    >>> @step(on.queue(submitted), enqueues=[approved], flows=["orders"])
    ... async def analyze(ctx: StepContext, order: Order) -> None:
    ...     await ctx.enqueue(approved, order)
    """
    for trigger in triggers:
        if not isinstance(trigger, Trigger):
            raise ConfigError(_no_trigger(trigger))
    if not triggers:
        raise ConfigError("@step needs at least one trigger, such as @step(on.queue(topic))")
    if effects not in ("live", "on_success"):
        raise ConfigError(f"effects is {effects!r}; it is 'live' or 'on_success'")
    listed = {"enqueues": enqueues, "flows": flows, "virtual_enqueues": virtual_enqueues}
    listed |= {"virtual_subscribes": virtual_subscribes, "include_files": include_files}
    for option, given in listed.items():
        if isinstance(given, str | Topic):  # each letter of it would be one
            told = f"'{given}'" if isinstance(given, str) else "a Topic"
            raise ConfigError(f"{option} is {told}; it is a list: {option}=[…]")

    def decorate(fn: Callable[..., Any]) -> Step[Any, Any]:
        code = getattr(inspect.unwrap(fn), "__code__", None)
        return Step(
            name=name or str(getattr(fn, "__name__", type(fn).__name__)),
            description=description or _first_line(fn),
            triggers=tuple(trigger.spec for trigger in triggers),
            enqueues=_topics(enqueues),
            flows=tuple(flows),
            timeout=micros(timeout),
            effects=effects,
            process=process,
            virtual_enqueues=_topics(virtual_enqueues),
            virtual_subscribes=tuple(e.topic for e in _topics(virtual_subscribes)),
            include_files=tuple(include_files),
            fn=fn,
            file=code.co_filename if code else "",
            line=code.co_firstlineno if code else 0,
            module=getattr(fn, "__module__", ""),
        )

    return decorate


def _no_trigger(given: object) -> str:
    """What is said of something else where a trigger belongs."""
    if given is on.queue:
        return 'on.queue lacks its topic; write @step(on.queue("order.submitted"))'
    if isinstance(given, _Route):
        method = given.method.lower()
        return f'on.{method} lacks its path; write @step(on.{method}("/orders"))'
    if inspect.isfunction(given):
        return (
            f"@step stands above {given.__name__}() without what makes it run; write "
            f'@step(on.queue("topic")) or @step(on.post("/path")) above def {given.__name__}'
        )
    return f"@step takes triggers, and {given!r} is none; write @step(on.queue(topic))"


def _topics(listed: Topics) -> tuple[Enqueue, ...]:
    return tuple(
        topic if isinstance(topic, Enqueue) else Enqueue(topic.name if isinstance(topic, Topic) else topic)
        for topic in listed
    )


def _first_line(fn: Callable[..., Any]) -> str:
    return next(iter((inspect.getdoc(fn) or "").strip().splitlines()), "")
