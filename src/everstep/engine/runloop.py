"""A small event loop of a run's own, in which its body can only do what a replay can repeat.

The loop has what asyncio's tasks, locks, queues, groups and timeouts (and
anyio's) ask of a loop, and nothing that touches the world: everything else
raises `NotReplayable` and names what to write instead.  It never waits.
`pump` runs what is ready until nothing is; whoever owns the loop then hands in
one recorded result and pumps again.  Between two results the body's order of
execution is asyncio's own, which is the same every time.

Two things asyncio leaves to chance are fixed here: tasks hash by the order of
their creation, so that sets of tasks (a TaskGroup's, asyncio.wait's) are walked
in the same order on every pass; and time stands still between results.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events, tasks
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from itertools import count
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from everstep.core.journal import ROOT, child, named
from everstep.engine.lines import line_of_awaiting, line_of_frame
from everstep.errors import Cancelled, ContextClosed, Evicted, NotReplayable
from everstep.log import Logger

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
AnyCoroutine = Coroutine[Any, Any, T] | Generator[Any, None, T]

CALLBACKS = named(ROOT, "callbacks")
"""The lane of what plain callbacks ask, which run in no task."""

ROUNDS = 1_000
"""So many rounds without coming to rest are a body that polls."""

MOST_ROUNDS = 1_000_000
CANCELLED = "everstep: the run was cancelled"

STUCK: list[object] = []
"""What would not be evicted.  Kept for good: the collector would run its `finally` inside another run."""

_log = Logger("everstep.body")
_unique = count()
_WAIT = "async with asyncio.timeout(5): ..."
_RUN = "answer = await ctx.run(fetch, url)"
# Where asyncio makes a task or a timer on behalf of one of these, other Python
# versions, or other orders of a set, would give other addresses.
_REFUSED: dict[CodeType, tuple[str, str, str]] = {
    asyncio.wait_for.__code__: (
        "asyncio.wait_for",
        "async with asyncio.timeout(5):\n        answer = await ctx.run(fetch, url)",
        "It makes a task on Python 3.11 and none on 3.12: neither could read a journal of the other.",
    ),
}
_AS_COMPLETED = (
    "asyncio.as_completed over coroutines",
    "tasks = [asyncio.create_task(c) for c in coroutines]\n    for done in asyncio.as_completed(tasks): ...",
    "It starts them in the order of a set, which is another one each time.",
)
for _maker in (tasks.as_completed, getattr(tasks, "_AsCompletedIterator", None)):
    if _maker is not None:
        _REFUSED[getattr(_maker, "__code__", None) or _maker.__init__.__code__] = _AS_COMPLETED
_ENSURE_FUTURE: CodeType = getattr(tasks, "_ensure_future", tasks.ensure_future).__code__


class Lane:
    """One line of execution: counts what it asks, the tasks it makes, and what it draws."""

    __slots__ = ("asked", "children", "drawn", "names", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked = 0
        self.children = 0
        self.drawn = 0
        self.names: set[str] | None = None

    def child(self) -> Lane:
        """The lane of the next task made here."""
        number = self.children
        self.children = number + 1
        return Lane(child(self.path, number))

    def named(self, name: str) -> Lane:
        """The lane of that name below this one; a name is taken once, and ours are taken already."""
        if self.names is None:
            self.names = {"callbacks", "control"} if self.path == ROOT else set()
        if name in self.names:
            raise ValueError(f"lane {self.path} already has a branch called '{name}'")
        self.names.add(name)
        return Lane(named(self.path, name))


class LaneTask(asyncio.Task[T]):
    """A task of a body.  It hashes by its number among the tasks of its run."""

    __slots__ = ("_number",)

    def __init__(
        self, coro: AnyCoroutine[T], loop: RunLoop, lane: Lane, context: Context | None, number: int
    ) -> None:
        # asyncio enters every task of the process in one set as it is made. There
        # the numbers of many runs would collide, so it sees a hash of its own.
        self._number = next(_unique)
        super().__init__(_Guard(coro, loop, lane), loop=loop, name=lane.path, context=context)
        self._number = number

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__

    @property
    def lane(self) -> Lane:
        """Its line of execution."""
        guard: Any = super().get_coro()
        return guard.lane  # type: ignore[no-any-return]

    def get_coro(self) -> Any:
        """The user's coroutine, as asyncio's own tasks answer."""
        guard = super().get_coro()
        return guard.coro if isinstance(guard, _Guard) else guard


class _Guard(Coroutine[Any, Any, Any]):
    """Stands between a task and its coroutine: knows the lane, sees what is awaited and what is thrown in."""

    __slots__ = ("_loop", "_send", "coro", "lane")

    def __init__(self, coro: Any, loop: RunLoop, lane: Lane) -> None:
        self.coro = coro
        self._send = coro.send
        self._loop = loop
        self.lane = lane

    def send(self, value: Any) -> Any:
        loop = self._loop
        loop.current = self.lane
        try:
            waited = self._send(value)
        finally:
            loop.current = None
        # asyncio's futures know their loop; None is asyncio.sleep(0).
        if waited is None or getattr(waited, "_loop", None) is loop:
            return waited
        return self._refuse(waited)

    def throw(self, error: Any, value: Any = None, traceback: Any = None) -> Any:
        loop = self._loop
        loop.current = self.lane
        try:
            waited = self.coro.throw(self._instead(error))
        finally:
            loop.current = None
        if waited is None or getattr(waited, "_loop", None) is loop:
            return waited
        return self._refuse(waited)

    def _instead(self, error: Any) -> Any:
        if self._loop.evicting:
            return Evicted("this run leaves memory; let this pass")
        if type(error) is asyncio.CancelledError and error.args == (CANCELLED,):
            return Cancelled("the run was cancelled")
        return error

    def _refuse(self, waited: Any) -> Any:
        if hasattr(waited, "_asyncio_future_blocking"):
            waited._asyncio_future_blocking = False
        kind = type(waited)
        line = line_of_awaiting(self.coro)
        return self.throw(
            NotReplayable(
                f"awaiting a {kind.__module__}.{kind.__qualname__} from elsewhere", line=line, remedy=_RUN
            )
        )

    def close(self) -> None:
        self.coro.close()

    def __await__(self) -> Any:
        return self.coro.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coro, name)  # cr_frame, __qualname__: for those who show tasks


class RunLoop(asyncio.AbstractEventLoop):
    """
    The private loop of one run's body.

    Args:
        outer: The process's loop, inside which this one is driven.
        on_timer: Told of each timer the body sets; it is due at ``when()``.
        on_fault: Told what must end the turn, from whatever thread.
    """

    def __init__(
        self,
        outer: asyncio.AbstractEventLoop | None,
        on_timer: Callable[[asyncio.TimerHandle, Lane], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self.current: Lane | None = None  # of the task that runs now
        self.now_us = 0
        self.halted = False
        self.evicting = False
        self.polls: Callable[[], bool] = bool  # may a body that polls wait for the next result?
        self.thread = get_ident()
        self.outer = outer
        self._outer_hooks = sys.get_asyncgen_hooks()
        self._driven = False
        self._ready: deque[asyncio.Handle] = deque()
        self._on_timer = on_timer
        self._on_fault = on_fault
        self._callbacks = Lane(CALLBACKS)
        self._made = 0
        self._tasks: list[LaneTask[Any]] = []
        self._tidy_at = 64

    # ---- what asyncio asks for

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if not self._driven or get_ident() != self.thread:
            self._woken("something outside the body")
        handle = _Soon(callback, args, context if context is not None else copy_context())
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._woken("another thread")
        return _Soon(callback, args, copy_context())

    def _woken(self, by: str) -> None:
        # Whoever does it would be told in a place where nobody listens, or would
        # try again; the run says it instead.
        why = "When it comes, and between which two results, is another time each time."
        self._on_fault(NotReplayable(f"a body woken by {by}", why=why, remedy=_RUN))

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        _check_caller(sys._getframe(1))
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._on_timer(handle, self.lane())
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: AnyCoroutine[T], *, name: object = None, context: Context | None = None, **_: Any
    ) -> LaneTask[T]:
        frame = sys._getframe(1)
        if frame.f_code is _ENSURE_FUTURE:
            try:
                _check_caller(frame.f_back)
            except NotReplayable:
                coro.close()
                raise
        task = self.start(coro, self.lane().child(), context)
        if name is not None:
            task.set_name(name)
        return task

    def time(self) -> float:
        return self.now_us / 1e6

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._driven

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is abandoned when its turn comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.evicting:
            return
        error = context.get("exception")
        _log.error(str(context.get("message")), {"error": repr(error)} if error is not None else None)

    # ---- what its owner asks for

    def start(self, coro: AnyCoroutine[T], lane: Lane, context: Context | None = None) -> LaneTask[T]:
        """Make a task in a lane."""
        number = self._made
        self._made = number + 1
        task = LaneTask(coro, self, lane, context, number)
        # asyncio itself holds tasks weakly: one that waits for ever could be collected.
        self._tasks.append(task)
        if number >= self._tidy_at:
            self._tasks = [t for t in self._tasks if not t.done()]
            self._tidy_at = number + 64 + len(self._tasks)
        return task

    def lane(self) -> Lane:
        """The lane of the task that runs now."""
        if not self._driven or get_ident() != self.thread:
            raise ContextClosed("a task or timer of this body", why="it was asked for from outside the body")
        return self.current or self._callbacks

    def living(self) -> list[LaneTask[Any]]:
        """Tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def ring(self, handle: asyncio.TimerHandle) -> None:
        """A timer's time has come."""
        self._ready.append(handle)

    def enter(self) -> None:
        """Become the running loop; until `leave` the owner may make things ready, and `run` them."""
        events._set_running_loop(self)
        self._driven = True
        # A generator that is dropped here is closed here (it remembers the hook).
        sys.set_asyncgen_hooks(None, self._close_generator)

    def leave(self) -> None:
        """Let the process's loop be the running one again."""
        self._driven = False
        sys.set_asyncgen_hooks(*self._outer_hooks)
        events._set_running_loop(self.outer)

    def run(self) -> None:
        """Run what is ready until nothing is, or until the loop is halted."""
        ready = self._ready
        rounds = 0
        while ready:
            for _ in range(len(ready)):
                handle: Any = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        self._failed(handle, error)
                if self.halted:
                    return
            rounds += 1
            if rounds >= ROUNDS and (rounds >= MOST_ROUNDS or self.evicting or self.polls()):
                self._polled(rounds)
                return

    def close(self) -> None:
        """Let go of the owner: what is left of the body is on its own."""
        self.evicting = True
        self._on_timer = self._on_fault = self.polls = _nobody
        self._ready.clear()
        self._tasks.clear()

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """One was left half way: close it here, where its `finally` belongs."""
        if self.evicting:
            try:
                generator.aclose().__await__().send(None)
            except BaseException:
                return  # closed, or failed where nobody listens
        elif self._driven:
            _ = self.start(_closed(generator), self._callbacks.child())
            return
        # The collector found it between two results, or it waits while it is closed.
        STUCK.append(generator)

    def _failed(self, handle: Any, error: BaseException) -> None:
        self.call_exception_handler({"message": f"{_name(handle._callback)} failed", "exception": error})

    def _polled(self, rounds: int) -> None:
        if rounds >= MOST_ROUNDS and not self.evicting:
            why = "It polls (asyncio.sleep(0) in a loop) for what only a result could change; none is coming."
            self._on_fault(NotReplayable("a body that spins", why=why, remedy="await event.wait()"))


def _nobody(*_: object) -> Any:
    return None


async def _closed(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


class _Soon(asyncio.Handle):
    """asyncio's handle without what it does for debugging."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, context: Context) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def __repr__(self) -> str:
        return f"<Handle {_name(self._callback)}>"


def _name(callback: Any) -> str:
    return getattr(callback, "__qualname__", None) or repr(callback)


def _check_caller(frame: FrameType | None) -> None:
    """Refuse what asyncio does on behalf of wait_for or as_completed."""
    near = frame
    for _ in range(5):
        if near is None:
            return
        refused = _REFUSED.get(near.f_code)
        if refused is not None:
            what, remedy, why = refused
            raise NotReplayable(what, line=line_of_frame(near), remedy=remedy, why=why)
        near = near.f_back


def _refusing(method: str) -> Callable[..., NoReturn]:
    def refuse(self: RunLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotReplayable(f"loop.{method}", line=line_of_frame(sys._getframe(1)), remedy=_RUN)

    return refuse


# What the loop does not have, it refuses by name.
for _method, _default in vars(asyncio.AbstractEventLoop).items():
    if callable(_default) and not _method.startswith("__") and _method not in vars(RunLoop):
        setattr(RunLoop, _method, _refusing(_method))
