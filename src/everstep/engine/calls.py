"""The functions of `ctx.run`: what is known of them, and how they are called until they answer.

They run on the process's own loop, in a thread or in a process, never on the
loop of a body.  Inside one, `attempt` says which attempt this is; a ctx
operation is refused.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Protocol
from weakref import ref

from everstep.codec import Codec, argument_codecs, fingerprint, return_codec
from everstep.core.failure import encode_error, message_of
from everstep.core.journal import ERROR, OK, Entry
from everstep.core.retry import RUN_RETRY, Retry, next_delay
from everstep.durations import show
from everstep.engine import executors
from everstep.engine.operations import Awaited
from everstep.errors import ConfigError, ContextClosed, StepFailed, TerminalError


@dataclass(slots=True, frozen=True)
class Attempt:
    """
    Which attempt of a function of ctx.run this is.

    `number` counts from 1 in this process.  `idempotency_key` is the same for
    every attempt of this call, in every process, and for no other call: give
    it to a payment provider, so that a call cut short by a crash is not made twice.
    """

    number: int
    idempotency_key: str


_current: ContextVar[Attempt | Call | None] = ContextVar("everstep.attempt", default=None)


def attempt() -> Attempt:
    """
    Tell a function of ctx.run which attempt it is.

    Raises:
        ContextClosed: Nobody called this function through ctx.run.
    """
    found = _current.get()
    if found is None:
        raise ContextClosed(
            "attempt()",
            why="it is known only inside a function that ctx.run calls",
            remedy="await ctx.run(charge, order)",
        )
    return found if isinstance(found, Attempt) else found.attempt()


def inside_a_call() -> bool:
    """True inside a function of ctx.run, and in the tasks it made."""
    return _current.get() is not None


def outside_calls() -> Context:
    """The caller's context variables, as if no function of ctx.run had called it."""
    context = copy_context()
    context.run(_current.set, None)
    return context


# ---- what is known of a function


class Function:
    """A function as `ctx.run` needs it: its name, whether it is async, and its codecs."""

    __slots__ = ("arguments", "compares", "is_async", "name", "needs_name", "returns")

    def __init__(self, fn: Callable[..., Any]) -> None:
        inner = _innermost(fn)
        self.name: str = getattr(inner, "__name__", None) or type(inner).__name__
        self.needs_name = self.name == "<lambda>"
        self.is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            None if isinstance(fn, type) else type(fn).__call__
        )
        # What a closure holds is not among its arguments: nothing to compare.
        self.compares = not (self.needs_name or getattr(inner, "__closure__", None))
        self.returns: Codec[Any] = return_codec(fn)
        self.arguments: Sequence[Codec[Any]] = argument_codecs(fn)


# By the identity of the function, which is faster than its hash and asks
# nothing of it; a function that goes takes its item along.
_functions: dict[int, tuple[Function, ref[Any]]] = {}


def function_of(fn: Callable[..., Any]) -> Function:
    """What is known of a function, kept for the next time."""
    kept = _functions.get(id(fn))
    if kept is not None:
        return kept[0]
    found = Function(fn)
    if isinstance(fn, FunctionType):
        key = id(fn)
        _functions[key] = found, ref(fn, lambda _: _functions.pop(key, None))
    return found


def _innermost(fn: Any) -> Any:
    while True:
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            return fn


# ---- one call


class Call(Awaited):
    """``ctx.run``: one function, called until it answers."""

    __slots__ = (
        "args",
        "context",
        "fn",
        "function",
        "key",
        "number",
        "pausing",
        "process",
        "retry",
        "scope",
        "task",
        "timeout",
    )

    kind = "run"
    kept_late = True  # it did something outside

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        name: str | None,
        retry: Retry | None,
        timeout: int | None,
        process: bool,
    ) -> None:
        function = self.function = function_of(fn)
        if name is None:
            if function.needs_name:
                raise ConfigError(
                    "ctx.run was given a lambda and no name",
                    expected="the journal knows a call by name",
                    suggestion='Write ctx.run(lambda: ..., name="fetch rates").',
                )
            name = function.name
        if process and function.is_async:
            raise ConfigError(
                f"ctx.run({function.name}, process=True): the function is async",
                expected="a process calls plain functions; an async one waits well enough where it is",
            )
        self.name = name
        self.fn = fn
        self.args = args
        self.retry = retry
        self.timeout = timeout
        self.process = process
        self.state = OK
        self.value = None
        self.answer = None
        self.fp = 0
        self.number = 0
        self.pausing = False
        self.scope = ""
        self.key = ""
        self.context: Context | None = None
        self.task: asyncio.Task[None] | None = None

    def attempt(self) -> Attempt:
        """The attempt under way.  The key is `key`, or the address within `scope`: seldom asked for."""
        return Attempt(self.number, self.key or f"{self.scope}:{self.lane}.{self.pos}")

    def fingerprint(self) -> int:
        function = self.function
        if not function.compares:
            return 0
        try:
            fn = self.fn
            if type(fn) is partial:
                words = [part for item in sorted(fn.keywords.items()) for part in item]
                return fingerprint(argument_codecs(fn.func), (*fn.args, *self.args, *words))
            return fingerprint(function.arguments, self.args)
        except Exception:
            return 0  # it holds something that cannot even be described

    def begins(self, now: int) -> None:
        self.context = copy_context()

    def recall(self, entry: Entry) -> None:
        self.state = entry.state
        self.value = entry.value
        if entry.state == OK:
            self.answer = self.function.returns.decode(entry.value or b"null")

    def let_go(self) -> None:
        """It runs no more.  Task and context hold the call, and would keep it until the collector comes."""
        self.task = self.context = None

    def stop(self) -> None:
        """Do not wait for it: nobody hears how it went."""
        if self.task is not None:
            self.task.cancel()
        self.let_go()

    def succeed(self, result: Any) -> None:
        """
        Keep the result, as a replay will see it.

        Raises:
            NotEncodable: It would not come back as what it is.
        """
        self.value, self.answer = self.function.returns.roundtrip(result, self.name)

    def fail(self, error: TerminalError) -> None:
        """Keep the error."""
        self.state = ERROR
        self.value = encode_error(error)

    def gave_up(self, error: BaseException) -> StepFailed:
        """The error that says so, with what it was the last time."""
        kind, cause = type(error).__qualname__, message_of(error)
        attempts = f"{self.number} attempts" if self.number > 1 else "1 attempt"
        failed = StepFailed(
            f"{self.name} failed after {attempts}, at last with {kind}: {cause}",
            error_type=kind,
            attempts=self.number,
            cause=cause,
        )
        failed.__cause__ = error
        return failed


