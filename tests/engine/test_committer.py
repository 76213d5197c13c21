"""Group commit: who travels together, who hears what, and what happens when the store cannot write."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from everstep.core.batch import (
    APPLIED,
    Applied,
    Batch,
    Begin,
    Finish,
    KvSet,
    KvUpdate,
    Mode,
    Outcome,
    Publish,
    Refused,
    Run,
)
from everstep.core.journal import RESULT
from everstep.engine import committer as committers
from everstep.engine.committer import BLOB_BYTES, GROUP_BYTES, Committer
from everstep.errors import Fenced, StoreUnavailable
from everstep.store.base import Claim, Committed, Store, Subscription, WorkerRef
from everstep.store.postgres import PostgresStore
from everstep.store.sqlite import SqliteStore
from tests.store.making import begin, entry, known, outside, publish, speak

pytestmark = pytest.mark.anyio


class Owner:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.lost = ""
        self.claim: Claim | None = None
        self.claimed: list[str] = []
        self.poison: list[Batch] = []
        self.heard: list[str] = []

    def wanted(self, batches: Sequence[Batch]) -> Claim | None:
        claim, self.claim = self.claim, None
        return claim

    def committed(self, done: Committed, wanted: Claim | None) -> None:
        self.claimed += [run.rid for run in done.claimed]

    def poisoned(self, batch: Batch, error: Exception) -> None:
        self.poison.append(batch)

    def store_lost(self, error: StoreUnavailable) -> None:
        self.lost = str(error)
        self.heard.append("lost")

    def store_back(self) -> None:
        self.lost = ""
        self.heard.append("back")


class Watched:
    """A real store that counts its groups, and can be away for a while."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.groups: list[int] = []
        self.away = 0  # how many more commits find nobody
        self.there = asyncio.Event()
        self.there.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        await self.there.wait()
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the disk is full")
        self.groups.append(len(batches))
        return await self._store.commit(worker, batches, claim)


