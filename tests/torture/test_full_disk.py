"""A disk that is full, a PostgreSQL that is gone: said in words, survived, and nothing lost or doubled."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from scripts import postgres
from tests.acceptance.project import Project, Server, eventually, project_in

SEND = """
    config = {"name": "Send", "triggers": [{"type": "http", "method": "POST", "path": "/send"}]}


    async def handler(request, ctx):
        await ctx.enqueue({"topic": "work", "data": request.body})
        return {"status": 202}
"""
WORK = """
    from ledger import note

    config = {"name": "Work", "triggers": [{"type": "queue", "topic": "work"}]}


    async def count(n):
        note("called", n)
        return n


    async def handler(message, ctx):
        n = await ctx.run(count, message["n"])
        await ctx.state.update("count", "work", [{"type": "increment", "path": "n", "by": 1}])
        note("ended", n)
"""
PADDING = "x" * 3_000


class Sender:
    """Sends messages, and knows which of them were accepted."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._n = 0
        self.accepted: list[int] = []
        self.codes: list[int] = []

    def send(self) -> int:
        """Send one; the status it was answered with."""
        n = self._n
        self._n += 1
        answer = self._server.http.post("/send", json={"n": n, "padding": PADDING})
        self.codes.append(answer.status_code)
        assert answer.status_code in (202, 503), answer.text
        if answer.status_code == 202:
            self.accepted.append(n)
        else:
            assert "error" in answer.json()
            assert int(answer.headers["retry-after"]) > 0
        return answer.status_code

    def until(self, status: int, *, timeout: float = 60) -> None:
        """Send until one is answered like this."""
        end = time.monotonic() + timeout
        while self.send() != status:
            assert time.monotonic() < end, f"never answered {status}: {self.codes}"


def code(server: Server, path: str) -> int:
    return httpx.get(f"{server.url}{path}", trust_env=False, timeout=10).status_code


def hold(project: Project, sender: Sender) -> None:
    """Every message that was accepted was handled, once; none that was refused."""
    hoped = f"{len(sender.accepted)} messages are handled"

    def ended() -> list[int]:
        return [int(line.split()[1]) for line in project.ledger() if line.startswith("ended")]

    eventually(lambda: len(ended()) >= len(sender.accepted), hoped)
    eventually(lambda: not _unfinished(project), "nothing is left to do")

    assert sorted(ended()) == sorted(sender.accepted)
    assert project.cli("state", "get", "count", "work") == {"n": len(sender.accepted)}
    called = [line for line in project.ledger() if line.startswith("called")]
    assert len(called) == len(sender.accepted), "a function was called again although nobody was killed"
    statuses = {run["status"] for run in project.run("runs", "list", "--json", "--limit", "1000").lines}
    assert statuses == {"done"}


def _unfinished(project: Project) -> list[object]:
    runs = project.run("runs", "list", "--json", "--limit", "1000").lines
    return [run for run in runs if run["status"] != "done"]


