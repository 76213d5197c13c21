"""A small project in a folder, driven from outside as a user drives it.

`Project` writes Steps, starts the real `everstep dev` and `everstep start` as
processes in groups of their own, kills them in all the ways there are, speaks
to them over HTTP, and asks the real command line.  Nothing here sleeps to wait:
everything waits for a condition, and fails with what the processes printed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")
PATIENCE = 30.0  # seconds before a condition is given up; generous, for machines under load
_URL = re.compile(r"http://(127\.0\.0\.1|\[::1\]):(\d+)")

# For Steps that tell the test what they did, and wait until it lets them go on:
# `from ledger import note, released`.
LEDGER = """
    import asyncio, os
    from pathlib import Path

    FOLDER = Path(os.environ["LEDGER"])


    def note(*words):
        '''Append one line to a file; whole lines only, also from several processes.'''
        file = os.open(FOLDER / "ledger.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (" ".join(map(str, words)) + "\\n").encode())
        os.close(file)


    async def released(name):
        '''Wait until the test says `project.release(name)`.'''
        while not (FOLDER / f"{name}.released").exists():
            await asyncio.sleep(0.01)
"""


def eventually(
    condition: Callable[[], T], what: str = "", *, timeout: float = PATIENCE, every: float = 0.02
) -> T:
    """
    Ask until the answer is true, and return it.

    Raises:
        AssertionError: It was not within *timeout* seconds; says what was hoped for and the last answer.
    """
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            hoped = what or repr(condition)
            raise AssertionError(f"not within {timeout:g} s: {hoped}; the last answer was {answer!r}")
        time.sleep(every)


def _processes() -> Iterator[tuple[int, str]]:
    """The process group and state of every process of this machine."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text("utf-8", "replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(fields[2]), fields[0]


@dataclass(frozen=True)
class Ran:
    """How one command ended."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON: one document, or a list of those it printed one a line."""
        try:
            return json.loads(self.out)
        except ValueError:
            return self.lines

    @property
    def lines(self) -> list[Any]:
        """One document for each line it printed."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]

    @property
    def output(self) -> str:
        """All it printed."""
        return self.out + self.err

    def __str__(self) -> str:
        return f"everstep {' '.join(self.args)} -> {self.code}\n{self.out}{self.err}"


class Server:
    """One `everstep dev` or `everstep start`, in a process group of its own."""

    def __init__(self, project: "Project", process: "subprocess.Popen[bytes]", name: str) -> None:
        self.project = project
        self.process = process
        self._out = project.logs / f"{name}.out"
        self._err = project.logs / f"{name}.err"
        self._clients: list[httpx.Client] = []

    # ---- what it printed

    @property
    def out(self) -> str:
        """All of its standard output so far."""
        return self._out.read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        """All of its standard error so far."""
        return self._err.read_text("utf-8", "replace")

    @property
    def output(self) -> str:
        """Both."""
        return self.out + self.err

    def wait_for(self, text: str, *, count: int = 1, timeout: float = PATIENCE) -> str:
        """Wait until it printed a line with *text* in it (*count* of them), and return the last such line."""

        def look() -> list[str]:
            found = [line for line in self.output.splitlines() if text in line]
            if len(found) < count and self.exited is not None:
                raise AssertionError(f"it ended with {self.exited}, without {text!r}:\n{self.output}")
            return found if len(found) >= count else []

        try:
            return eventually(look, f"a line with {text!r}", timeout=timeout)[-1]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    # ---- speaking to it

    @property
    def port(self) -> int:
        """The port it says it listens on."""
        found = _URL.search(self.wait_for("http://"))
        assert found is not None, self.output
        return int(found[2])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def http(self) -> httpx.Client:
        """A client that speaks to it; keeps connections open."""
        if not self._clients:
            self._clients.append(self.client())
        return self._clients[0]

    def client(self) -> httpx.Client:
        """Another client; close it, or let it be closed when the server is stopped."""
        client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)
        self._clients.append(client)
        return client

    def wait_ready(self, *, timeout: float = PATIENCE) -> Self:
        """Wait until /ready says yes."""

        def ready() -> bool:
            assert self.exited is None, f"it ended with {self.exited} and was never ready:\n{self.output}"
            try:
                answer = httpx.get(f"{self.url}/ready", timeout=timeout, trust_env=False)
            except httpx.TransportError:
                return False
            return answer.status_code == 200

        try:
            eventually(ready, "ready", timeout=timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None
        return self

    # ---- ending it

    @property
    def pid(self) -> int:
        """Of the process that was started; for `dev` the parent."""
        return self.process.pid

    @property
    def exited(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    @property
    def gone(self) -> bool:
        """True when no process of its group is left."""
        self.process.poll()
        if not Path("/proc/self/stat").exists():
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            return False
        # Where nobody reaps orphans (a container's first process may not), a
        # dead child stays in the group as a zombie: look at the states.
        return not any(group == self.pid and state not in "ZX" for group, state in _processes())

    def send(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> None:
        """Send a signal to the process that was started, or to all of its group (as Ctrl-C does)."""
        if group:
            os.killpg(self.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self, *, timeout: float = PATIENCE) -> int:
        """Wait until it has ended, and return its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {timeout:g} s:\n{self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = PATIENCE) -> int:
        """Ask it to end, wait, and return its exit code."""
        self.send(number)
        return self.wait(timeout=timeout)

    def kill9(self) -> None:
        """Kill all of it at once, as a power cut does; returns when nothing of it is left."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        eventually(lambda: self.gone, "the process group is gone")

    def freeze(self) -> None:
        """Stop all of it where it is (SIGSTOP)."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        os.killpg(self.pid, signal.SIGCONT)


class Project:
    """
    A folder with Steps, and the processes started on it.

    Args:
        root: The folder; it is made.
        store: The store's URL; a SQLite file in the folder unless given.

    >>> with Project(tmp_path) as project:
    ...     project.write("src/hello_step.py", HELLO)
    ...     server = project.dev()
    ...     assert server.http.get("/hello").status_code == 200
    """

    def __init__(self, root: Path, *, store: str | None = None) -> None:
        self.root = root
        self.logs = root.parent / f"{root.name}.logs"  # outside, so that nothing watched changes
        self.database = root / "everstep.db"
        self.store = store or f"sqlite:///{self.database}"
        self.servers: list[Server] = []
        root.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever still runs, hard, and show what it printed (pytest shows it when a test failed)."""
        for server in self.servers:
            server.kill9()
            print(f"---- everstep {' '.join(map(str, server.process.args))}\n{server.output}")  # type: ignore[arg-type]

    # ---- files

    def write(self, path: str, text: str) -> Path:
        """Write a file in the project, whole at once; the text is dedented."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.draft")
        draft.write_text(dedent(text).lstrip("\n"), "utf-8")
        draft.replace(file)
        return file

    def remove(self, path: str) -> None:
        """Remove a file of the project."""
        (self.root / path).unlink()

    def ledger(self) -> list[str]:
        """What the project's Steps noted, in order (see `LEDGER`)."""
        file = self.logs / "ledger.txt"
        return file.read_text("utf-8").splitlines() if file.exists() else []

    def wait_for_note(self, text: str, *, count: int = 1, timeout: float = PATIENCE) -> list[str]:
        """Wait until *count* lines of the ledger are *text*; returns the ledger."""
        hoped = f"{count} times {text!r} in the ledger"
        eventually(lambda: self.ledger().count(text) >= count, hoped, timeout=timeout)
        return self.ledger()

    def release(self, name: str) -> None:
        """Let Steps that wait for ``released(name)`` go on."""
        (self.logs / f"{name}.released").touch()

    # ---- processes

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of every process: ours, without settings of whoever runs the tests."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith("EVERSTEP_")}
        ours = {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200", "LEDGER": str(self.logs)}
        return mine | ours | {"EVERSTEP_STORE": self.store} | dict(extra or {})

    @property
    def _program(self) -> list[str]:
        return [str(Path(sys.executable).with_name("everstep"))]

    def start(self, command: str, *args: str, env: Mapping[str, str] | None = None, port: int = 0) -> Server:
        """Start `everstep dev` or `everstep start` and return at once; port 0 is one that is free."""
        name = f"{len(self.servers)}-{command}"
        with (self.logs / f"{name}.out").open("wb") as out, (self.logs / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                [*self._program, command, "--port", str(port), *args],
                cwd=self.root,
                env=self.env(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        server = Server(self, process, name)
        self.servers.append(server)
        return server

    def dev(self, *args: str, env: Mapping[str, str] | None = None, port: int = 0) -> Server:
        """`everstep dev`, ready."""
        return self.start("dev", *args, env=env, port=port).wait_ready()

    def serve(self, *args: str, env: Mapping[str, str] | None = None, port: int = 0) -> Server:
        """`everstep start`, ready."""
        return self.start("start", *args, env=env, port=port).wait_ready()

    def run(
        self, *args: str, input: str | None = None, env: Mapping[str, str] | None = None
    ) -> Ran:
        """Run one command to its end, whatever its exit code."""
        done = subprocess.run(
            [*self._program, *args],
            cwd=self.root,
            env=self.env(env),
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
        )
        return Ran(args, done.returncode, done.stdout, done.stderr)

    def cli(self, *args: str, input: str | None = None) -> Any:
        """Run one command with --json, demand that it succeeds, and return what it printed."""
        ran = self.run(*args, "--json", input=input)
        assert ran.code == 0, str(ran)
        return ran.json


@contextmanager
def project_in(folder: Path, *, store: str | None = None) -> Iterator[Project]:
    """A project with `ledger.py` in its `src/`, ended when the block ends."""
    with Project(folder / "project", store=store) as project:
        project.write("src/ledger.py", LEDGER)
        yield project
