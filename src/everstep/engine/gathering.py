"""What was gathered and is not committed yet, by an atomic block or by a whole attempt.

A block belongs to the task that entered it and to the tasks that one starts,
not to whatever else the handler does at the same time: a sibling's effects stay
live, and two blocks side by side commit and fail each on its own.  A block
inside a wider one becomes part of that one when it ends well.

Floor 3.  May import: core.  Imported by: engine.effects, engine.memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from everstep.core.batch import Change, Guard, KvVersion
from everstep.core.journal import Entry

Cell = tuple[str, str]  # group and key
Place = tuple[str, int]  # lane and position of an entry


class Block:
    """Changes in the order they were asked for, and what reads inside the block must know of them."""

    __slots__ = (
        *("asked", "based", "changes", "checks", "cleared", "done"),
        *("entries", "outer", "own", "owner", "read", "undo"),
    )

    def __init__(self, owner: object, outer: Block | None = None, *, checks: bool) -> None:
        """
        Args:
            owner: Whose effects these are.
            outer: The block this one stands in, whoever's that is.
            checks: What is read must still be so at the commit.
        """
        self.owner = owner
        self.outer = outer
        self.checks = checks
        self.done = False
        self.changes: list[Change] = []
        self.entries: list[Entry] = []
        self.own: dict[Cell, bytes | None] = {}  # what we wrote, for our own reads
        self.cleared: set[str] = set()
        self.read: dict[Cell, int] = {}  # versions of what was read
        self.based: dict[Cell, int] = {}  # versions that our updates were computed from
        self.asked: list[Place] = []  # what is forgotten when the block fails
        self.undo: list[tuple[dict[str, Any], str, Any]] = []  # what memory was before, then put back

    @property
    def guards(self) -> list[Guard]:
        """What must hold at the commit; without a change there is nothing to hold."""
        if not self.changes:
            return []
        return [KvVersion(group, key, version) for (group, key), version in self.read.items()]

    def add(self, change: Change, entry: Entry) -> None:
        """Gather one effect."""
        self.changes.append(change)
        self.entries.append(entry)

    def write(self, cell: Cell, value: bytes | None, based: int | None = None) -> None:
        """Let reads see a write; *based*: the version in the store that it was computed from."""
        self.own[cell] = value
        if based is None:
            self.based.pop(cell, None)
        else:
            self.based[cell] = based

    def clear(self, group: str) -> None:
        """Let reads see that a group is empty."""
        self.cleared.add(group)
        for cell in [cell for cell in self.own if cell[0] == group]:
            self.own.pop(cell)
            self.based.pop(cell, None)

    def join(self, inner: Block) -> None:
        """Take over what a block inside this one gathered."""
        self.changes += inner.changes
        self.entries += inner.entries
        self.asked += inner.asked
        self.undo += inner.undo
        for group in inner.cleared:
            self.clear(group)
        for cell, value in inner.own.items():
            self.write(cell, value, inner.based.get(cell))
        for cell, version in inner.read.items():
            self.read.setdefault(cell, version)


_current: ContextVar[Block | None] = ContextVar("everstep_block", default=None)


def enter(block: Block) -> None:
    """From now on effects of this task are gathered here."""
    _current.set(block)


def leave(block: Block) -> None:
    """The block has ended, also for tasks that outlive it."""
    block.done = True
    _current.set(block.outer)


def innermost() -> Block | None:
    """The block this task is in, whoever's it is."""
    return _current.get()


def blocks_of(owner: object) -> Iterator[Block]:
    """The blocks of one owner that this task is in, from the inside out."""
    block = _current.get()
    while block is not None:
        if block.owner is owner and not block.done:
            yield block
        block = block.outer
