"""Take turns at a SQLite file: two locks, so that a waiter at the door goes first.

SQLite's own lock is not fair: of two busy writers one starves the other
(12,381 commits against 1).  Here a writer takes the turnstile, then the lock,
then frees the turnstile: whoever waits in the turnstile is next.

Floor 2.  May import: clock.  Imported by: store.sqlite.
"""

from __future__ import annotations

import fcntl
import os
import select
from pathlib import Path

from everstep.clock import system

PATIENCE = 10.0  # seconds; then somebody holds the lock who does not move
_PAUSE = 0.00005
_LONGEST_PAUSE = 0.002


class Turnstile:
    """The right to write, handed from process to process in order."""

    def __init__(self, folder: Path) -> None:
        self._turn = os.open(folder / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = os.open(folder / "write", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self) -> None:
        """
        Wait for the right to write.

        Raises:
            TimeoutError: Another process keeps it and does not move.
        """
        give_up = system.monotonic() + PATIENCE
        _take(self._turn, give_up)
        try:
            _take(self._lock, give_up)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Hand the right on."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Forget both locks."""
        os.close(self._turn)
        os.close(self._lock)


def _take(lock: int, give_up: float) -> None:
    # By looking again and again: a lock that blocks cannot be given up, and a
    # process that was suspended while it held one would hang all the others.
    pause = _PAUSE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if system.monotonic() > give_up:
                raise TimeoutError(
                    f"another process has kept the right to write for {PATIENCE:.0f} s; is one suspended?"
                ) from None
            select.select((), (), (), pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        else:
            return


class Lifeline:
    """A lock that is held as long as its process lives; the kernel frees it at any death."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._path = folder / f"worker-{worker}"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def free(self, *, forget: bool) -> None:
        """Let go; with *forget* the worker is gone for good and its file too."""
        if forget:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)

    @staticmethod
    def cut(folder: Path, worker: int) -> bool:
        """True when nobody holds the lock of that worker."""
        try:
            fd = os.open(folder / f"worker-{worker}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    @staticmethod
    def forget(folder: Path, worker: int) -> None:
        """Remove what is left of a worker that is gone for good."""
        (folder / f"worker-{worker}").unlink(missing_ok=True)
