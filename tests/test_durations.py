"""Durations: what people write is what is waited, to the microsecond."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.durations import LONGEST_US, micros, seconds, show


@pytest.mark.parametrize(
    ("written", "us"),
    [
        ("3d", 259_200_000_000),
        ("2h30m", 9_000_000_000),
        (" 2h 30m ", 9_000_000_000),
        ("500ms", 500_000),
        ("1w", 604_800_000_000),
        ("1.5s", 1_500_000),
        ("15", 15_000_000),
        ("1m 500MS", 60_500_000),
        ("7µs", 7),
        (3, 3_000_000),
        (0.25, 250_000),
        (0, 0),
        (timedelta(days=1, microseconds=1), 86_400_000_001),
    ],
)
def test_durations_are_read_as_people_write_them(written: str | float | timedelta, us: int) -> None:
    """Units in falling order, spaces or none; a bare number is seconds."""
    assert micros(written) == us
    assert seconds(written) == us / 1_000_000


@pytest.mark.parametrize(
    "bad",
    ["", " ", "soon", "3 days", "30m2h", "1h1h", "-3d", "1e5", "nan", -1, -1e-9, float("nan"), float("inf"),
     True, None, [], "200000w", 10**30, 1e300, "9" * 400 + "d", timedelta(days=40_000),
     timedelta(seconds=-1)],
)  # fmt: skip
def test_what_is_no_duration_is_refused(bad: object) -> None:
    """The message shows what was written."""
    with pytest.raises(ValueError, match=r"is not a duration|longer than a hundred years"):
        micros(bad)  # type: ignore[arg-type]


@given(st.integers(0, LONGEST_US))
def test_a_timedelta_is_exact(us: int) -> None:
    """Not a microsecond is lost, up to a hundred years."""
    assert micros(timedelta(microseconds=us)) == us


@given(st.floats(0, 3e9))
def test_what_is_shown_can_be_read_again(length: float) -> None:
    """Shown in two units, a length is right to one part in forty."""
    again = seconds(show(length))

    assert again == pytest.approx(length, rel=0.025, abs=1e-6)


@pytest.mark.parametrize(
    ("length", "shown"),
    [(0, "0s"), (9000, "2h30m"), (3599.7, "1h"), (59.97, "1m"), (0.9999, "1s"), (1.5, "1.5s"),
     (90_061, "1d1h"), (0.25, "250ms"), (1e-5, "10us"), (-5, "-5s"), (float("inf"), "inf"), (3661, "1h1m")],
)  # fmt: skip
def test_lengths_are_shown_in_two_units(length: float, shown: str) -> None:
    """Rounding carries into the unit above."""
    assert show(length) == shown
