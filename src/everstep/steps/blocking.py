"""The same `ctx` for a Step that is a plain function: its methods wait instead of being awaited.

A plain function runs in a thread.  Each call goes through a portal to the
process's loop, and the thread waits for its answer; there is no second
implementation of anything.

Floor 5.  May import: context, errors.  Imported by: on, dispatch.
"""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, overload
from uuid import UUID

from typing_extensions import TypeForm, TypeVar, TypeVarTuple

from everstep.core.retry import Retry
from everstep.durations import Duration
from everstep.errors import ContextClosed
from everstep.log import Logger
from everstep.steps.context import Guards, StepContext, TriggerInfo
from everstep.steps.kv import Changed
from everstep.steps.topic import Topic

R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_LOOK = 1.0  # seconds between looks whether the loop is still there


class Portal:
    """Lets one thread call coroutines on a loop that another thread runs.  Made on that loop."""

    __slots__ = ("_context", "_loop", "_loop_thread")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._context = copy_context()

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Call *fn* on the loop, await what it answers, and return that here.

        Raises:
            ContextClosed: This is the loop's own thread, which would wait for itself; or the loop is gone.
        """
        name = getattr(fn, "__name__", "this")
        if threading.get_ident() == self._loop_thread and self._loop.is_running():
            raise ContextClosed(
                f"ctx.{name}",
                why="this is the thread of the loop, which would wait for itself",
                remedy="async def handler(input, ctx): ... await ctx.enqueue(...)",
            )
        future: Future[Any] = Future()

        async def work() -> None:
            try:
                answer = fn(*args, **kwargs)
                future.set_result(await answer if isawaitable(answer) else answer)
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        tasks: list[asyncio.Task[None]] = []  # the loop keeps only weak references

        def begin() -> None:
            tasks.append(self._loop.create_task(work(), context=self._context))

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:
            raise self._gone(name) from None
        return self._wait(future, name)

    def _wait(self, future: Future[Any], name: str) -> Any:
        while True:
            try:
                return future.result(_LOOK)
            except NotYet:
                if future.done():
                    raise
                if self._loop.is_closed():
                    raise self._gone(name) from None

    def _gone(self, name: str) -> ContextClosed:
        return ContextClosed(f"ctx.{name}", why="the process is shutting down")


class _Blocking:
    """Any object, with its coroutine methods waiting for their answer."""

    __slots__ = ("_portal", "_target")

    def __init__(self, target: Any, portal: Portal) -> None:
        self._target = target
        self._portal = portal

    if not TYPE_CHECKING:  # what there is, is declared below

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._target, name)
            if not iscoroutinefunction(value):
                return value
            portal = self._portal

            def wait(*args: Any, **kwargs: Any) -> Any:
                return portal.call(value, *args, **kwargs)

            return wait


class SyncKV(_Blocking):
    """`KV` for a plain function."""

    __slots__ = ()

    if TYPE_CHECKING:

        @overload
        def get(self, group: str, key: str, /) -> Any: ...
        @overload
        def get(self, group: str, key: str, type: TypeForm[T], /) -> T | None: ...
        def get(self, group: str, key: str, type: Any = Any, /) -> Any: ...
        def set(self, group: str, key: str, value: Any, /) -> Changed: ...
        def update(self, group: str, key: str, ops: Sequence[Mapping[str, Any]], /) -> Changed: ...
        def delete(self, group: str, key: str, /) -> Any: ...
        @overload
        def list(self, group: str, /) -> builtins.list[Any]: ...
        @overload
        def list(self, group: str, type: TypeForm[T], /) -> builtins.list[T]: ...
        def list(self, group: str, type: Any = Any, /) -> builtins.list[Any]: ...
        def list_groups(self) -> builtins.list[str]: ...

        listGroups = get_groups = list_groups

        def clear(self, group: str, /) -> int: ...


class SyncStepContext(_Blocking):
    """
    `StepContext` for a plain function: the same methods, and each returns when it is done.

    >>> @step(on.queue(submitted))
    ... def analyze(ctx: SyncStepContext, order: Order) -> None:
    ...     ctx.enqueue(approved, order)
    """

    __slots__ = ()

    _target: StepContext

    @property
    def state(self) -> SyncKV:
        """Groups of keys that every Step shares."""
        return SyncKV(self._target.state, self._portal)

    kv = state

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Commit all effects of a block together when it ends, and none when it fails."""
        block = self._target.atomic()
        self._portal.call(block.__aenter__)
        try:
            yield
        except BaseException as error:
            if not self._portal.call(block.__aexit__, type(error), error, error.__traceback__):
                raise
        else:
            self._portal.call(block.__aexit__, None, None, None)

    def uuid(self) -> UUID:
        """A UUID that is the same on each attempt."""
        answer: UUID = self._portal.call(self._target.uuid)
        return answer

    def now(self) -> datetime:
        """The time; the same on each attempt."""
        answer: datetime = self._portal.call(self._target.now)
        return answer

    def random(self) -> float:
        """A number from 0 up to 1; the same on each attempt."""
        answer: float = self._portal.call(self._target.random)
        return answer

    def match(self, branches: Mapping[str, Callable[..., Any]]) -> Any:
        """Call the branch for what triggered this Step, in this thread."""
        result = self._target._matched(branches)
        return self._portal.call(lambda: result) if isawaitable(result) else result

    if TYPE_CHECKING:
        logger: Logger
        run_id: str
        trace_id: str
        traceId: str
        trigger: TriggerInfo
        is_: Guards

        @overload
        def enqueue(
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
        def enqueue(
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
        def enqueue(self, message: Mapping[str, Any], /) -> str: ...
        def enqueue(self, topic: Any, data: Any = None, /, **options: Any) -> str: ...

        @overload
        def run(
            self,
            fn: Callable[[*Ts], Coroutine[Any, Any, R]],
            *args: *Ts,
            name: str | None = None,
            retry: Retry | None = None,
            timeout: Duration | None = None,
        ) -> R: ...
        @overload
        def run(
            self,
            fn: Callable[[*Ts], R],
            *args: *Ts,
            name: str | None = None,
            retry: Retry | None = None,
            timeout: Duration | None = None,
            process: bool = False,
        ) -> R: ...
        def run(
            self,
            fn: Callable[[*Ts], Any],
            *args: *Ts,
            name: str | None = None,
            retry: Retry | None = None,
            timeout: Duration | None = None,
            process: bool = False,
        ) -> Any: ...

        def is_http(self) -> bool: ...
        def is_api(self) -> bool: ...
        def is_queue(self) -> bool: ...
        def is_cron(self) -> bool: ...
        def is_state(self) -> bool: ...
        def is_stream(self) -> bool: ...
        def get_data(self) -> Any: ...
        def getData(self) -> Any: ...
