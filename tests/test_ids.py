"""Ids rise within a process, never collide across a fork; seeded values are the same each time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.ids import new_id, seeded_random, seeded_uuid


def test_ids_rise_in_one_thread() -> None:
    """Also the many of one millisecond."""
    ids = [new_id("r") for _ in range(20_000)]

    assert ids == sorted(set(ids))


def test_ids_rise_in_each_thread_and_never_collide() -> None:
    """Threads share one sequence."""
    with ThreadPoolExecutor(8) as pool:
        lots = list(pool.map(lambda _: [new_id("m") for _ in range(2_000)], range(8)))

    assert all(ids == sorted(ids) for ids in lots)
    assert len({i for ids in lots for i in ids}) == 16_000


@given(st.integers(0, (1 << 48) * 1000 - 1), st.integers(0, 10**12))
def test_ids_sort_by_the_time_they_were_given(us: int, later: int) -> None:
    """26 letters of Crockford's alphabet; an older time sorts first, the same millisecond rises."""
    end = min(us + later, (1 << 48) * 1000 - 1)
    first, second = new_id("r", us), new_id("r", end)

    assert first < second
    assert len(first) == 28
    assert set(first[2:]) <= set("0123456789abcdefghjkmnpqrstvwxyz")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_draws_ids_of_its_own() -> None:
    """Parent and child go on from the same state and must not meet."""
    program = """
import os
from everstep.ids import new_id
new_id("r", 5_000_000)
pid = os.fork()
os.write(1, "".join(new_id("r", 5_000_000) + " " for _ in range(100)).encode())  # in one piece
if pid:
    os.waitpid(pid, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert len(set(done.stdout.split())) == 200


SEEDS = st.one_of(st.binary(max_size=20), st.text(max_size=20))


@given(SEEDS, st.text(max_size=20))
def test_seeded_values_depend_on_seed_and_address_alone(seed: bytes | str, address: str) -> None:
    """A UUID of version 8, a number below 1; other addresses give others."""
    value = seeded_uuid(seed, address)

    assert value == seeded_uuid(seed, address)
    assert value != seeded_uuid(seed, address + "x")
    assert value.version == 8
    assert value.variant == "specified in RFC 4122"
    assert 0 <= seeded_random(seed, address) == seeded_random(seed, address) < 1


def test_seeded_values_are_kept_for_ever() -> None:
    """Waiting runs of older releases must see what they saw."""
    assert str(seeded_uuid("run", "0.1")) == SEEDED_UUID
    assert seeded_random("run", "0.1") == SEEDED_RANDOM
    assert seeded_uuid("ab", "c") != seeded_uuid("a", "bc")


SEEDED_UUID = "fa67d8bb-4778-8f4a-aa86-02a2a24803a4"
SEEDED_RANDOM = 0.9242201543896655
