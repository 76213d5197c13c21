"""The words of the journal: entries, lanes and addresses.

An entry is one fact a run must remember.  Its key is (run, generation, lane,
position).  A *lane* is a line of execution inside the body: the root lane is
``"0"``, the third task made by the root is ``"0/2"``, a graph branch has a name
instead of a number: ``"0/@Build:1"``.  *Positions* count what the lane asked.
`seq` is the order in which results were handed to the body; an entry without
one was never delivered (a start mark, or the late result of abandoned work).

Floor 1.  May import: core, floor 0.  Imported by: core, store, engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

ROOT = "0"

# What an entry's value is.
OK = 0  # the encoded result
ERROR = 1  # the encoded error
MARK = 2  # started, not known to have ended
RESULT = 3  # never stored: the commit puts the result of a change of its batch here


@dataclass(slots=True)
class Entry:
    """One remembered fact of a run.  `at` is in microseconds since 1970."""

    lane: str
    pos: int
    kind: str
    name: str
    fp: int
    seq: int | None
    at: int
    state: int
    value: bytes | None

    @property
    def address(self) -> str:
        """``"0/2.5"``: lane and position as people read them."""
        return f"{self.lane}.{self.pos}"


def child(lane: str, number: int) -> str:
    """The lane of the *number*-th task made by *lane* (from 0)."""
    return f"{lane}/{number}"


def named(lane: str, name: str) -> str:
    """The lane with a name of its own below *lane*: a graph node's visit, a branch."""
    if not name:
        raise ValueError("a named lane needs a name that is not empty")
    return f"{lane}/@{quote(name, safe=':- ')}"


def segments(lane: str) -> list[int | str]:
    """
    Take a lane apart: numbers for tasks, text for names.

    >>> segments("0/3/@Build:1")
    [0, 3, 'Build:1']
    """
    return [unquote(s[1:]) if s.startswith("@") else int(s) for s in lane.split("/")]


def parse_address(text: str) -> tuple[str, int]:
    """
    Take an address as people write it apart into lane and position.

    Raises:
        ValueError: It is not of the form ``0/2.5``.
    """
    lane, dot, pos = text.rpartition(".")
    if not dot or not pos.isascii() or not pos.isdigit():
        raise ValueError(f"'{text}' is no address; one looks like 0.3 or 0/2.5")
    segments(lane)
    return lane, int(pos)