# ---- a full disk


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own with so much room, where we may mount one."""
    folder.mkdir()
    size = f"size={megabytes}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs the right to mount one (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return ballast


@pytest.mark.timeout(240)
def test_a_full_disk(tmp_path: Path) -> None:
    """The server lives, says that it is not ready, refuses, and goes on by itself when there is room."""
    with (
        small_disk(tmp_path / "disk", 12) as disk,
        project_in(tmp_path, store=f"sqlite:///{disk}/runs.db") as project,
    ):
        project.write("src/send_step.py", SEND)
        project.write("src/work_step.py", WORK)
        server = project.serve()
        sender = Sender(server)
        for _ in range(20):
            assert sender.send() == 202

        ballast = fill(disk)
        sender.until(503)
        assert (code(server, "/health"), code(server, "/ready")) == (200, 503)
        assert sender.send() == 503
        assert "full" in server.http.get("/ready").json()["reason"]

        ballast.unlink()
        eventually(lambda: code(server, "/ready") == 200, "it is ready again by itself")
        for _ in range(20):
            assert sender.send() == 202
        hold(project, sender)

        server.kill9()
        project.serve()
        hold(project, sender)


@pytest.mark.timeout(240)
def test_a_disk_that_fills_up_while_idle(tmp_path: Path) -> None:
    """With nothing to write but the heartbeat, it still notices, both ways."""
    with (
        small_disk(tmp_path / "disk", 8) as disk,
        project_in(tmp_path, store=f"sqlite:///{disk}/runs.db") as project,
    ):
        project.write("src/send_step.py", SEND)
        project.write("src/work_step.py", WORK)
        server = project.serve(env={"EVERSTEP_LEASE": "1s"})
        sender = Sender(server)
        sender.send()
        hold(project, sender)

        ballast = fill(disk)
        eventually(lambda: code(server, "/ready") == 503, "it is not ready")
        ballast.unlink()
        eventually(lambda: code(server, "/ready") == 200, "it is ready again")

        assert sender.send() == 202
        hold(project, sender)


# ---- a lost PostgreSQL


class Cluster:
    """A PostgreSQL of the test's own, which can be stopped as a power cut stops it, and started again."""

    def __init__(self, folder: Path) -> None:
        binaries = postgres.find_binaries()
        if binaries is None:
            pytest.skip("no PostgreSQL server is installed here")
        self._binaries = binaries
        self._folder = folder
        folder.mkdir(mode=0o755)
        for parent in folder.parents:
            if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        owner = postgres.unprivileged_user()
        if owner:
            subprocess.run(["chown", owner, str(folder)], check=True)
        self._who: dict[str, object] = {"user": owner, "extra_groups": []} if owner else {}
        self._port = postgres.free_port()
        flags = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        self._call("initdb", "-D", f"{folder}/data", *flags)
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def _call(self, program: str, *args: str) -> None:
        done = subprocess.run(  # type: ignore[call-overload]
            [str(self._binaries / program), *args],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **self._who,
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        log = f"{self._folder}/log"
        self._call("pg_ctl", "-D", f"{self._folder}/data", "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop it at once, without tidying up."""
        self._call("pg_ctl", "-D", f"{self._folder}/data", "-m", "immediate", "-w", "stop")

    def terminate_backends(self) -> None:
        """Cut every connection but our own."""

        async def cut() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            finally:
                await connection.close()

        asyncio.run(cut())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "pg")
    yield cluster
    cluster.stop()


@contextmanager
def on(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Project, Server, Sender]]:
    with project_in(tmp_path, store=cluster.url) as project:
        project.write("src/send_step.py", SEND)
        project.write("src/work_step.py", WORK)
        server = project.serve()
        yield project, server, Sender(server)


@pytest.mark.timeout(240)
def test_a_postgres_that_is_stopped_at_once_and_started_again(cluster: Cluster, tmp_path: Path) -> None:
    """As with the full disk: it says so, refuses, and goes on by itself."""
    with on(cluster, tmp_path) as (project, server, sender):
        for _ in range(20):
            assert sender.send() == 202

        cluster.stop()
        sender.until(503)
        assert (code(server, "/health"), code(server, "/ready")) == (200, 503)

        cluster.start()
        eventually(lambda: code(server, "/ready") == 200, "it is ready again by itself")
        for _ in range(20):
            assert sender.send() == 202
        hold(project, sender)


@pytest.mark.timeout(240)
def test_connections_that_are_cut_in_the_middle_of_everything(cluster: Cluster, tmp_path: Path) -> None:
    """Whether a commit was cut before or after it counted is found out: no message twice, none lost."""
    with on(cluster, tmp_path) as (project, server, sender):
        cuts: list[Callable[[], None]] = [cluster.terminate_backends] * 5
        for cut in cuts:
            for _ in range(10):
                sender.send()
            cut()
            sender.until(202)
        eventually(lambda: code(server, "/ready") == 200, "it is ready")
        assert len(sender.accepted) >= 45
        hold(project, sender)