class Desk:
    """A committer on a store, with a worker and one run that is running."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.watched = Watched(store)
        self.owner = Owner()
        self.committer = Committer(self.watched, self.owner)  # type: ignore[arg-type]  # by __getattr__
        self.run: Run
        self.worker: WorkerRef

    async def open(self) -> None:
        await self.store.open()
        self.worker = await self.store.register("w", "", ["h"])
        self.committer.worker = self.worker
        self.committer.start()
        await self.commit(begin("run", claim=True))
        self.run = await known(self.store, "run")
        self.watched.groups.clear()

    async def commit(self, *batches: Batch) -> list[Outcome]:
        """Submit at the same moment, wait for all."""
        return list(await asyncio.gather(*(self.committer.commit(batch) for batch in batches)))


@asynccontextmanager
async def desk_of(store: Store) -> AsyncIterator[Desk]:
    desk = Desk(store)
    await desk.open()
    yield desk
    desk.watched.there.set()
    desk.watched.away = 0
    await desk.committer.stop()
    assert (await store.sweep(10**18))[0] == 0
    await store.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(SqliteStore(f"sqlite:///{tmp_path}/runs.db")) as desk:
        yield desk


@pytest.fixture(params=["sqlite", "postgres"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "postgres":
        return PostgresStore(request.getfixturevalue("postgres_url"))
    return SqliteStore(f"sqlite:///{tmp_path}/runs.db")


@pytest.fixture
async def any_desk(any_store: Store) -> AsyncIterator[Desk]:
    async with desk_of(any_store) as desk:
        yield desk


# ---- together


async def test_what_arrives_during_a_commit_travels_with_the_next(desk: Desk) -> None:
    """A hundred batches that come at one moment need two transactions, not a hundred."""
    desk.watched.there.clear()
    waiting = asyncio.create_task(desk.commit(*(begin(f"a{n}") for n in range(100))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = asyncio.create_task(desk.commit(*(begin(f"b{n}") for n in range(100))))
    await asyncio.sleep(0.01)
    desk.watched.there.set()
    outcomes = await waiting + await late

    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    assert desk.watched.groups == [100, 100]


async def test_claims_travel_with_a_commit(desk: Desk) -> None:
    """What a group makes ready it can claim; and with nothing to write a kick looks for work."""
    desk.owner.claim = Claim(1, {"h": 1})
    await desk.commit(begin("a"), begin("b"))
    assert desk.owner.claimed == ["a"]
    desk.owner.claim = Claim(1, {"h": 1})
    desk.committer.kick()
    async with asyncio.timeout(5):
        while len(desk.owner.claimed) < 2:  # noqa: ASYNC110  # the owner is told, nobody else
            await asyncio.sleep(0.001)

    assert desk.owner.claimed == ["a", "b"]
    assert desk.watched.groups == [2, 0]


async def test_groups_are_capped(desk: Desk) -> None:
    """Values of many batches do not grow into one endless transaction."""
    size = GROUP_BYTES // 4 + 1
    batches = [begin(f"a{n}") for n in range(10)]
    for batch in batches:
        batch.size = BLOB_BYTES if batch is batches[0] else size
    outcomes = await desk.commit(*batches)

    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    assert desk.watched.groups == [5, 4, 1]


async def test_outcomes_are_heard_in_the_order_of_submission(desk: Desk) -> None:
    """Also over several groups; the journal of a run has its entries in that order."""
    heard: list[int] = []
    done = asyncio.Event()

    def hear(number: int) -> None:
        heard.append(number)
        if number == 299:
            done.set()

    for number in range(300):
        batch = speak(desk.run, KvSet("g", "last", b"%d" % number), entries=[entry(number, seq=number)])
        batch.size = 50_000
        desk.committer.submit(batch, lambda _, number=number: hear(number))  # type: ignore[misc]
        if number % 100 == 0:
            await asyncio.sleep(0)
    await done.wait()
    row = await desk.store.kv_get("g", "last")

    assert heard == list(range(300))
    assert row is not None
    assert row.value == b"299"
    assert [e.pos for e in await desk.store.entries(desk.run.id, 0)] == list(range(300))


async def test_a_callback_that_fails_silences_nobody(desk: Desk) -> None:
    """A defect in one that listens is logged; the others of its group hear their outcomes."""

    def fail(outcome: Outcome) -> None:
        raise RuntimeError("boom")

    desk.committer.submit(begin("a"), fail)
    [outcome] = await desk.commit(begin("b"))

    assert isinstance(outcome, Applied)


# ---- fates


async def test_refused_and_applied_travel_together(desk: Desk) -> None:
    """Each batch hears its own outcome, whatever becomes of the others."""
    outcomes = await desk.commit(
        begin("a", attach=False),
        begin("a", attach=False),
        speak(desk.run, entries=[entry(1)]),
        speak(desk.run, entries=[entry(2)], epoch=99),
        outside(KvUpdate("g", "n", [{"type": "increment", "path": "", "by": 1}])),
    )

    assert [type(outcome) for outcome in outcomes] == [Applied, Refused, Applied, Refused, Applied]
    assert len(desk.watched.groups) == 1


@pytest.mark.parametrize("place", [0, 7, 19])
async def test_a_poison_batch_is_found_and_alone_refused(any_desk: Desk, place: int) -> None:
    """A group that cannot be written is halved until the one to blame is alone; all others are written."""
    desk = any_desk
    batches = [begin(f"a{n}") for n in range(20)]
    batches[place] = speak(desk.run, KvSet("g", "k", b"1"), entries=[entry(1, lane="\ud800")])
    outcomes = await desk.commit(*batches)

    refused = outcomes.pop(place)
    assert isinstance(refused, Refused)
    assert refused.why == "poison"
    assert isinstance(refused.current, Exception)
    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    assert desk.owner.poison == [batches[place]]
    assert sum((await desk.store.counts()).values()) == 20
    assert await desk.store.kv_get("g", "k") is None


async def test_poison_of_the_database_is_found_too(any_desk: Desk) -> None:
    """Also what only the server refuses: a message id that was used before."""
    desk = any_desk
    await desk.store.subscribe([Subscription("t", "h")], ["h"])
    await desk.commit(publish("m_1"))
    outcomes = await desk.commit(begin("a"), publish("m_1", data=b"again"), begin("b"), publish("m_2"))

    assert [type(outcome) for outcome in outcomes] == [Applied, Refused, Applied, Applied]
    assert (await known(desk.store, "r_1")).input == b"1"


async def test_halving_keeps_the_order_of_a_run(desk: Desk) -> None:
    """Around a poison batch the others are still written one after the other, as they came."""
    batches = []
    for number in range(15):
        lane = "\ud800" if number == 8 else "0"
        batches.append(
            speak(
                desk.run, KvSet("g", "last", b"%d" % number), entries=[entry(number, seq=number, lane=lane)]
            )
        )
    outcomes = await desk.commit(*batches)
    row = await desk.store.kv_get("g", "last")

    assert [isinstance(outcome, Applied) for outcome in outcomes] == [n != 8 for n in range(15)]
    assert row is not None
    assert row.value == b"14"
    assert [e.pos for e in await desk.store.entries(desk.run.id, 0)] == [n for n in range(15) if n != 8]


async def test_a_worker_declared_dead_writes_nothing_of_its_runs(desk: Desk) -> None:
    """Its turns hear so; what somebody outside asked goes through once the process has entered anew."""
    [row] = await desk.store.workers()
    await desk.store.take_over(row)
    turn = asyncio.create_task(desk.committer.commit(speak(desk.run, entries=[entry(1)])))
    asked = asyncio.create_task(desk.committer.commit(begin("asked")))
    outcome = await turn
    assert isinstance(outcome, Refused)
    assert outcome.why == "worker_epoch"
    desk.committer.worker = await desk.store.register("again", "", ["h"])

    assert isinstance(await asked, Applied)
    assert await desk.store.entries(desk.run.id, 0) == []


# ---- a store that is away


async def test_a_lost_store_is_waited_for(desk: Desk) -> None:
    """While it takes no writes a turn's batches wait in their order; then they go through, once."""
    desk.watched.away = 3
    outcomes = await desk.commit(*(speak(desk.run, entries=[entry(n, seq=n)]) for n in range(5)))

    assert outcomes == [APPLIED] * 5
    assert desk.owner.heard[0] == "lost"
    assert desk.owner.heard[-1] == "back"
    assert [e.pos for e in await desk.store.entries(desk.run.id, 0)] == list(range(5))


