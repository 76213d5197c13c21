"""The SQLite store keeps what every store promises, on a file and in memory."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from everstep.core.batch import Batch, KvUpdate
from everstep.errors import ConfigError, NotAStore, SchemaTooNew, StoreError, StoreUnavailable
from everstep.store import turnstile
from everstep.store.base import BLOB, SCHEMA, Claim
from everstep.store.sqlite import SqliteStore
from tests.store.contract import StoreContract
from tests.store.making import YEAR, Execute, MakeStore, ManualClock, begin, ok

pytestmark = pytest.mark.anyio


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path, clock: ManualClock) -> MakeStore:
        return lambda: SqliteStore(f"sqlite:///{tmp_path}/runs.db", clock=clock)

    @pytest.fixture
    def execute(self, tmp_path: Path) -> Execute:
        async def execute(sql: str) -> list[tuple[Any, ...]]:
            db = sqlite3.connect(tmp_path / "runs.db")
            try:
                rows = db.execute(sql).fetchall()
                db.commit()
            finally:
                db.close()
            return rows

        return execute


class TestMemoryStore(StoreContract):
    shared = False

    @pytest.fixture
    def make_store(self, clock: ManualClock) -> MakeStore:
        return lambda: SqliteStore("sqlite://", clock=clock)

    @pytest.fixture
    def execute(self, store: SqliteStore) -> Execute:
        async def execute(sql: str) -> list[tuple[Any, ...]]:
            return await store._write(lambda db: db.execute(sql).fetchall())

        return execute


# ---- a file and its neighbours


def picture(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def refused(path: Path, kind: type[StoreError]) -> StoreError:
    """Opening fails with that kind of error, and nothing in the folder has changed."""
    before = picture(path.parent)
    store = SqliteStore(f"sqlite:///{path}")
    with pytest.raises(kind) as caught:
        await store.open()
    assert picture(path.parent) == before
    assert sorted(p.name for p in path.parent.iterdir()) == sorted({name.split("/")[0] for name in before})
    with pytest.raises(StoreError):
        await store.commit(None, [begin("a")])
    return caught.value


class Scratched(SqliteStore):
    """A store on a disk that once cannot be read when a large value is asked for."""

    scratched = False

    def _whole(self, db: sqlite3.Connection, value: bytes) -> bytes:
        if self.scratched and value[:1] == BLOB:
            self.scratched = False
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return super()._whole(db, value)


async def test_a_group_whose_answer_cannot_be_read_is_not_committed(tmp_path: Path) -> None:
    """Whoever is told that nothing was changed tries again: it happens once, and no claim is lost."""
    store = Scratched(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    worker = await store.register("w", "", ["h"])
    large = BLOB + (await store.put_blob("rid:r_1", b"1" * 100_000)).encode()
    update = KvUpdate("g", "n", [{"type": "increment"}])
    group = [begin("r_1", input=large), Batch(changes=[update])]

    store.scratched = True
    with pytest.raises(StoreUnavailable):
        await store.commit(worker, group, Claim(1, {"h": 1}))
    done = await store.commit(worker, group, Claim(1, {"h": 1}))

    assert [len(run.input) for run in done.claimed] == [100_000]
    row = await store.kv_get("g", "n")
    assert row is not None
    assert row.value == b"1"
    await store.close()


@pytest.mark.parametrize("wal", [False, True])
async def test_a_sqlite_file_of_another_program_is_left_alone(tmp_path: Path, wal: bool) -> None:
    """It is refused by its header: no table is added, no file appears beside it."""
    db = sqlite3.connect(tmp_path / "theirs.db")
    if wal:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    error = await refused(tmp_path / "theirs.db", NotAStore)

    assert "another program" in str(error)


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A text file, and one that only begins like a store."""
    (tmp_path / "notes.txt").write_text("buy milk")
    assert "no SQLite file" in str(await refused(tmp_path / "notes.txt", NotAStore))
    (tmp_path / "short.db").write_bytes(b"SQLite format 3\x00")
    assert isinstance(await refused(tmp_path / "short.db", NotAStore), NotAStore)


