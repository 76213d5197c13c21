"""A PostgreSQL server of one's own, for as long as one command runs.

    python -m scripts.postgres .venv/bin/pytest tests/store

The command finds the server in EVERSTEP_TEST_POSTGRES; a URL already there is
used as it is.  The cluster lives in a temporary folder on disk (never tmpfs:
what is tested is durability) with fsync and synchronous_commit on, listens on
loopback only, and is stopped and removed whatever happens to the command.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VARIABLE = "EVERSTEP_TEST_POSTGRES"
OLDEST = 13
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
}


def main(command: list[str]) -> int:
    if not command:
        print(__doc__)
        return 2
    with server() as url:
        return subprocess.run(command, env=os.environ | {VARIABLE: url}, check=False).returncode


@contextmanager
def server() -> Iterator[str]:
    """Yield the URL of a running server: the one named by the environment, or a private one."""
    if given := os.environ.get(VARIABLE):
        yield given
        return
    binaries = find_binaries() or install()
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="everstep-pg-", dir="/var/tmp") as folder:
        yield from private(binaries, Path(folder))


def private(binaries: Path, folder: Path) -> Iterator[str]:
    owner = unprivileged_user()
    if owner:
        shutil.chown(folder, owner)
    data, log = folder / "data", folder / "log"
    who: dict[str, Any] = {"user": owner, "extra_groups": []} if owner else {}
    initdb = [str(binaries / "initdb"), "-D", str(data), "--no-sync"]
    flags = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run([*initdb, *flags], check=True, stdout=subprocess.DEVNULL, cwd=folder, **who)

    port = free_port()
    settings = SETTINGS | {"port": str(port), "unix_socket_directories": str(folder)}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*dies_with_us(), binaries / "postgres", "-D", data, *flags],
            stdout=output, stderr=output, cwd=folder,
            start_new_session=True,  # Ctrl-C is for the tests; the server ends after them
            **who,
        )  # fmt: skip
    try:
        wait_until_ready(process, binaries, port, log)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        stop(process)


def find_binaries() -> Path | None:
    """The newest server on this machine; a `postgres` on PATH counts when `initdb` is beside it."""
    folders = list(Path("/usr/lib/postgresql").glob("*/bin"))
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    found = [(version(folder), folder) for folder in folders]
    newest, folder = max(found, default=(0, Path()))
    return folder if newest >= OLDEST else None


def version(folder: Path) -> int:
    """The major version of the server in *folder*; 0 if there is none that runs."""
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb", "pg_isready")):
        return 0
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.split()  # postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)
    return int(words[2].split(".")[0]) if words[:2] == ["postgres", "(PostgreSQL)"] else 0


def install() -> Path:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(
            f"The tests need a PostgreSQL server (>= {OLDEST}) and found none on this machine.\n"
            f"Install one (Debian: apt-get install postgresql), or name a running one:\n"
            f"    {VARIABLE}=postgresql://user@host:5432/database make test"
        )
    print("installing PostgreSQL ...", flush=True)
    # RUNLEVEL=1 keeps Debian from starting a server of its own.
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    get = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"]
    subprocess.run(get, check=True, env=quiet, stdout=subprocess.DEVNULL)
    return find_binaries() or sys.exit("apt-get installed postgresql, but no server was found after it.")


def unprivileged_user() -> str | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    return "nobody" if os.geteuid() == 0 else None


def dies_with_us() -> list[str]:
    """On Linux the kernel stops the server even when this process is killed with -9."""
    return ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: subprocess.Popen[bytes], binaries: Path, port: int, log: Path) -> None:
    asked = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-d", "postgres"]
    deadline = time.monotonic() + 60
    while subprocess.run(asked, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"PostgreSQL did not start; its log:\n{log.read_text()}")
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    for order in (signal.SIGINT, signal.SIGQUIT):  # fast shutdown; then at once
        process.send_signal(order)
        try:
            process.wait(30)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind this process, so that the server is stopped on the way out."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda got, _frame: sys.exit(128 + got)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