async def test_nobody_outside_waits_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is told that the store is away, a turn goes on waiting; nothing of the request is written."""
    monkeypatch.setattr(committers, "PATIENCE", 0.05)
    desk.owner.store_lost = desk.committer.store_lost  # type: ignore[method-assign]
    desk.owner.store_back = desk.committer.store_back  # type: ignore[method-assign]
    desk.watched.away = 1_000_000
    turn = asyncio.create_task(desk.committer.commit(speak(desk.run, entries=[entry(1)])))
    asked = await desk.committer.commit(begin("asked"))
    later = await desk.committer.commit(begin("later"))
    for outcome in (asked, later):
        assert isinstance(outcome, Refused)
        assert outcome.why == "unavailable"
        assert isinstance(outcome.current, StoreUnavailable)
    assert not turn.done()
    desk.owner.lost = "away"
    desk.watched.away = 0

    assert await turn == APPLIED
    assert isinstance(await desk.committer.commit(begin("now")), Applied)
    assert await desk.store.run("asked") is None
    assert await desk.store.run("later") is None


async def test_results_are_those_of_the_commit_that_went_through(desk: Desk) -> None:
    """After a store was away the entries hold what was really found."""
    desk.watched.away = 2
    waiting = entry(1, None, seq=1, state=RESULT)
    commit = asyncio.create_task(
        desk.committer.commit(speak(desk.run, KvSet("g", "k", b"2"), entries=[waiting]))
    )
    await asyncio.sleep(0.01)
    await desk.store.commit(None, [outside(KvSet("g", "k", b"1"))])
    outcome = await commit

    assert outcome == Applied([b"1"])
    assert waiting.value == b"1"


# ---- large values


async def test_large_values_travel_outside_the_commit(any_desk: Desk) -> None:
    """Above 64 KiB a value is kept apart; everybody reads it whole, and its maker still holds it itself."""
    desk = any_desk
    await desk.store.subscribe([Subscription("t", "h")], ["h"])
    data = b'"' + b"x" * BLOB_BYTES + b'"'
    kept = entry(1, data, seq=1)
    batches = [
        speak(desk.run, entries=[kept, entry(2, b"3", seq=2)]),
        begin("large", input=data),
        publish("m_1", data=data),
        speak(desk.run, Finish("finish", output=data)),
    ]
    for batch in batches:
        batch.size = len(data)
    outcomes = await desk.commit(*batches)

    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    assert kept.value == data
    assert [e.value for e in await desk.store.entries(desk.run.id, 0)] == [data, b"3"]
    assert (await known(desk.store, "large")).input == data
    assert (await known(desk.store, "r_1")).input == data
    assert (await known(desk.store, "run")).output == data


async def test_values_of_64_kib_stay_in_their_rows(desk: Desk) -> None:
    """The limit is what is above it."""
    batch = outside(Begin("exact", "h", Mode.REPLAY, b"x" * BLOB_BYTES))
    batch.size = BLOB_BYTES + 100
    await desk.commit(batch)
    change = batch.changes[0]

    assert isinstance(change, Begin)
    assert len(change.input) == BLOB_BYTES


async def test_what_is_sent_again_is_not_kept_apart_twice(desk: Desk) -> None:
    """A large message in a group that is halved keeps the one value it has."""
    data = b"x" * (BLOB_BYTES + 1)
    large = outside(Publish("m_1", "t", data))
    large.size = len(data)
    poison = speak(desk.run, entries=[entry(1, lane="\ud800")])
    outcomes = await desk.commit(large, poison, begin("a"))

    assert [type(outcome) for outcome in outcomes] == [Applied, Refused, Applied]
    assert isinstance(desk.store, SqliteStore)
    blobs = await desk.store._read(lambda db: db.execute("SELECT count(*) FROM blob").fetchone())
    assert blobs == (1,)


# ---- the end


async def test_what_was_submitted_is_committed_before_the_end(desk: Desk) -> None:
    """Stopping commits what is there; after that nothing is taken any more."""
    commits = asyncio.gather(*(desk.committer.commit(begin(f"a{n}")) for n in range(50)))
    await asyncio.sleep(0)
    await desk.committer.stop()
    outcomes = await commits

    assert all(isinstance(outcome, Applied) for outcome in outcomes)
    with pytest.raises(Fenced):
        desk.committer.submit(begin("late"), lambda outcome: None)
