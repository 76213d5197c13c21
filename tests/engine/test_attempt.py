"""How one attempt of a retry-mode handler ends, whatever is asked of it meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everstep.core.batch import Mode
from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.errors import ContextClosed, TerminalError
from everstep.settings import Settings
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def engine(tmp_path: Path, registry: Registry) -> AsyncIterator[Engine]:
    yield (engine := Engine(SqliteStore(f"sqlite:///{tmp_path}/runs.db"), registry, Settings(drain=0.2)))
    await engine.stop()


async def test_a_handler_that_outlives_its_timeout_is_left_behind(engine: Engine, registry: Registry) -> None:
    """Its run is tried again at once; what it still tries to do is refused, and its end is not heard."""
    said: list[str] = []
    over, tried = asyncio.Event(), asyncio.Event()

    async def deaf(attempt: Attempt) -> Ended:
        if attempt.number > 1:
            return Ended(b'"second"')
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await over.wait()
        try:
            await attempt.effects.kv_set("g", "k", b"1")
        except ContextClosed as refused:
            said.append(str(refused))
            tried.set()
        return Ended(b'"first"')

    retry = Retry(attempts=3, delay="1ms", jitter=0)
    registry.add(Handler("deaf", Mode.RETRY, deaf, timeout=50_000, retry=retry))
    await engine.start()
    run = await engine.result((await engine.begin("deaf", b"")).run.rid, timeout=10)
    over.set()
    await tried.wait()

    assert run.output == b'"second"'
    assert "timeout" in said[0]
    assert await engine.store.kv_get("g", "k") is None
    assert engine.worker.running == 0


@pytest.mark.parametrize("when", ["before its first step", "while it waits"])
async def test_a_drained_attempt_gives_its_run_back(engine: Engine, registry: Registry, when: str) -> None:
    """Whenever the word comes, the run is ready for the next worker and nobody waits for this one."""
    waits = asyncio.Event()

    async def slow(attempt: Attempt) -> Ended:
        waits.set()
        await asyncio.sleep(60)
        return Ended()

    registry.add(Handler("slow", Mode.RETRY, slow))
    await engine.start()
    run = (await engine.begin("slow", b"")).run
    drive = engine.worker._drives[run.id]
    if when == "while it waits":
        await waits.wait()
    engine.worker._draining = True  # or this worker would claim it again
    drive.drain()
    await engine.worker._idle.wait()

    found = await engine.store.run(run.rid)
    assert found is not None
    assert found.status == Status.READY
    assert found.attempt == 0


async def test_a_cancelled_attempt_ends_as_cancelled(engine: Engine, registry: Registry) -> None:
    """The handler is cancelled where it waits, and the run ends; there is no other attempt."""
    waits = asyncio.Event()

    async def slow(attempt: Attempt) -> Ended:
        waits.set()
        await asyncio.sleep(60)
        return Ended()

    registry.add(Handler("slow", Mode.RETRY, slow))
    await engine.start()
    run = (await engine.begin("slow", b"")).run
    await waits.wait()
    await engine.control(run.rid, "cancel")
    ended = await engine.result(run.rid, timeout=10)

    assert ended.status == Status.CANCELLED
    assert ended.attempt == 0


async def test_a_fenced_attempt_writes_nothing(engine: Engine, registry: Registry) -> None:
    """Whose run was taken by somebody else ends in silence, also in the log of attempts."""
    waits = asyncio.Event()

    async def slow(attempt: Attempt) -> Ended:
        waits.set()
        await asyncio.sleep(60)
        return Ended()

    registry.add(Handler("slow", Mode.RETRY, slow))
    await engine.start()
    run = (await engine.begin("slow", b"")).run
    await waits.wait()
    engine.worker._drives[run.id].fence()
    await asyncio.sleep(0.05)

    found = await engine.store.run(run.rid)
    assert found is not None
    assert found.status == Status.RUNNING
    assert await engine.store.entries(run.id, 0) == []
    assert engine.worker.running == 0


async def test_a_cancelled_handler_may_clean_up_in_peace(engine: Engine, registry: Registry) -> None:
    """It is told once, however often its worker looks whether somebody wants it cancelled."""
    waits, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(attempt: Attempt) -> Ended:
        waits.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()
        return Ended()

    registry.add(Handler("tidy", Mode.RETRY, tidy))
    await engine.start()
    run = (await engine.begin("tidy", b"")).run
    await waits.wait()
    await engine.control(run.rid, "cancel")
    while not cleaned.is_set():  # the look it takes each second, much more often
        engine.worker._rung()
        await asyncio.sleep(0.005)
        if (row := await engine.store.run(run.rid)) is not None and row.state.ended:
            break

    assert cleaned.is_set()
    assert (await engine.result(run.rid, timeout=10)).state is Status.CANCELLED


@pytest.mark.parametrize(
    ("topic", "told"), [("orders", "everstep dlq show {}"), (None, "everstep runs show {}")]
)
async def test_the_end_of_a_failed_run_is_told_with_the_command_to_type(
    engine: Engine,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
    topic: str | None,
    told: str,
) -> None:
    """Which command shows it, and in which trace it stands; the traceback only in dev."""

    async def fails(attempt: Attempt) -> Ended:
        raise ValueError("no such luck")

    registry.add(Handler("fails", Mode.RETRY, fails, retry=Retry(attempts=1)))
    await engine.start()
    begun = await engine.begin("fails", b"", topic=topic, trace="t-7")
    await engine.result(begun.run.rid, timeout=10)

    [line] = [r for r in caplog.records if "for good" in r.getMessage()]
    assert line.getMessage().endswith(told.format(begun.run.rid))
    assert vars(line)["everstep_fields"]["trace"] == "t-7"
    assert not line.exc_info


async def test_the_end_of_a_failed_run_has_its_traceback_in_dev(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """And a request with an Idempotency-Key says that the next one tries again, unless it may not."""
    errors = iter([ValueError("no such luck"), TerminalError("never")])

    async def fails(attempt: Attempt) -> Ended:
        raise next(errors)

    registry.add(Handler("fails", Mode.RETRY, fails))
    engine = Engine(SqliteStore(f"sqlite:///{tmp_path}/dev.db"), registry, Settings(dev=True))
    await engine.start()
    for rid in ("i_1", "i_2"):
        await engine.begin("fails", b"", rid=rid, topic="POST /orders")
        await engine.result(rid, timeout=10)
    await engine.stop()

    first, second = [r for r in caplog.records if "everstep runs show" in r.getMessage()]
    assert (
        "everstep runs show i_1; the next request with its Idempotency-Key tries again" in first.getMessage()
    )
    assert "everstep runs show i_2; its Idempotency-Key gets this answer" in second.getMessage()
    assert first.exc_info
    assert isinstance(first.exc_info[1], ValueError)
