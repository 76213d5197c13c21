"""`ctx`: what a Step can do besides computing.

One thin face over the effects of an attempt or a request: messages, state,
functions that run once, and who triggered it.  A message is checked against
its topic's type, and written, before anything happens.

Floor 5.  May import: engine.effects, core.retry, kv, step, topic, validator, floor 0.
Imported by: steps, http.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from uuid import UUID

from typing_extensions import TypeVar, TypeVarTuple

from everstep.core.retry import Retry
from everstep.durations import Duration, micros
from everstep.engine.effects import Effects
from everstep.errors import ConfigError, did_you_mean
from everstep.log import Logger
from everstep.steps.kv import KV
from everstep.steps.request import Request
from everstep.steps.step import arguments
from everstep.steps.topic import Topic
from everstep.steps.validator import plain_json

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_LATER = {
    "streams": "ctx.streams comes in a later release; until then keep the data in ctx.state",
    "emit": "ctx.emit is ctx.enqueue now, with the same {'topic', 'data'}",
}


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """What made this Step run, and which attempt this is (from 1)."""

    type: str  # "http" or "queue"
    topic: str | None = None
    method: str | None = None
    path: str | None = None
    attempt: int = 1


class Message(NamedTuple):
    """One message, ready to be sent."""

    topic: str
    data: bytes
    group: str | None
    delay: int | None
    priority: int


class NamedTopics:
    """The topics a Step says it enqueues to; in dev it is told once of each other one."""

    __slots__ = ("_named", "_said")

    def __init__(self, named: Iterable[str]) -> None:
        self._named = frozenset(named)
        self._said: set[str] = set()

    def check(self, topic: str, logger: Logger) -> None:
        """Warn of a topic that is not among them."""
        if topic in self._named or topic in self._said:
            return
        self._said.add(topic)
        logger.warning(
            f"this Step enqueues {topic!r}, which its enqueues do not name, so that the picture of its flow "
            f"lacks it; they name {', '.join(sorted(self._named))}.{did_you_mean(topic, sorted(self._named))}"
        )


class Guards:
    """Whether this Step was triggered by a request, a message, …: ``ctx.is_.http(input)``."""

    __slots__ = ("_type",)

    def __init__(self, type: str) -> None:
        self._type = type

    def http(self, input: Any = None) -> bool:
        """True when a request made it run."""
        return self._type == "http"

    api = http

    def queue(self, input: Any = None) -> bool:
        """True when a message made it run."""
        return self._type == "queue"

    def cron(self, input: Any = None) -> bool:
        """True when its time made it run."""
        return self._type == "cron"

    def state(self, input: Any = None) -> bool:
        """True when a change of state made it run."""
        return self._type == "state"

    def stream(self, input: Any = None) -> bool:
        """True when a change in a stream made it run."""
        return self._type == "stream"


class StepContext:
    """
    What a Step gets besides its input.

    `run_id` is empty for a plain request, which has no row; `trace_id` goes
    with every message it sends, so that one trace leads through all Steps.
    """

    __slots__ = ("_effects", "_input", "_named", "_state", "_step", "logger", "run_id", "trace_id", "trigger")

    def __init__(
        self,
        effects: Effects,
        *,
        step: str,
        trigger: TriggerInfo,
        input: Any,
        logger: Logger,
        run_id: str = "",
        named: NamedTopics | None = None,
    ) -> None:
        self._effects = effects
        self._named = named
        self._step = step
        self._input = input
        self._state: KV | None = None
        self.logger = logger
        self.trigger = trigger
        self.run_id = run_id
        self.trace_id = effects.trace

    def got(self, input: Any) -> None:
        """Everstep's own: the input as it is after its check."""
        self._input = input

    @property
    def traceId(self) -> str:
        """`trace_id`, in Motia's word."""
        return self.trace_id

    @property
    def state(self) -> KV:
        """Groups of keys that every Step shares."""
        if self._state is None:
            self._state = KV(self._effects)
        return self._state

    kv = state

    # ---- messages

    @overload
    async def enqueue(
        self,
        topic: Topic[T],
        data: T,
        /,
        *,
        delay: Duration | None = None,
        group: str | None = None,
        priority: int = 0,
        dedup: str | None = None,
    ) -> str: ...
    @overload
    async def enqueue(
        self,
        topic: str,
        data: Any,
        /,
        *,
        delay: Duration | None = None,
        group: str | None = None,
        priority: int = 0,
        dedup: str | None = None,
    ) -> str: ...
    @overload
    async def enqueue(self, message: Mapping[str, Any], /) -> str: ...
    async def enqueue(self, topic: Any, data: Any = None, /, **options: Any) -> str:
        """
        Send a message: every Step that listens to the topic gets its own copy.

        The message is durable when this returns its id.  Motia's form does the
        same: ``ctx.enqueue({"topic": "order.submitted", "data": order})``.

        Args:
            topic: A `Topic`, or a name for plain data.
            data: The message; checked against the topic's type before anything happens.
            delay: Not before this long from now.
            group: Messages of one group are handled in order by Steps that are FIFO.
            priority: Higher goes first among those that are ready.

        Raises:
            InvalidInput: The data is not of the topic's type.
            GroupMissing: A FIFO Step listens to this topic, and the message names no group.
        """
        message = read_message(topic, data, **options)
        if self._named is not None:
            self._named.check(message.topic, self.logger)
        return await self._effects.publish(
            message.topic,
            message.data,
            group=message.group,
            delay=message.delay,
            priority=message.priority,
        )

    # ---- work

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], Coroutine[Any, Any, R]],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> R: ...
    @overload
    async def run(
        self,
        fn: Callable[[*Ts], R],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        process: bool = False,
    ) -> R: ...
    async def run(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        process: bool = False,
    ) -> Any:
        """
        Call a function whose result a retry of this Step keeps instead of calling it again.

        Args:
            fn: Async, or plain (then it runs in a thread).
            args: Its arguments; another call with other arguments is another call.
            name: What it is called in the history; a lambda needs one.
            retry: How often to try the function alone, within this attempt.
            timeout: How long it may take.
            process: Call it in a process of its own.
        """
        return await self._effects.run(fn, *args, name=name, retry=retry, timeout=timeout, process=process)

    def atomic(self) -> AbstractAsyncContextManager[None]:
        """
        Commit all effects of a block together when it ends, and none when it fails.

        >>> async with ctx.atomic():
        ...     await ctx.state.set("orders", order.id, {"status": "approved"})
        ...     await ctx.enqueue(approved, order)
        """
        return _Atomic(self._effects.atomic())

    def uuid(self) -> UUID:
        """A UUID that is the same on each attempt."""
        return self._effects.uuid()

    def now(self) -> datetime:
        """The time; the same on each attempt."""
        return self._effects.now()

    def random(self) -> float:
        """A number from 0 up to 1; the same on each attempt."""
        return self._effects.random()

    # ---- what triggered it

    @property
    def is_(self) -> Guards:
        """Guards by the kind of trigger: ``if ctx.is_.queue(input):``."""
        return Guards(self.trigger.type)

    def is_http(self) -> bool:
        """True when a request made it run."""
        return self.trigger.type == "http"

    is_api = is_http

    def is_queue(self) -> bool:
        """True when a message made it run."""
        return self.trigger.type == "queue"

    def is_cron(self) -> bool:
        """True when its time made it run."""
        return self.trigger.type == "cron"

    def is_state(self) -> bool:
        """True when a change of state made it run."""
        return self.trigger.type == "state"

    def is_stream(self) -> bool:
        """True when a change in a stream made it run."""
        return self.trigger.type == "stream"

    def get_data(self) -> Any:
        """The payload whatever the trigger: the body of a request, or the message."""
        return self._input.body if isinstance(self._input, Request) else self._input

    getData = get_data

    async def match(self, branches: Mapping[str, Callable[..., Any]]) -> Any:
        """
        Call the branch for what triggered this Step, with its input; answers what it answers.

        >>> await ctx.match({"http": on_request, "queue": on_message, "default": otherwise})
        """
        result = self._matched(branches)
        return await result if isawaitable(result) else result

    def _matched(self, branches: Mapping[str, Callable[..., Any]]) -> Any:
        kind = self.trigger.type
        names = (kind, "api", "default") if kind == "http" else (kind, "default")
        branch = next((branches[name] for name in names if name in branches), None)
        if branch is None:
            self.logger.warning(
                "ctx.match has no branch for this trigger", trigger=kind, has=sorted(branches)
            )
            return None
        return branch(self._input) if arguments(branch) else branch()

    if not TYPE_CHECKING:  # a checker shall refuse names that are not there

        def __getattr__(self, name: str) -> Any:
            if name == "is":  # not a name one can write, but one can ask for it
                return self.is_
            hint = _LATER.get(name) or f"ctx has no {name!r}.{did_you_mean(name, _NAMES)}"
            raise AttributeError(hint, name=name, obj=self)


