"""The PostgreSQL store keeps what every store promises, and finds out what became of a lost commit."""

import asyncio
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from everstep.core.batch import APPLIED, Applied, Control, KvSet, KvUpdate, Refused, Unknown
from everstep.core.journal import RESULT
from everstep.errors import ConfigError, NotAStore, SchemaTooNew, StoreError, StoreUnavailable
from everstep.store.base import SCHEMA, Claim, WorkerRef
from everstep.store.postgres import PostgresStore
from tests.store.contract import StoreContract
from tests.store.making import YEAR, Execute, MakeStore, ManualClock, begin, entry, ok, outside, speak
from tests.store.proxy import Wire, wire_to

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def make_store(self, postgres_url: str, clock: ManualClock) -> MakeStore:
        return lambda: PostgresStore(postgres_url, clock=clock)

    @pytest.fixture
    def execute(self, postgres_url: str) -> Execute:
        return lambda sql: raw(postgres_url, sql)


async def raw(url: str, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    """SQL in the schema that a URL of ours names."""
    server, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(server, server_settings={"search_path": schema})
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


# ---- a connection that is lost


@pytest.fixture
async def lossy(postgres_url: str) -> AsyncIterator[tuple[Wire, PostgresStore, WorkerRef]]:
    """A store whose connections can be cut, and a worker of it."""
    async with wire_to(postgres_url) as (wire, url):
        store = PostgresStore(url)
        await store.open()
        worker = await store.register("w", "", ["h"])
        yield wire, store, worker
        wire.word = b""
        wire.closed = False
        repairs, _ = await store.sweep(YEAR)
        await store.close()
        assert repairs == 0


Lossy = tuple[Wire, PostgresStore, WorkerRef]


@pytest.mark.parametrize("delivered", [False, True], ids=["before it arrived", "after it was done"])
async def test_a_commit_whose_answer_is_lost_is_done_once(lossy: Lossy, delivered: bool) -> None:
    """Lost before COMMIT arrived it is done again; lost after, its outcomes are found out: never twice."""
    wire, store, worker = lossy
    increment = KvUpdate("g", "n", [{"type": "increment", "path": "", "by": 1}])
    for number in range(5):
        run = (await ok(store, begin(f"r{number}", claim=True), worker=worker))[0].run
        waiting = entry(1, None, seq=1, state=RESULT)
        wire.cut_at(b"COMMIT", delivered=delivered)
        batches = [speak(run, increment, entries=[waiting]), begin("r0", attach=False), begin(f"s{number}")]
        done = await store.commit(worker, batches, Claim(5, {"h": 5}))

        new = f"{number + 1}".encode()
        old = f"{number}".encode() if number else None
        assert done.outcomes[0] == Applied([(old, new)])
        assert isinstance(done.outcomes[1], Refused)
        assert [claimed.rid for claimed in done.claimed] == [f"s{number}"]
        assert waiting.value == b"[%b,%b]" % (old or b"null", new)
        assert await store.entries(run.id, 0) == [waiting]
    assert wire.cuts == 5
    row = await store.kv_get("g", "n")
    assert row is not None
    assert row.value == b"5"


@pytest.mark.parametrize("delivered", [False, True], ids=["before it arrived", "after it was done"])
async def test_a_group_of_entries_whose_answer_is_lost_is_found_out(lossy: Lossy, delivered: bool) -> None:
    """A group that is one statement has no COMMIT of its own, and is resolved just the same."""
    wire, store, worker = lossy
    begun = await ok(store, *(begin(f"r{n}", claim=True) for n in range(3)), worker=worker)
    runs = [result.run for result in begun]
    for number in range(5):
        wire.cut_at(b"light-%d" % number, delivered=delivered)
        batches = [speak(run, entries=[entry(number, b"light-%d" % number)]) for run in runs]
        batches.append(speak(runs[0], epoch=99))
        done = await store.commit(worker, batches)

        assert done.outcomes == [APPLIED] * 3 + [Refused("run_epoch", 1)]
    assert wire.cuts == 5
    assert [len(await store.entries(run.id, 0)) for run in runs] == [5, 5, 5]


@pytest.mark.parametrize("delivered", [False, True])
async def test_without_a_worker_a_lost_answer_is_unknown(lossy: Lossy, delivered: bool) -> None:
    """A client that has no row to look at says that it does not know."""
    wire, store, _ = lossy
    wire.cut_at(b"COMMIT", delivered=delivered)
    done = await store.commit(None, [begin("a"), begin("b")])

    assert [type(outcome) for outcome in done.outcomes] == [Unknown, Unknown]
    assert (await store.run("a") is not None) == delivered


async def test_a_connection_that_was_lost_in_between_is_opened_again(lossy: Lossy) -> None:
    """The next commit, read, heartbeat and lock find a new one; nothing is asked of the caller."""
    wire, store, worker = lossy
    for number in range(3):
        wire.cut_all()
        await ok(store, begin(f"r{number}"), worker=worker)
        wire.cut_all()
        assert await store.run(f"r{number}") is not None
        wire.cut_all()
        assert await store.beat(worker)


async def test_a_connection_lost_before_the_commit_writes_nothing_twice(lossy: Lossy) -> None:
    """Cut while it reads or writes, the group is done again from its beginning."""
    wire, store, worker = lossy
    increment = KvUpdate("g", "n", [{"type": "increment", "path": "", "by": 1}])
    for number, word in enumerate((b"BEGIN", b"needle")):
        await ok(store, outside(KvSet("g", "x", b"0")), worker=worker)
        wire.cut_at(word, delivered=False)
        await ok(store, outside(increment, KvSet("g", "x", b'"needle"')), worker=worker)
        row = await store.kv_get("g", "n")
        assert row is not None
        assert row.value == b"%d" % (number + 1)
    assert wire.cuts == 2


async def test_while_the_server_is_away_nothing_is_lost(lossy: Lossy) -> None:
    """Commits and reads say that the store is unavailable, and the same ones go through afterwards."""
    wire, store, worker = lossy
    wire.closed = True
    wire.cut_all()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.commit(worker, [begin("a")])
        with pytest.raises(StoreUnavailable):
            await store.run("a")
    wire.closed = False

    await ok(store, begin("a"), worker=worker)
    assert await store.run("a") is not None


async def test_a_commit_in_doubt_waits_for_the_server(lossy: Lossy) -> None:
    """Cut off at the worst moment and shut out for a while, it still finds out in the end."""
    wire, store, worker = lossy
    wire.closes = True
    wire.cut_at(b"COMMIT", delivered=True)
    commit = asyncio.create_task(store.commit(worker, [begin("a", attach=False)]))
    await wire.cut.wait()
    await asyncio.sleep(0.3)
    assert not commit.done()
    wire.closed = False
    done = await commit

    assert isinstance(done.outcomes[0], Applied)
    assert sum((await store.counts()).values()) == 1


async def test_a_backend_that_is_killed_does_not_matter(postgres_url: str, lossy: Lossy) -> None:
    """Whatever the server does to our sessions, between commits or amid them, each is applied once."""
    _, store, worker = lossy
    increment = KvUpdate("g", "n", [{"type": "increment", "path": "", "by": 1}])
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY($1::int[])"
    stop = asyncio.Event()

    async def kill() -> None:
        while not stop.is_set():
            await raw(postgres_url, end, [link.backend["pid"] for link in (store._main, store._side)])
            await asyncio.sleep(0.01)

    killer = asyncio.create_task(kill())
    applied = 0
    while applied < 40:
        try:
            await ok(store, outside(increment), worker=worker)
        except StoreUnavailable:
            continue
        applied += 1
    stop.set()
    await killer
    row = await store.kv_get("g", "n")

    assert row is not None
    assert row.value == b"40"


async def test_a_lost_lifeline_is_held_again(postgres_url: str, lossy: Lossy) -> None:
    """A worker whose lock was lost with a connection takes it again; if it could not, it would be dead."""
    wire, store, _ = lossy
    async with asyncio.timeout(10):
        observer = PostgresStore(postgres_url)
        await observer.open()
        heard = asyncio.Event()
        await store.listen(heard.set)
        wire.cut_all()
        await heard.wait()  # it is back, and looks what it has missed
        [row] = await observer.workers()
        assert not await observer.dead(row)
        heard.clear()
        await ok(observer, begin("a"))
        await heard.wait()
        await store.close()
        async with asyncio.timeout(5):
            while not await observer.dead(row):  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.01)
        await observer.close()


