"""The clock never goes backwards, and time is exact in both directions."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.clock import SystemClock, as_datetime, as_us, iso, system

MOMENTS = st.datetimes(timezones=st.just(UTC))


def test_time_goes_on_slowly_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back an hour, the clock goes on at half speed: never back, never still."""
    wall, steady = 10_000_000_000, 0
    monkeypatch.setattr(time, "time_ns", lambda: wall * 1000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: steady * 1000)
    clock = SystemClock()
    before = clock.now_us()

    wall -= 3_600_000_000
    seen = []
    for _ in range(11):
        seen.append(clock.now_us())
        steady += 1
    wall += 8_000_000_000

    assert seen == [before + n // 2 for n in range(11)]
    assert clock.now_us() == wall


def test_the_system_clock_is_the_machine_s() -> None:
    """Within a second of what Python itself says."""
    assert abs(as_datetime(system.now_us()) - datetime.now(UTC)).total_seconds() < 1


@given(MOMENTS)
def test_moments_are_exact(moment: datetime) -> None:
    """To microseconds and back is the same moment."""
    assert as_datetime(as_us(moment)) == moment


@given(MOMENTS, MOMENTS)
def test_iso_text_sorts_as_time_does(a: datetime, b: datetime) -> None:
    """Text of fixed width, ending in Z."""
    assert (iso(as_us(a)) < iso(as_us(b))) == (a < b)
    assert datetime.fromisoformat(iso(as_us(a))) == a


def test_a_moment_without_a_zone_is_refused() -> None:
    """A naive datetime could mean any hour."""
    with pytest.raises(ValueError, match="names no time zone"):
        as_us(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test
