"""What happened outside every store: a file that many processes append whole lines to.

A line that `write` accepted survives any death of its process (only a power
cut would need fsync), so what a child noted before it was killed is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


class Ledger:
    """Notes of one schedule; each line is the number of its process and some words."""

    def __init__(self, path: Path | str, who: int = 0) -> None:
        self.path = Path(path)
        self._who = str(who)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, *words: object) -> None:
        """Append one line."""
        os.write(self._file, (" ".join([self._who, *map(str, words)]) + "\n").encode())

    def lines(self) -> Iterator[tuple[int, str, list[str]]]:
        """Who noted it, its first word, and the others; in the order they were noted."""
        for line in self.path.read_text("utf-8").splitlines():
            who, word, *rest = line.split(" ")
            yield int(who), word, rest

    def said(self, word: str) -> list[tuple[int, list[str]]]:
        """Of the lines that begin with a word: who noted it, and the others."""
        return [(who, rest) for who, first, rest in self.lines() if first == word]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