async def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """The error says that a store is one file."""
    (tmp_path / "data").mkdir()
    store = SqliteStore(f"sqlite:///{tmp_path}/data")
    with pytest.raises(NotAStore, match="it is a folder"):
        await store.open()


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """The store does not make folders; it says which one to make."""
    store = SqliteStore(f"sqlite:///{tmp_path}/no/where/runs.db")
    with pytest.raises(StoreUnavailable, match="no/where does not exist"):
        await store.open()
    assert list(tmp_path.iterdir()) == []


async def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    """The error names both versions of the schema."""
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    await store.close()
    db = sqlite3.connect(tmp_path / "runs.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    (tmp_path / "runs.db.locks" / "keep").touch()
    error = await refused(tmp_path / "runs.db", SchemaTooNew)

    assert isinstance(error, SchemaTooNew)
    assert (error.found, error.known) == (99, SCHEMA)


@pytest.mark.parametrize("damage", [b"\xff" * 3000, b""])
async def test_a_damaged_file_is_not_written(tmp_path: Path, damage: bytes) -> None:
    """A store whose pages are garbage, or gone, is refused and not made anew."""
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    await store.close()
    data = (tmp_path / "runs.db").read_bytes()
    (tmp_path / "runs.db").write_bytes(data[:100] + damage)
    again = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    with pytest.raises(StoreError):
        await again.open()

    assert (tmp_path / "runs.db").read_bytes()[:100] == data[:100]


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that somebody who is not root can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read and write all")
async def test_a_file_or_folder_we_may_not_use_is_said_so(shelf: Path) -> None:
    """Unreadable, read-only, or in a read-only folder: each says what is wrong, and changes nothing."""
    for name in ("closed.db", "fixed.db"):
        store = SqliteStore(f"sqlite:///{shelf}/{name}")
        await store.open()
        await store.close()
    (shelf / "closed.db").chmod(0o000)
    (shelf / "fixed.db").chmod(0o444)
    shelf.chmod(0o555)
    before = picture(shelf)
    for name in ("closed.db", "fixed.db", "new.db"):
        said = as_nobody(
            f"""
            import asyncio
            from everstep.errors import StoreUnavailable
            from everstep.store.sqlite import SqliteStore
            try:
                asyncio.run(SqliteStore("sqlite:///{shelf}/{name}").open())
            except StoreUnavailable as error:
                print(error)
            """
        )
        assert f"{shelf}/{name}" in said
        assert re.search("(?i)permission denied|readonly|unable to open", said), said
    shelf.chmod(0o755)

    assert picture(shelf) == before


def as_nobody(program: str) -> str:
    """What a program prints that is run by somebody who is not root."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_takes_nothing_and_loses_nothing(small_disk: Path) -> None:
    """Commits are refused as a whole while the disk is full, reads go on, and then commits do too."""
    store = SqliteStore(f"sqlite:///{small_disk}/runs.db")
    await store.open()
    worker = await store.register("w", "", ["h"])
    kept = 0
    with pytest.raises(StoreUnavailable, match=r"(?i)full|disk"):
        for number in range(1000):
            group = [begin(f"r{number}-{n}", input=b"x" * 20_000) for n in range(3)]
            await store.commit(worker, group, Claim(3, {"h": 3}))
            kept += 3
    counts = await store.counts()
    assert sum(counts.values()) == kept
    with pytest.raises(StoreUnavailable):
        await store.commit(worker, [begin(f"s-{n}", input=b"x" * 20_000) for n in range(100)])
    assert await store.counts() == counts
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)

    await ok(store, *(begin(f"s-{n}", input=b"x" * 20_000) for n in range(3)), worker=worker)
    assert sum((await store.counts()).values()) == kept + 3
    assert (await store.sweep(YEAR))[0] == 0
    await store.close()


# ---- several processes

CHILD = """
import asyncio, os, signal, sys
from everstep.clock import system
from everstep.store.sqlite import SqliteStore
from tests.store.making import begin
async def main(path, name, seconds, die):
    store = SqliteStore("sqlite:///" + path)
    await store.open()
    me = await store.register(name, "", ["h"])
    print("ready", flush=True)
    sys.stdin.readline()
    end = system.monotonic() + float(seconds)
    count = 0
    while system.monotonic() < end:
        await store.commit(me, [begin(f"{name}-{count}-{n}") for n in range(20)])
        count += 1
        if die:
            print(count, flush=True)
    print("done", count, flush=True)
    await store.retire(me)
    await store.close()
asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "die"))
"""


def child(path: Path, name: str, seconds: float, *, die: bool = False) -> subprocess.Popen[str]:
    """Another process that commits to the same file for a while, once it is told to."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), name, str(seconds), "die" if die else "live"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