class Reports(Protocol):
    """Who hears how a call went."""

    def succeeded(self, call: Call, result: Any) -> None:
        """It answered."""

    def failed(self, call: Call, error: BaseException, again: int | None) -> bool:
        """An attempt failed; it may be made again after *again* microseconds if the answer is True."""

    def broke(self, error: Exception) -> None:
        """A defect of ours."""


async def perform(call: Call, reports: Reports) -> None:
    """Call the function until it answers, fails for good, or nobody wants it tried again."""
    _current.set(call)
    try:
        while True:
            call.number += 1
            try:
                if call.timeout is None and call.function.is_async and not call.process:
                    result = await call.fn(*call.args)
                else:
                    result = await _within_its_time(call)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                if call.task is None:
                    return  # nobody wants to hear of it
                if call.task.cancelling():
                    raise
                failure = error
            else:
                reports.succeeded(call, result)
                return
            again = next_delay(call.retry or RUN_RETRY, call.number, failure, random.random())
            if not reports.failed(call, failure, again):
                return
            call.pausing = True
            await asyncio.sleep((again or 0) / 1e6)
            call.pausing = False
    except Exception as defect:
        reports.broke(defect)


class Running:
    """
    The calls of one turn that are under way, or between two attempts.

    Args:
        scope: What comes before the address in their idempotency keys.
        reports: Who hears how they went.
    """

    __slots__ = ("_calls", "_pausing", "_reports", "_scope")

    def __init__(self, scope: str, reports: Reports) -> None:
        self._scope = scope
        self._reports = reports
        self._calls: set[Call] = set()
        self._pausing: dict[Call, BaseException] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def begin(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        """Call its function, on the process's loop."""
        call.scope = self._scope
        self._calls.add(call)
        # Not loop.create_task: this is made for each call, and nobody's factory should see it.
        call.task = asyncio.Task(perform(call, self._reports), loop=loop, context=call.context)

    def ended(self, call: Call) -> None:
        """It answered, or failed for good."""
        self._calls.discard(call)
        self._pausing.pop(call, None)
        call.let_go()

    def pauses(self, call: Call, error: BaseException) -> None:
        """It failed, and will be tried again after a while."""
        self._pausing[call] = error

    def give_up_pauses(self, *, wanted_too: bool) -> list[Call]:
        """Make no other attempt of calls between two; answers those nobody wanted any more, as failed."""
        given_up: list[Call] = []
        if not self._pausing:
            return given_up
        for call, error in list(self._pausing.items()):
            wanted = call.wanted()
            if call.pausing and (wanted_too or not wanted):
                call.stop()
                self.ended(call)
                if not wanted:
                    call.fail(call.gave_up(error))
                    given_up.append(call)
        return given_up

    def stop(self) -> None:
        """Cancel them all; nobody hears how they went."""
        for call in self._calls:
            call.stop()
        self._calls.clear()
        self._pausing.clear()


async def _within_its_time(call: Call) -> Any:
    if call.timeout is None:
        return await _elsewhere(call)
    limit = asyncio.timeout(call.timeout / 1e6)
    try:
        async with limit:
            return await _elsewhere(call)
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"{call.name} took longer than {show(call.timeout / 1e6)}") from error
        raise


async def _elsewhere(call: Call) -> Any:
    if call.process:
        return await executors.in_process(_in_child, call.attempt(), call.fn, call.args)
    if call.function.is_async:
        return await call.fn(*call.args)
    result = await executors.in_thread(call.fn, *call.args)
    # A plain function or a lambda may hand on a coroutine.
    return await result if inspect.isawaitable(result) else result


def _in_child(this: Attempt, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    _current.set(this)
    return fn(*args)
