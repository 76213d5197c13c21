"""Stop serving a request when its time is up, or nobody waits for the answer any more.

Most handlers are done within milliseconds, so nothing is listened for at first,
and no timer is set for any of them: one tick looks at all that are still at
work, and makes a task that watches the client for each that is there twice.

Floor 6.  May import: nothing of ours.  Imported by: http.ingress.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

TICK = 0.05  # seconds; a request is watched after one to two of them


class Late(Exception):
    """The handler took longer than its Step allows."""


class Left(Exception):
    """The client hung up while the handler was at work."""


class Watches:
    """All requests that are at work."""

    __slots__ = ("_fresh", "_seen", "_ticking")

    def __init__(self) -> None:
        self._fresh: set[Watch] = set()
        self._seen: set[Watch] = set()
        self._ticking = False

    def enter(self, watch: Watch) -> None:
        """A request begins."""
        self._fresh.add(watch)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK, self._tick)

    def leave(self, watch: Watch) -> None:
        """A request ends."""
        self._fresh.discard(watch)
        self._seen.discard(watch)

    def _tick(self) -> None:
        slow, self._seen, self._fresh = self._seen, self._fresh, set()
        for watch in slow:
            watch.begin()
        self._ticking = bool(self._seen)
        if self._ticking:
            asyncio.get_running_loop().call_later(TICK, self._tick)


class Watch:
    """
    Cancels the block that it surrounds, and says why.

    Raises:
        Late: *timeout* seconds passed.
        Left: The client hung up.
    """

    __slots__ = ("_all", "_ends", "_loop", "_receive", "_served", "_short", "_timer", "_watcher", "_why")

    def __init__(self, watches: Watches, receive: Receive, timeout: float) -> None:
        self._all = watches
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + timeout
        self._short = timeout < 2 * TICK
        self._served: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._why: type[Late] | type[Left] | None = None

    def __enter__(self) -> Self:
        self._served = asyncio.current_task(self._loop)
        if self._short:  # over before the second tick
            self._timer = self._loop.call_at(self._ends, self.begin)
        else:
            self._all.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._why is not None:
            assert self._served is not None
            # Another cancellation (the server stops) came as well: then it wins.
            if self._served.uncancel() == 0 and kind is asyncio.CancelledError:
                raise self._why from error

    def begin(self) -> None:
        """Listen from now on."""
        self._watcher = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout_at(self._ends):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            self._stop(Late)
        else:
            self._stop(Left)

    def _stop(self, why: type[Late] | type[Left]) -> None:
        if self._served is not None and not self._served.done():
            self._why = why
            self._served.cancel()