CHILD = """
import asyncio, sys
from everstep.store.base import Claim
from everstep.store.postgres import PostgresStore
async def main():
    store = PostgresStore(sys.argv[1])
    await store.open()
    me = await store.register("child", "", ["h"])
    done = await store.commit(me, [], Claim(5, {"h": 5}))
    print(len(done.claimed), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_the_lock_of_a_killed_process_is_free_at_once(postgres_url: str) -> None:
    """kill -9: others know within a moment, and take over what it held."""
    store = PostgresStore(postgres_url)
    await store.open()
    await ok(store, begin("a"), begin("b"))
    child = subprocess.Popen([sys.executable, "-c", CHILD, postgres_url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert await asyncio.to_thread(child.stdout.readline) == "2\n"
    [row] = await store.workers()
    assert not await store.dead(row)
    child.kill()
    child.communicate()
    async with asyncio.timeout(5):
        while not await store.dead(row):  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.01)

    assert await store.take_over(row) == 2
    await store.close()


async def test_a_group_of_entries_with_a_refusal_survives_any_cut(lossy: Lossy) -> None:
    """The refusals of such a group are looked up in a second transaction; losing that one loses nothing."""
    wire, store, worker = lossy
    [begun] = await ok(store, begin("a", claim=True), worker=worker)
    for number, delivered in enumerate((False, True)):
        wire.cut_at(b"COMMIT", delivered=delivered)
        batches = [speak(begun.run, entries=[entry(number)]), speak(begun.run, epoch=99, entries=[entry(7)])]
        done = await store.commit(worker, batches)

        assert done.outcomes == [APPLIED, Refused("run_epoch", 1)]
    assert wire.cuts == 2
    assert [e.pos for e in await store.entries(begun.run.id, 0)] == [0, 1]


# ---- telling others


async def test_others_hear_of_work_they_can_do(postgres_url: str) -> None:
    """A process that listens is told when something is ready, or asked, that was not taken at once."""
    store, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    await store.open()
    await other.open()
    worker = await store.register("w", "", ["h"])
    heard = asyncio.Event()
    own = asyncio.Event()
    await other.listen(heard.set)
    await store.listen(own.set)
    async with asyncio.timeout(10):
        await ok(store, begin("a"))
        await heard.wait()
        heard.clear()
        await ok(store, begin("b", claim=True), worker=worker)
        await ok(store, outside(Control("b", "cancel")))
        await heard.wait()
        heard.clear()
        done = await store.commit(worker, [begin("c")], Claim(5, {"h": 5}))
        assert len(done.claimed) == 2
        await ok(store, begin("d", delay=10**9))
        await asyncio.sleep(0.1)

    assert not heard.is_set()
    assert not own.is_set()
    await store.close()
    await other.close()


# ---- what is refused


async def test_a_schema_of_another_program_is_left_alone(postgres_url: str) -> None:
    """Tables that are not ours are not touched, whatever they are called."""
    for table in ("theirs (x int)", "fact (x int)"):
        await raw(postgres_url, f"CREATE TABLE {table}")
        store = PostgresStore(postgres_url)
        with pytest.raises(NotAStore, match="another program"):
            await store.open()
        tables = await raw(
            postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        )
        assert ("run",) not in tables


async def test_a_newer_schema_is_left_alone(postgres_url: str) -> None:
    """The error names both versions."""
    store = PostgresStore(postgres_url)
    await store.open()
    await store.close()
    await raw(postgres_url, "UPDATE fact SET value = 99 WHERE name = 'everstep'")
    with pytest.raises(SchemaTooNew) as caught:
        await store.open()

    assert (caught.value.found, caught.value.known) == (99, SCHEMA)


async def test_many_processes_make_one_schema(postgres_url: str) -> None:
    """Those that start at once on an empty database all open, and the tables are made once."""
    schema = f"t_{uuid.uuid4().hex[:8]}"
    url = postgres_url.partition("?schema=")[0] + f"?schema={schema}"
    stores = [PostgresStore(url) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await ok(stores[0], begin("a"))

    assert await stores[4].run("a") is not None
    for store in stores:
        await store.close()
    await raw(postgres_url, f"DROP SCHEMA {schema} CASCADE")


async def test_schemas_of_one_database_are_strangers(postgres_url: str) -> None:
    """Locks and channels are per database: another schema's worker 1 is not ours."""
    schema = f"t_{uuid.uuid4().hex[:8]}"
    ours = PostgresStore(postgres_url)
    theirs = PostgresStore(postgres_url.partition("?schema=")[0] + f"?schema={schema}")
    await ours.open()
    await theirs.open()
    await ours.register("w", "", [])
    heard = asyncio.Event()
    await theirs.listen(heard.set)
    me = await theirs.register("w", "", [])
    [row] = await ours.workers()
    assert row.id == me.id
    await theirs.retire(me)
    await ok(ours, begin("a"))
    await asyncio.sleep(0.05)

    assert not await ours.dead(row)
    assert not heard.is_set()
    assert await theirs.run("a") is None
    await ours.close()
    await theirs.close()
    await raw(postgres_url, f"DROP SCHEMA {schema} CASCADE")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: re.sub(r":\d+/", ":1/", url), "refused|Connect"),
        (lambda url: url.replace("/postgres?", "/nothing?"), "nothing"),
        (lambda url: url.replace("//postgres@", "//nobody:secret@"), "nobody"),
    ],
    ids=["no server", "no database", "no user"],
)
async def test_a_server_that_does_not_answer_is_said_so(
    postgres_url: str, change: Callable[[str], str], said: str
) -> None:
    """The error says where and why, and no password."""
    store = PostgresStore(change(postgres_url))
    with pytest.raises((StoreUnavailable, ConfigError), match=said) as caught:
        await store.open()

    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError):
        await store.commit(None, [begin("a")])


@pytest.mark.parametrize("url", ["postgresql+asyncpg://h/d", "http://h/d", "postgresql://h/d?schema="])
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    """With one that would do."""
    with pytest.raises(ConfigError, match="postgresql://user@host"):
        PostgresStore(url)


# ---- time


async def test_the_clock_is_the_servers(postgres_url: str) -> None:
    """Two hosts whose clocks differ agree on what is due, and none goes back."""
    store = PostgresStore(postgres_url)
    await store.open()
    before = store.now()
    [(theirs,)] = await raw(postgres_url, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    after = store.now()
    assert before - 200_000 <= theirs <= after + 200_000

    store._clock._ahead += 5_000_000
    late = store.now()
    worker = await store.register("w", "", [])
    await store.beat(worker)
    assert store.now() == late
    assert store._clock._ahead < 1_000_000
    await store.close()