class _Atomic(AbstractAsyncContextManager[None]):
    """A block that is entered with ``async with``, and says so to who forgets it."""

    __slots__ = ("_block",)

    def __init__(self, block: AbstractAsyncContextManager[None]) -> None:
        self._block = block

    async def __aenter__(self) -> None:
        await self._block.__aenter__()

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._block.__aexit__(*exc)

    if not TYPE_CHECKING:  # a checker shall refuse it too

        def __enter__(self) -> None:
            raise TypeError("ctx.atomic() is awaited in an async Step; write async with ctx.atomic():")

        def __exit__(self, *exc: Any) -> None: ...


_NAMES = [name for name in dir(StepContext) if not name.startswith("_") and name != "got"]
_OPTIONS = ("delay", "group", "priority", "dedup")
_KEYS = {
    "topic": "topic",
    "data": "data",
    "messageGroupId": "group",
    "message_group_id": "group",
    **{option: option for option in _OPTIONS},
}


def read_message(topic: Any, data: Any = None, /, **options: Any) -> Message:
    """
    Both forms of a message: a dict, or a topic and its data.

    Raises:
        InvalidInput: The data is not of the topic's type.
        NotEncodable: It cannot be written as JSON.
        ConfigError: A part of the message is unknown or missing.
    """
    if isinstance(topic, Mapping):
        if data is not None or options:
            raise TypeError("enqueue takes a topic, its data and options, or all of them in one dict")
        topic, data, options = _from_dict(topic)
    if unknown := [name for name in options if name not in _OPTIONS]:
        raise TypeError(f"enqueue has no option {unknown[0]!r}.{did_you_mean(unknown[0], _OPTIONS)}")
    if options.get("dedup") is not None:
        raise ConfigError("enqueue(dedup=) comes in a later release; a retry repeats no message anyway")
    delay, group = options.get("delay"), options.get("group")
    if group is not None and (not isinstance(group, str) or not group):
        raise TypeError(f"the group of a message is {group!r}; it is text that is not empty")
    if isinstance(topic, Topic):
        name, body = topic.name, topic.validator.dump(data)
    elif isinstance(topic, str) and topic:
        name, body = topic, plain_json(data, f"the message on {topic!r}")
    else:
        raise TypeError(f"the topic of a message is {topic!r}; it is a Topic, or its name")
    return Message(name, body, group, None if delay is None else micros(delay), options.get("priority", 0))


def _from_dict(message: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    for key in message:
        if key not in _KEYS:
            raise ConfigError(
                f"a message has 'topic', 'data' and perhaps 'group' (or 'messageGroupId'), 'delay' and "
                f"'priority', not {key!r}",
                suggestion=did_you_mean(key, _KEYS),
            )
    if "topic" not in message:
        raise ConfigError("the message names no 'topic'")
    options = {_KEYS[key]: value for key, value in message.items() if key not in ("topic", "data")}
    return message["topic"], message.get("data"), options
