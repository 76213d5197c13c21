"""Children for a price of milliseconds: a process that has imported everything, and forks.

    with Nursery() as nursery:
        child = nursery.fork("tests.torture.child", orders, log)
        assert child.wait() == -9

A fork of the test process itself would inherit its threads' locks; this one
has no threads.  It ends, with all its children, when its standard input does.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Self

PATIENCE = 90.0  # seconds; a machine under load takes its time
PRELOADED = ("tests.torture.child",)


class Child:
    """A forked process."""

    def __init__(self, nursery: Nursery, number: int, log: Path) -> None:
        self._nursery = nursery
        self.number = number
        self.log = log
        self.pid = 0
        self.code: int | None = None

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; its exit code, or the negative number of the signal it died of."""
        self._nursery.listen(lambda: self.code is not None, timeout, self)
        assert self.code is not None
        return self.code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._nursery.listen(lambda: bool(self.pid), PATIENCE, self)
        os.kill(self.pid, number)


class Nursery:
    """The process that forks, as a test sees it."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.nursery"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._selector.close()
        self._out.close()

    def fork(self, module: str, orders: dict[str, Any], log: Path) -> Child:
        """Start a child that calls ``main(orders)`` of a module, which answers its exit code."""
        child = Child(self, len(self._children), log)
        self._children[child.number] = child
        assert self._process.stdin is not None
        line = json.dumps({"number": child.number, "module": module, "orders": orders, "log": str(log)})
        self._process.stdin.write(line.encode() + b"\n")
        return child

    def wait_any(self, children: list[Child], timeout: float = PATIENCE) -> Child:
        """Wait until one of some children has ended."""
        self.listen(lambda: any(child.code is not None for child in children), timeout, *children)
        return next(child for child in children if child.code is not None)

    def listen(self, until: Any, timeout: float, *about: Child) -> None:
        """Hear of births and deaths until a condition holds."""
        end = time.monotonic() + timeout
        while not until():
            left = end - time.monotonic()
            if left <= 0:
                logs = "\n".join(f"{child.log}:\n{child.log.read_text()[-8000:]}" for child in about)
                raise AssertionError(f"a child did not end within {timeout:g} s:\n{logs}")
            if self._selector.select(left):
                heard = self._out.read()
                assert heard, "the nursery has died"
                *lines, self._rest = (self._rest + heard).split(b"\n")
                for line in lines:
                    number, what, value = line.split()
                    setattr(self._children[int(number)], what.decode(), int(value))


# ---- the process that forks


def _serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    children: dict[int, int] = {}
    watched: dict[int, int] = {}  # pid -> descriptor of its end
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    os.set_blocking(0, False)
    rest = b""
    while True:
        for key, _ in selector.select():
            if key.fd != 0:
                pid = key.data
                _, status = os.waitpid(pid, 0)
                selector.unregister(key.fd)
                os.close(watched.pop(pid))
                _say(children.pop(pid), "code", os.waitstatus_to_exitcode(status))
                continue
            data = os.read(0, 1 << 20)
            if not data:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = _fork(order)
                children[pid] = order["number"]
                watched[pid] = os.pidfd_open(pid)
                selector.register(watched[pid], selectors.EVENT_READ, pid)
                _say(order["number"], "pid", pid)


def _say(number: int, what: str, value: int) -> None:
    os.write(1, f"{number} {what} {value}\n".encode())


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        code = importlib.import_module(order["module"]).main(order["orders"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
