"""A stopwatch for time and processor time."""

from __future__ import annotations

import resource
import time
from types import TracebackType
from typing import Self


class Lap:
    """
    Time a block: `seconds` on the wall, `cpu` of all threads and of children that ended in it.

    >>> with Lap() as lap: ...
    >>> lap.seconds
    """

    __slots__ = ("_cpu", "_start", "cpu", "seconds")

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> Self:
        self._cpu = _processor()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = _processor() - self._cpu


def _processor() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
