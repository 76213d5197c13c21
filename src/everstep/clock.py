"""The only module that reads the time.

Everything else is given a `Clock`, so that a test's clock can jump and the
rules of the engine stay pure.  Time is whole microseconds since 1970, UTC.

Floor 0.  May import: nothing.  Imported by: ids, log, codec, and every floor above.
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

TIME_READERS: dict[object, type] = {date.today: date, datetime.now: datetime, datetime.today: datetime}
"""What user code hands to ctx.run to keep a time, and what it gives; they carry no annotations."""


class Clock(Protocol):
    """Where the time comes from."""

    def now_us(self) -> int:
        """Microseconds since 1970, UTC; never goes backwards within a process."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock nobody sets; only differences mean something."""
        ...


class SystemClock:
    """The machine's clock, held steady when someone sets it back."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = (0, 0)

    def now_us(self) -> int:
        """
        Microseconds since 1970, UTC; never goes backwards within a thread.

        Between threads it may by the moment one was held up here: a lock
        would cost more than all the rest, on every delivery of every run.
        When the machine's clock is set back, this one goes on at half speed
        until the machine's has caught up, so that waits still end.
        """
        wall, steady = time.time_ns() // 1000, time.monotonic_ns() // 1000
        last, last_steady = self._last
        if wall < last:
            step = (steady - last_steady) // 2
            wall, steady = last + step, last_steady + 2 * step
        self._last = (wall, steady)
        return wall

    def monotonic(self) -> float:
        """Seconds of a clock nobody sets; only differences mean something."""
        return time.monotonic()


system = SystemClock()
"""The one system clock of this process."""


def as_datetime(us: int) -> datetime:
    """Microseconds since 1970 as an aware datetime in UTC; exact."""
    return _EPOCH + timedelta(microseconds=us)


def as_us(moment: datetime) -> int:
    """
    An aware datetime as microseconds since 1970; exact.

    Raises:
        ValueError: The datetime names no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} names no time zone; write datetime(..., tzinfo=UTC) or .astimezone()")
    return (moment - _EPOCH) // _MICROSECOND


def iso(us: int) -> str:
    """
    Microseconds since 1970 as ISO text of fixed width, which sorts as time does.

    >>> iso(0)
    '1970-01-01T00:00:00.000000Z'
    """
    return as_datetime(us).isoformat(timespec="microseconds")[:26] + "Z"
