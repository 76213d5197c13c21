"""Judging other workers: late rather than wrongly."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from everstep.engine.doorbell import Doorbell
from everstep.engine.peers import Peers
from everstep.engine.timers import StoreAlarm
from everstep.store.base import WorkerRef
from everstep.store.sqlite import SqliteStore
from tests.store.making import SECOND, ManualClock

pytestmark = pytest.mark.anyio

LEASE = 15.0


@pytest.fixture
async def store() -> AsyncIterator[SqliteStore]:
    store = SqliteStore("sqlite://")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def peers(store: SqliteStore, clock: ManualClock) -> Peers:
    return Peers(store, clock, Doorbell(), LEASE)


async def looks(peers: Peers, clock: ManualClock, me: WorkerRef, times: int) -> list[bool]:
    """What it found at each of so many looks, a second apart."""
    found = []
    for _ in range(times):
        found.append(await peers.observe(me.id))
        clock.skip(SECOND)
    return found


async def test_a_worker_whose_counter_stands_still_is_taken_over_once(
    store: SqliteStore, clock: ManualClock, peers: Peers
) -> None:
    """After a lease, and not before."""
    me, _ = await store.register("me", "", []), await store.register("hangs", "", [])

    found = await looks(peers, clock, me, 30)

    assert found.index(True) in (15, 16)
    assert found.count(True) == 1


async def test_a_worker_whose_counter_moves_lives(
    store: SqliteStore, clock: ManualClock, peers: Peers
) -> None:
    """However slowly it moves, within a lease."""
    me, other = await store.register("me", "", []), await store.register("slow", "", [])

    for _ in range(4):
        assert not any(await looks(peers, clock, me, 14))
        assert await store.beat(other)


async def test_who_stood_still_itself_judges_nobody(
    store: SqliteStore, clock: ManualClock, peers: Peers
) -> None:
    """All processes of a machine are suspended and go on: none of them declares the others dead."""
    me, other = await store.register("me", "", []), await store.register("suspended, too", "", [])
    await looks(peers, clock, me, 3)
    clock.skip(3600 * SECOND)

    assert not any(await looks(peers, clock, me, 10))
    assert await store.beat(other)


async def test_after_an_outage_everybody_has_a_lease_again(
    store: SqliteStore, clock: ManualClock, peers: Peers
) -> None:
    """Nobody could raise a counter while the store took no writes, so nobody is judged by it."""
    me, other = await store.register("me", "", []), await store.register("waits, too", "", [])
    assert not any(await looks(peers, clock, me, 14))
    peers.begin_anew()

    assert not any(await looks(peers, clock, me, 14))
    assert await store.beat(other)


async def test_those_who_left_are_forgotten(
    store: SqliteStore, clock: ManualClock, peers: Peers
) -> None:
    """A process that lives for months remembers only the workers there are."""
    me = await store.register("me", "", [])
    for _ in range(5):
        passing = await store.register("a command", "", [])
        await looks(peers, clock, me, 1)
        await store.retire(passing)
    await looks(peers, clock, me, 1)

    assert not peers._moved


async def test_an_alarm_that_was_set_again_can_still_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """One far off looks at the clock now and then; cancelled after that, it is gone."""
    monkeypatch.setattr("everstep.engine.timers.LONGEST", 0.001)
    clock, rung, looked = ManualClock(), list[int](), 0

    def now() -> int:
        nonlocal looked
        looked += 1
        return clock.now_us()

    alarm = StoreAlarm(clock.us + SECOND, lambda: rung.append(1), now)
    await _until(lambda: looked > 5)
    alarm.cancel()
    before = looked
    clock.skip(SECOND)
    await asyncio.sleep(0.01)

    assert (looked, rung) == (before, [])


async def test_an_alarm_rings_when_the_clock_of_the_store_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never early: the clock may be set back while it waits."""
    monkeypatch.setattr("everstep.engine.timers.LONGEST", 0.001)
    clock, rung = ManualClock(), list[int]()
    StoreAlarm(clock.us + SECOND, lambda: rung.append(1), clock.now_us)
    await asyncio.sleep(0.01)
    assert not rung
    clock.skip(SECOND)
    await _until(lambda: bool(rung))


async def _until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():  # noqa: ASYNC110  # a clock that moves when told rings no event
            await asyncio.sleep(0.001)
