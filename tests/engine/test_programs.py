"""Ordinary asyncio programs end as if nothing had happened, however often their process dies."""

import asyncio

import pytest

from everstep.errors import TerminalError
from tests.engine.programs import REFUSED, REPLAYABLE, world_of


@pytest.mark.parametrize("evict_always", [False, True])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("program", REPLAYABLE)
def test_a_program_killed_at_random_points_ends_as_its_journal_says(
    program: str, seed: int, evict_always: bool
) -> None:
    """No call whose answer is in the journal runs again, and a replay of the whole gives the same result."""

    async def go() -> None:
        world = world_of(program, seed, evict_always=evict_always)
        first = await world.to_the_end(crashes=6)

        assert await world.replay() == first

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(12))
def test_branches_get_their_own_results_although_closures_have_no_fingerprint(seed: int) -> None:
    """Results are never swapped between the branches of a DAG."""

    async def go() -> None:
        world = world_of("dag_closure", seed)
        for node, (asked, _) in await world.to_the_end(crashes=6):
            assert asked == [node]

    asyncio.run(go())


@pytest.mark.parametrize("program", REFUSED)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_what_has_other_addresses_elsewhere_is_refused_by_name(program: str) -> None:
    """asyncio.wait_for, and asyncio.as_completed over coroutines, name what to write instead."""

    async def go() -> None:
        world = world_of(program)
        with pytest.raises(TerminalError, match=f"asyncio.{program}"):
            await world.to_the_end()
        assert not world.journal

    asyncio.run(go())
