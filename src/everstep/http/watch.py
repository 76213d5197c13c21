"""Stop serving a request when its time is up, or nobody waits for the answer any more.

Most handlers are done within milliseconds, so nothing is listened for at first:
one timer is set, and only if it fires is a task made that watches the client.

Floor 6.  May import: nothing of ours.  Imported by: http.ingress.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

PATIENCE = 0.05  # seconds before a request is worth watching


class Late(Exception):
    """The handler took longer than its Step allows."""


class Left(Exception):
    """The client hung up while the handler was at work."""


class Watch:
    """
    Cancels the block that it surrounds, and says why.

    Raises:
        Late: *timeout* seconds passed.
        Left: The client hung up.
    """

    __slots__ = ("_ends", "_loop", "_receive", "_served", "_timer", "_watcher", "_why")

    def __init__(self, receive: Receive, timeout: float) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + timeout
        self._served: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._why: type[Late] | type[Left] | None = None

    def __enter__(self) -> Self:
        self._served = asyncio.current_task()
        self._timer = self._loop.call_at(min(self._ends, self._loop.time() + PATIENCE), self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._why is not None:
            assert self._served is not None
            # Another cancellation (the server stops) came as well: then it wins.
            if self._served.uncancel() == 0 and kind is asyncio.CancelledError:
                raise self._why from error

    def _begin(self) -> None:
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
