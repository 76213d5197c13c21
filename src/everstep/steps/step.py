"""A Step: a function, what makes it run, and what it may enqueue.

Both ways to write one end here as the same value: the decorator (`steps.on`)
and the file with `config` and `handler` (`steps.config`).  How the function
wants to be called is read off its signature once, when the Step is made.

Floor 5.  May import: core.retry, triggers, errors.  Imported by: steps, http, app.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal

from typing_extensions import TypeVar

from everstep.core.retry import STEP_RETRY, Retry
from everstep.errors import ConfigError
from everstep.steps.triggers import AnyTrigger, HttpTrigger, QueueTrigger
from everstep.store.base import Subscription

I = TypeVar("I")  # noqa: E741  # the names of the public signatures
O = TypeVar("O")  # noqa: E741

STEP_TIMEOUT = 30_000_000  # µs

Form = Literal["file", "decorated"]
Effects = Literal["live", "on_success"]
Argument = Literal["input", "ctx"]


@dataclass(frozen=True, slots=True)
class Enqueue:
    """A topic a Step says it enqueues to, for the picture of its flow."""

    topic: str
    label: str = ""
    conditional: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Step(Generic[I, O]):
    """One Step.  `timeout` is in microseconds; `fn` None: a node of the picture that does nothing."""

    name: str
    description: str = ""
    triggers: tuple[AnyTrigger, ...] = ()
    enqueues: tuple[Enqueue, ...] = ()
    virtual_enqueues: tuple[Enqueue, ...] = ()
    virtual_subscribes: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    include_files: tuple[str, ...] = ()
    fn: Callable[..., Any] | None = None
    form: Form = "decorated"
    effects: Effects = "live"
    timeout: int = STEP_TIMEOUT
    process: bool = False
    file: str = ""
    line: int = 0
    module: str = ""
    takes: tuple[Argument, ...] = ()
    is_async: bool = False

    def __post_init__(self) -> None:
        if self.fn is not None:
            self.takes = arguments(self.fn, ctx_first=self.form == "decorated")
            self.is_async = runs_on_loop(self.fn)
        if self.process:
            self._check_process()
        self._check_topics()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as a test or another function would."""
        if self.fn is None:
            raise TypeError(f"Step '{self.name}' is a NOOP: there is no function to call")
        return self.fn(*args, **kwargs)

    @property
    def noop(self) -> bool:
        """True for a node that is only drawn."""
        return self.fn is None

    @property
    def kind(self) -> str:
        """What it is printed as: Http, Queue, Queue+Http, Noop."""
        kinds = dict.fromkeys(trigger.type.capitalize() for trigger in self.triggers)
        return "Noop" if self.noop else "+".join(kinds) or "Noop"

    @property
    def source(self) -> str:
        """``"src/orders/charge_step.py:12"``, for messages."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def routes(self) -> tuple[HttpTrigger, ...]:
        """Its http triggers."""
        return tuple(t for t in self.triggers if isinstance(t, HttpTrigger))

    @property
    def queues(self) -> tuple[QueueTrigger, ...]:
        """Its queue triggers."""
        return tuple(t for t in self.triggers if isinstance(t, QueueTrigger))

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What it wants a copy of."""
        return tuple(Subscription(t.topic, self.name, fifo=t.fifo, delay=t.delay) for t in self.queues)

    # A run has one policy, whichever topic made it. Where triggers differ, nobody
    # gets fewer attempts, less time or more load than was written for it.

    @property
    def retry(self) -> Retry:
        """Of its queue triggers' policies the one with the most attempts."""
        policies = [t.retry for t in self.queues]
        return max(
            policies, key=lambda r: float("inf") if r.attempts is None else r.attempts, default=STEP_RETRY
        )

    @property
    def longest(self) -> int:
        """How long an attempt may take, in microseconds."""
        return max((t.timeout or self.timeout for t in self.queues), default=self.timeout)

    @property
    def concurrency(self) -> int | None:
        """How many of its runs may go on at once in one process; None: no limit of its own."""
        return min((t.concurrency for t in self.queues if t.concurrency), default=None)

    @property
    def gathers(self) -> bool:
        """True when the effects of an attempt are committed together with its success."""
        return self.effects == "on_success"

    def _check_process(self) -> None:
        if self.is_async or "ctx" in self.takes:
            found = "is async" if self.is_async else "takes ctx"
            raise ConfigError(
                f"Step '{self.name}' has process=True and its handler {found}. In a process of its own there "
                "is neither ctx nor a loop: take only the input, def handler(data), and leave effects to "
                "another Step, or call the heavy function with ctx.run(fn, data, process=True)"
            )

    def _check_topics(self) -> None:
        topics = [t.topic for t in self.queues]
        for topic in dict.fromkeys(topics):
            if topics.count(topic) > 1:
                raise ConfigError(
                    f"Step '{self.name}' has two queue triggers on '{topic}'. A Step gets one copy of a "
                    "message: put both conditions into one trigger"
                )


def arguments(fn: Callable[..., Any], *, ctx_first: bool = False) -> tuple[Argument, ...]:
    """
    What a handler wants, by its signature.

    Two parameters are input and ctx (ctx first for a decorated Step); one is
    the ctx when it is called ctx or context, or annotated as one, else the input.

    Raises:
        ConfigError: It demands more than these two.

    >>> arguments(lambda context: None)
    ('ctx',)
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return ("input",)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ("ctx", "input") if ctx_first else ("input", "ctx")
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in places)
    demanded = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed > 2 or demanded:
        wants = ", ".join([p.name for p in places if p.default is p.empty] + demanded)
        order = "(ctx, input)" if ctx_first else "(input, ctx)"
        raise ConfigError(
            f"the handler asks for ({wants}); a handler gets {order}, or one of them, or nothing"
        )
    both: tuple[Argument, ...] = ("ctx", "input") if ctx_first else ("input", "ctx")
    if len(places) > 1 and (needed == 2 or ctx_first or _is_ctx(places[1])):
        return both
    return () if not places else ("ctx",) if _is_ctx(places[0]) else ("input",)


def _is_ctx(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return parameter.name in ("ctx", "context", "_ctx", "_context") or name.endswith("StepContext")


def runs_on_loop(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: then it is called on the loop, else in a thread."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004  # asked of a callable object