async def test_two_busy_processes_share_a_file_fairly(tmp_path: Path) -> None:
    """Neither starves: both commit all the time, in numbers of the same size."""
    children = [child(tmp_path / "runs.db", name, 3) for name in ("a", "b")]
    assert [line(c) for c in children] == ["ready", "ready"]
    for process in children:
        go(process)
    counts = [int(line(c).split()[1]) for c in children]
    for process in children:
        process.communicate(timeout=30)
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    kept = sum((await store.counts()).values())
    await store.close()

    assert min(counts) > 10
    assert max(counts) < 3 * min(counts), counts
    assert kept == 20 * sum(counts)


async def test_the_file_of_a_killed_process_opens_whole(tmp_path: Path) -> None:
    """All that was acknowledged is there, every group whole, and its worker is dead at once."""
    process = child(tmp_path / "runs.db", "a", 60, die=True)
    assert line(process) == "ready"
    go(process)
    acknowledged = 0
    while acknowledged < 30:
        acknowledged = int(line(process))
    process.kill()
    assert process.stdout is not None
    rest = process.stdout.read()  # what communicate() says leaves out what readline had taken in
    process.communicate()
    acknowledged = max([acknowledged, *map(int, re.findall(r"(?m)^\d+$", rest))])
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    kept = sum((await store.counts()).values())
    [row] = await store.workers()
    dead = await store.dead(row)
    repairs, _ = await store.sweep(YEAR)
    await store.close()

    assert kept in (20 * acknowledged, 20 * (acknowledged + 1))
    assert dead
    assert repairs == 0


async def test_a_suspended_process_does_not_hang_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it keeps the right to write, commits fail as unavailable; afterwards they go on."""
    monkeypatch.setattr(turnstile, "PATIENCE", 0.2)
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    holder = turnstile.Turnstile(tmp_path / "runs.db.locks")
    holder.enter()
    with pytest.raises(StoreUnavailable, match="is one suspended"):
        await store.commit(None, [begin("a")])
    holder.leave()
    holder.close()
    await ok(store, begin("b"))

    assert await store.run("a") is None
    await store.close()


async def test_a_store_cut_short_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    """A crash between the first page and the end of the schema leaves a file that opens as new."""
    program = """
        import os, sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        for n in range(300):
            db.execute(f"CREATE TABLE t{n} (x)")
        os._exit(9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "runs.db")])
    assert done.returncode == 9
    assert (tmp_path / "runs.db-journal").exists()
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    await ok(store, begin("a"))

    assert await store.run("a") is not None
    await store.close()


async def test_a_store_can_be_closed_and_opened_again(tmp_path: Path) -> None:
    """Closing twice is nothing; what was kept is there."""
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    await ok(store, begin("a"))
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await store.run("a")
    await store.open()

    assert await store.run("a") is not None
    await store.close()


@pytest.mark.parametrize(
    "url",
    ["sqlite:/runs.db", "sqlite://host/runs.db", "sqlite:///", "sqlite:///a.db?x=1", "postgresql://x/y"],
)
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    """With the three ways to write it."""
    with pytest.raises(ConfigError, match=r"sqlite:///everstep\.db"):
        SqliteStore(url)
