"""Which changes below a project make `everstep dev` start it anew.

Python files, and folders that come.  The folder itself is watched flat
and those in it deeply, so that neither an environment with ten thousand files
nor the store beside the code is looked at.

Floor 8.  May import: nothing.  Imported by: dev.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import watchfiles
from watchfiles import Change

SKIPPED = {"__pycache__", "node_modules", "venv", "env", "site-packages", "dist", "build"}


class Watch:
    """Reports changes until it is stopped."""

    def __init__(self, root: Path, changed: Callable[[frozenset[str]], None]) -> None:
        self._root = root
        self._changed = changed
        self._folders: frozenset[Path] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []
        self._deep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch; what changes after it returned is reported."""
        self._tasks.append(asyncio.create_task(self._watch([self._root], deep=False)))
        await self._follow()

    async def stop(self) -> None:
        """Watch no more."""
        tasks = [*self._tasks, *([self._deep] if self._deep else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """Watch the folders there are now; the new watch stands before the old one falls."""
        folders = frozenset(
            entry
            for entry in self._root.iterdir()
            if entry.is_dir() and _ours(entry.name) and not (entry / "pyvenv.cfg").exists()
        )
        if folders != self._folders:
            self._folders = folders
            before, self._deep = self._deep, None
            if folders:
                self._deep = asyncio.create_task(self._watch(sorted(folders), deep=True))
            await asyncio.sleep(0)  # the notices are ordered in its first step
            if before is not None:
                before.cancel()

    async def _watch(self, paths: list[Path], *, deep: bool) -> None:
        async for changes in watchfiles.awatch(
            *paths, watch_filter=self._counts, recursive=deep, debounce=200, step=30, rust_timeout=1_000
        ):
            self._changed(frozenset(self._shown(path) for _, path in changes))
            if not deep:
                await self._follow()

    def _counts(self, change: Change, path: str) -> bool:
        relative = Path(path).relative_to(self._root)
        if not all(map(_ours, relative.parts)):
            return False
        # A folder moved here says nothing of the files in it.
        return relative.suffix == ".py" or (change == Change.added and Path(path).is_dir())

    def _shown(self, path: str) -> str:
        return Path(path).relative_to(self._root).as_posix()


def _ours(name: str) -> bool:
    return not name.startswith(".") and not name.endswith((".locks", ".egg-info")) and name not in SKIPPED
