"""`ctx` as the body of a replay-mode handler gets it.

Whatever varies goes through here, so that its first answer is kept: functions
(`run`), waits (`sleep`), the time and chance (`now`, `uuid`, `random`).

Floor 3.  May import: core, floor 0.  Imported by: engine, workflows, and users as everstep.Context.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping
from datetime import datetime
from types import FrameType
from typing import Any, Generic, TypeVar, TypeVarTuple, overload
from uuid import UUID

from everstep.clock import as_datetime
from everstep.codec import codec_for
from everstep.core.retry import Retry
from everstep.durations import Duration, micros
from everstep.engine.body import Body
from everstep.engine.calls import Attempt, Call, attempt
from everstep.engine.operations import Awaited, PromiseWait, Sleep
from everstep.engine.runloop import LaneTask
from everstep.ids import seeded_random, seeded_uuid
from everstep.log import Logger

R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Context:
    """What a body may ask for.  Each answer is durable before the code after the await runs."""

    def __init__(self, body: Body, **fields: Any) -> None:
        self._body = body
        self.run_id: str = body.run_id
        self.trace_id: str = body.trace_id
        self.logger: Logger = _FirstPassLogger(_Gate(body, _LOG), fields)

    # Positional arguments are checked against fn; options are keywords. ParamSpec cannot express this.
    @overload
    def run(
        self,
        fn: Callable[[*Ts], Coroutine[Any, Any, R]],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def run(
        self,
        fn: Callable[[*Ts], R],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        process: bool = False,
    ) -> Coroutine[Any, Any, R]: ...
    def run(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        process: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        """
        Call a function outside the body and keep its answer.

        The result is durable before the code after the await runs, and a
        replay gets it without calling the function again.  The function itself
        may run more than once: after a crash, nobody knows whether it ended.
        `attempt().idempotency_key` lets the other side recognise it.

        Args:
            fn: An async function, or a plain one, which then runs in a thread.
            name: What the journal calls it; a lambda needs one.
            retry: When to try again. Exhausted, the body gets `StepFailed`.
                Without it: ten attempts, then the run is set aside as
                needs_attention, and goes on from here when resumed.
            timeout: Of each attempt.
            process: Run a plain function in a process of its own.

        Raises:
            TerminalError: The function raised it; it comes back as its own class.
            StepFailed: *retry* gave up.

        >>> receipt = await ctx.run(charge, order, retry=Retry(attempts=5))
        """
        op = Call(fn, args, name, retry, None if timeout is None else micros(timeout), process)
        return _made(self._body, op, sys._getframe(1))

    def sleep(self, duration: Duration, /) -> Coroutine[Any, Any, None]:
        """
        Wait; for months if need be.

        The run is parked and holds nothing.  It counts from the last answer
        the body got, so a restart does not start it anew.

        >>> await ctx.sleep("3d")
        """
        return _made(self._body, Sleep(micros(duration)), sys._getframe(1))

    def promise(self, name: str, type: Any = Any, /) -> Promise[Any]:
        """A value that somebody outside settles once, under this name."""
        return Promise(self._body, name, type)

    def now(self) -> datetime:
        """The time of the last answer the body got, in UTC; the same on every replay."""
        self._body.lane("now")
        return as_datetime(self._body.loop.now_us)

    def uuid(self) -> UUID:
        """A UUID that is the same on every replay, and in no other run."""
        return seeded_uuid(self._body.seed, self._drawn("uuid"))

    def random(self) -> float:
        """A number in [0, 1) that is the same on every replay."""
        return seeded_random(self._body.seed, self._drawn("random"))

    def _drawn(self, what: str) -> str:
        lane = self._body.lane(what)
        number = lane.drawn
        lane.drawn = number + 1
        return f"{lane.path}#{number}"

    def _branch(self, name: str, coro: Coroutine[Any, Any, T]) -> LaneTask[T]:
        """A task in a lane with a name of its own: a graph's node, a branch."""
        return self._body.loop.start(coro, self._body.lane("branch").named(name))


def _made(body: Body, op: Awaited, frame: FrameType) -> Coroutine[Any, Any, Any]:
    """The coroutine that asks when it is awaited; until then it counts as loose."""
    answer = _answer(body, op)
    body.loose[op] = answer, frame, frame.f_lasti
    return answer


async def _answer(body: Body, op: Awaited) -> Any:
    return await body.asked(op)


class Promise(Generic[T]):
    """A promise as the body sees it: something to wait for."""

    def __init__(self, body: Body, name: str, type: Any) -> None:
        self._body = body
        self.name = name
        self._codec = codec_for(type)

    def __await__(self) -> Generator[Any, Any, T]:
        return self._asked(sys._getframe(1)).__await__()

    def wait(self) -> Coroutine[Any, Any, T]:
        """Wait until somebody settles it, for as long as it takes; the run holds nothing meanwhile."""
        return self._asked(sys._getframe(1))

    def _asked(self, frame: FrameType) -> Coroutine[Any, Any, T]:
        return _made(self._body, PromiseWait(self.name, self._codec), frame)


class _FirstPassLogger(Logger):
    """Says each thing once: what a replay passes again was said before."""

    __slots__ = ()

    def __init__(self, gate: _Gate, fields: Mapping[str, Any]) -> None:
        super().__init__("everstep.body", **fields)
        self._log = gate  # type: ignore[assignment]  # as much of a logging.Logger as is asked for

    def bind(self, **fields: Any) -> Logger:
        gate: Any = self._log
        return _FirstPassLogger(gate, {**self._fields, **fields})


class _Gate:
    """Shut while the journal answers.  A gate, not a call of its own: lines must name their caller."""

    __slots__ = ("_body", "_enabled", "log", "name")

    def __init__(self, body: Body, to: logging.Logger) -> None:
        self._body = body
        self._enabled = to.isEnabledFor
        self.log = to.log
        self.name = to.name

    def isEnabledFor(self, level: int) -> bool:
        return self._body.replay is None and self._enabled(level)


_LOG = logging.getLogger("everstep.body")

__all__ = ["Attempt", "Context", "Promise", "attempt"]
