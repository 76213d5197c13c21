"""Addresses: how lanes are made, written and taken apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.core.journal import OK, ROOT, Entry, child, named, parse_address, segments

steps = st.lists(st.one_of(st.integers(0, 10**6), st.text(min_size=1)), max_size=6)


def lane_of(path: list[int | str]) -> str:
    lane = ROOT
    for step in path:
        lane = child(lane, step) if isinstance(step, int) else named(lane, step)
    return lane


@given(steps)
def test_a_lane_comes_apart_into_what_it_was_made_of(path: list[int | str]) -> None:
    """Numbers and names, whatever is in a name."""
    assert segments(lane_of(path)) == [0, *path]


@given(steps, steps)
def test_two_ways_are_two_lanes(one: list[int | str], two: list[int | str]) -> None:
    """Different paths never share a lane: the name "1" is not the number 1."""
    assert (lane_of(one) == lane_of(two)) == (one == two)


@given(steps, st.integers(0, 10**9))
def test_an_address_reads_back(path: list[int | str], pos: int) -> None:
    """What `address` writes, `parse_address` reads."""
    entry = Entry(lane_of(path), pos, "run", "x", 0, None, 0, OK, None)

    assert parse_address(entry.address) == (entry.lane, pos)


@pytest.mark.parametrize("text", ["", "0", "0.", ".1", "0.x", "a.1", "0.1.", "0/.1", "0.-1", "0.²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With an error that is a ValueError, as for any malformed text."""
    with pytest.raises(ValueError):  # noqa: PT011  # int() has words of its own for some
        parse_address(text)


def test_a_name_is_not_empty() -> None:
    """A lane without a name would be its parent's."""
    with pytest.raises(ValueError, match="not empty"):
        named(ROOT, "")


def test_addresses_look_like_this() -> None:
    """Short ones, for people."""
    assert child(child(ROOT, 0), 2) == "0/0/2"
    assert named(child(ROOT, 3), "Build:1") == "0/3/@Build:1"
    assert Entry("0/2", 5, "run", "x", 0, None, 0, OK, None).address == "0/2.5"
