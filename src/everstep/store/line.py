"""A thread with one queue: what a connection that belongs to one thread needs.

Floor 2.  May import: floor 0.  Imported by: store.sqlite.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Line:
    """Runs functions one after the other in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            fn, future, loop = job
            result, error = None, None
            try:
                result = fn()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more
            job = fn = future = result = error = None  # type: ignore[assignment]  # hold nothing while idle

    def do(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        """Run *fn* after all that was asked before; the future belongs to the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((fn, future, loop))
        return future

    def stop(self) -> None:
        """End the thread after what was asked before; returns when it has ended."""
        self._queue.put(None)
        self._thread.join()
