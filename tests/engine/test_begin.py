"""Beginning a run from outside, and waiting for its end."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everstep.core.batch import Mode
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.errors import EverstepError
from everstep.settings import Settings
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def engine(tmp_path: Path, registry: Registry) -> AsyncIterator[Engine]:
    settings = Settings(concurrency=3, drain=0.1)
    yield (engine := Engine(SqliteStore(f"sqlite:///{tmp_path}/runs.db"), registry, settings))
    await engine.stop()


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (None, 3)])
async def test_runs_begun_at_once_take_no_more_than_there_is_room_for(
    engine: Engine, registry: Registry, limit: int | None, most: int
) -> None:
    """A limit holds for runs that are claimed as they are made, however many are made at once."""
    now = highest = 0

    async def counted(attempt: Attempt) -> Ended:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0.01)
        now -= 1
        return Ended()

    registry.add(Handler("counted", Mode.RETRY, counted, concurrency=limit))
    await engine.start()
    begun = await asyncio.gather(*(engine.begin("counted", b"null") for _ in range(8)))
    for one in begun:
        await engine.result(one.run.rid, timeout=10)

    assert highest == most
    assert engine.worker.room("counted") == most


async def test_a_run_goes_on_although_whoever_began_it_is_gone(engine: Engine, registry: Registry) -> None:
    """The caller was cancelled while the commit was on its way: the run was claimed, so it is driven."""

    async def body(ctx: Any, given: Any) -> str:
        return "done"

    registry.add(Handler("body", Mode.REPLAY, body))
    await engine.start()
    beginning = asyncio.create_task(engine.begin("body", b"null", rid="r_1"))
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.gather(beginning, return_exceptions=True)
    await engine.kv_set("g", "k", b"1")  # a commit behind it
    run = await engine.result("r_1", timeout=10)

    assert run.state is Status.DONE


async def test_a_large_result_is_kept_beside_the_row(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    """Who lists runs does not read it, and who asks for it gets all of it."""

    async def body(ctx: Any, given: Any) -> str:
        return "x" * 200_000

    registry.add(Handler("body", Mode.REPLAY, body))
    await engine.start()
    run = await engine.result((await engine.begin("body", b"null")).run.rid, timeout=10)

    with closing(sqlite3.connect(tmp_path / "runs.db")) as db:
        [length] = db.execute("SELECT max(length(output)) FROM run").fetchone()
    assert length < 1_000
    assert run.output == b'"%b"' % (b"x" * 200_000)


async def test_who_waits_for_a_run_is_told_that_the_process_stops(engine: Engine, registry: Registry) -> None:
    """An error that can be caught, not a cancellation that nobody asked for."""

    async def slow(attempt: Attempt) -> Ended:
        await asyncio.sleep(60)
        return Ended()

    registry.add(Handler("slow", Mode.RETRY, slow))
    await engine.start()
    waiting = asyncio.create_task(engine.result((await engine.begin("slow", b"")).run.rid))
    await asyncio.sleep(0.01)
    await engine.stop()

    with pytest.raises(EverstepError, match="stopping"):
        await waiting
