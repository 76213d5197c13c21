"""Where a child dies: at the k-th event of a kind, by SIGKILL, with nothing tidied up (or is told to end).

The events are found by wrapping the store, the body and the functions of the
scenario from outside; everstep itself knows nothing of this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

COMMIT_BEFORE = "commit-before"  # a group is about to be sent
COMMIT_INSIDE = "commit-inside"  # it is written, and not committed
COMMIT_AFTER = "commit-after"  # it is durable, and nobody has heard of it
RUN_BEFORE = "run-before"  # a function of ctx.run is about to begin
RUN_AFTER = "run-after"  # it did what it does, and nothing is written
HAND_BEFORE = "hand-before"  # an answer is about to be handed to a body
HAND_AFTER = "hand-after"  # the body went on with it as far as it could
WRITE_BEFORE = "write-before"  # the same for what is not a commit: registering, taking over, sweeping
WRITE_AFTER = "write-after"
WHENEVER = "whenever"  # some milliseconds after the start
DRAIN = "drain"  # no kill: told to end, some milliseconds after the start
FREEZE = "freeze"  # no kill: stopped for longer than a lease, some milliseconds after the start

LEASE = 1.0  # where somebody freezes
FROZEN = 2.2
WRITES = ("register", "subscribe", "take_over", "retire", "sweep", "put_blob")


class Killer:
    """Counts events, and kills this process at the one it was told."""

    def __init__(self, kind: str = "", number: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        self._kind = kind
        self._number = number
        self.end: Callable[[], None] = lambda: None  # how this process is told to end
        if kind in (WHENEVER, DRAIN, FREEZE):
            threading.Thread(target=self._later, daemon=True).start()

    def _later(self) -> None:
        time.sleep(self._number / 1000)
        if self._kind == DRAIN:
            self.end()
        elif self._kind == FREEZE:
            self.freeze()
        else:
            self.die()

    @staticmethod
    def freeze() -> None:
        """Be stopped where everything stands, and continued by somebody else."""
        pid = os.getpid()
        subprocess.Popen(["sh", "-c", f"sleep {FROZEN}; kill -CONT {pid}"])
        os.kill(pid, signal.SIGSTOP)

    def hit(self, kind: str) -> None:
        """An event of this kind happens now."""
        self.seen[kind] += 1
        if kind == self._kind and self.seen[kind] == self._number:
            self.die()

    @staticmethod
    def die() -> None:
        """As a power cut does it, but for what the kernel has."""
        os.kill(os.getpid(), signal.SIGKILL)
        while True:  # a signal to oneself may take a moment
            time.sleep(1)

    def install(self, store: type[Any], *, inside: tuple[type[Any], str] | None = None) -> None:
        """
        Wrap a store, and the bodies of this process.

        Args:
            inside: A class and its method that has written a group when it returns, and not committed it.
        """
        from everstep.engine.body import Body

        self._around_commit(store)
        for name in WRITES:
            self._around_write(store, name)
        if inside is not None:
            kind, name = inside
            self._wrap(kind, name, after=COMMIT_INSIDE)
        self._wrap(Body, "hand_over", before=HAND_BEFORE, after=HAND_AFTER)

    def _wrap(self, kind: type[Any], name: str, *, before: str = "", after: str = "") -> None:
        original: Callable[..., Any] = getattr(kind, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.hit(before)
            result = original(*args, **kwargs)
            if after:
                self.hit(after)
            return result

        setattr(kind, name, wrapped)

    def _around_commit(self, store: type[Any]) -> None:
        original = store.commit

        async def commit(this: Any, worker: Any, batches: Any, claim: Any = None) -> Any:
            if batches:
                self.hit(COMMIT_BEFORE)
            done = await original(this, worker, batches, claim)
            if batches or done.claimed:
                self.hit(COMMIT_AFTER)
            return done

        store.commit = commit

    def _around_write(self, store: type[Any], name: str) -> None:
        original = getattr(store, name)

        async def write(*args: Any, **kwargs: Any) -> Any:
            self.hit(WRITE_BEFORE)
            result = await original(*args, **kwargs)
            self.hit(WRITE_AFTER)
            return result

        setattr(store, name, write)
