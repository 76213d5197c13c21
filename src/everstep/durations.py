"""Lengths of time as people write them: timedelta, "3d", "2h30m", or seconds.

Everything that waits takes a `Duration`.  Inside, time is whole microseconds
(`micros`), so that a deadline computed twice is the same deadline.

Floor 0.  May import: nothing.  Imported by: errors, core, and every floor above.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from functools import lru_cache

Duration = timedelta | float | int | str

LONGEST_US = 36_525 * 86_400 * 1_000_000
"""A hundred years: no wait is longer, so sums of two waits never overflow a 64-bit column."""

_UNITS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
_NUMBER = r"(\d+(?:\.\d+)?)"
_PLAIN = re.compile(_NUMBER)
_PART_UNITS = ("w", "d", "h", "m", "s", "ms", "us")
_PARTS = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit})?" for unit in _PART_UNITS).replace("us", "[uµ]s"))
_EXPECTED = 'write a timedelta, seconds as a number, or text such as "3d", "2h30m", "1.5s" or "500ms"'


def micros(duration: Duration) -> int:
    """
    Whole microseconds of a duration, rounded to the nearest.

    Raises:
        ValueError: It is negative, not a number, longer than a hundred years, or text that is no duration.

    >>> micros("1.5s")
    1500000
    """
    if isinstance(duration, str):
        return _parse(duration)
    if isinstance(duration, timedelta):
        return _checked(duration // timedelta(microseconds=1), duration)
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise ValueError(f"{duration!r} is not a duration; {_EXPECTED}")
    if isinstance(duration, float) and not math.isfinite(duration):
        raise ValueError(f"{duration!r} is not a duration: it has no end; {_EXPECTED}")
    if isinstance(duration, int):
        return _checked(duration * 1_000_000, duration)
    # Bound it before rounding, so that -1e-9 is refused and not rounded to 0.
    if duration < 0:
        return _checked(-1, duration)
    return _checked(round(duration * 1_000_000), duration)


def seconds(duration: Duration) -> float:
    """
    Seconds of a duration, for the timers of asyncio.

    Raises:
        ValueError: As for `micros`.

    >>> seconds("2h30m")
    9000.0
    """
    return micros(duration) / 1_000_000


def show(length: float) -> str:
    """
    Seconds as people read them, in at most two units; what it shows can be parsed again.

    >>> show(9000)
    '2h30m'
    """
    if not math.isfinite(length):
        return str(length)
    if length < 0:
        return "-" + show(-length)
    us = round(length * 1_000_000)
    if us == 0:
        return "0s"
    if us < 1_000:
        return f"{us}us"
    if us < 1_000_000:
        return f"{us / 1_000:.3g}ms" if us < 999_500 else "1s"
    if us < 60_000_000:
        return f"{us / 1_000_000:.3g}s" if us < 59_950_000 else "1m"
    return _two_units(us)


def _two_units(us: int) -> str:
    whole = ("d", "h", "m", "s")
    first = next(i for i, unit in enumerate(whole) if us >= _UNITS[unit])
    last = whole[min(first + 1, 3)]
    us = round(us / _UNITS[last]) * _UNITS[last]
    parts = []
    # Rounding can carry into the unit above: 59m59.7s is 1h, not 60m.
    for unit in whole[max(first - 1, 0) :]:
        count, us = divmod(us, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


@lru_cache(maxsize=1024)
def _parse(text: str) -> int:
    stripped = text.strip().lower()
    if _PLAIN.fullmatch(stripped):
        return _checked(round(float(stripped) * 1_000_000), text)
    found = _PARTS.fullmatch(stripped)
    if not stripped or found is None:
        raise ValueError(f"{text!r} is not a duration; {_EXPECTED}")
    total = sum(float(n) * _UNITS[unit] for n, unit in zip(found.groups(), _PART_UNITS, strict=True) if n)
    return _checked(round(min(total, LONGEST_US + 1.0)), text)


def _checked(us: int, duration: Duration) -> int:
    if us < 0:
        raise ValueError(f"{duration!r} is not a duration: it is negative; {_EXPECTED}")
    if us > LONGEST_US:
        raise ValueError(f"{duration!r} is longer than a hundred years, the longest wait there is")
    return us
