"""What a run remembers of its effects: by their content, not by their place in the code.

An effect is known by kind, name, facts and how often this attempt has asked
for just that.  One that an earlier attempt had is skipped, with two exceptions
that keep the last word where the handler has it:

* an absolute write (set, delete, clear) only while it is this run's latest
  write of what it overwrites: otherwise a retry would leave what came after it;
* a relative update only if it was applied after the absolute write that this
  attempt asked for before it: that one took every earlier update away.

Floor 3.  May import: core.  Imported by: engine.effects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from everstep.core import journal
from everstep.core.journal import Entry
from everstep.engine.gathering import Block, Place

WRITES = frozenset({"set", "delete", "clear"})  # absolute: the last one wins
UPDATE = "update"


class Memory:
    """
    The effects of one run, as one attempt sees them.

    Args:
        remembered: What earlier attempts committed.
    """

    def __init__(self, remembered: Sequence[Entry] = ()) -> None:
        self._known = {(e.lane, e.pos): e for e in remembered}
        self._asked: dict[str, int] = {}  # lane -> how often this attempt asked for it
        self._freed: dict[str, list[int]] = {}  # lane -> positions that a failed block had asked for
        self._latest: dict[str, Place] = {}  # cell or group -> the entry of its latest write
        self._since: dict[str, int] = {}  # cell or group -> updates up to this seq were overwritten
        self._notes: list[Entry] = []  # facts that travel with the next commit
        self._seq = 0
        for entry in sorted(remembered, key=lambda e: e.seq or 0):
            self._seq = max(self._seq, entry.seq or 0)
            self._touch(entry)

    # ---- asking

    def recall(self, kind: str, name: str, facts: bytes, block: Block | None) -> tuple[Entry, bool]:
        """The entry of this effect, and whether an earlier attempt already had it."""
        digest = hashlib.blake2b(facts, digest_size=8).hexdigest()
        lane = f"~{kind}/{name}/{digest}"
        pos = self.ask(lane, block)
        known = self._known.get((lane, pos))
        if known is not None and self._stands(known):
            if kind in WRITES:
                _put(self._since, name, known.seq or 0, block)
            return known, True
        return Entry(lane, pos, kind, name, int(digest, 16) >> 1, None, 0, journal.RESULT, None), False

    def ask(self, lane: str, block: Block | None) -> int:
        """The position of what is asked in a lane now: how often it was, or one that was taken back."""
        if freed := self._freed.get(lane):
            pos = heappop(freed)
        else:
            pos = self._asked[lane] = self._asked.get(lane, 0) + 1
        if block is not None:
            block.asked.append((lane, pos))
        return pos

    def _stands(self, known: Entry) -> bool:
        if known.kind in WRITES:
            return self._latest.get(known.name) == (known.lane, known.pos)
        if known.kind == UPDATE:
            of_cell, of_group = self._since.get(known.name, 0), self._since.get(_group_of(known.name), 0)
            return (known.seq or 0) > max(of_cell, of_group)
        return True

    def note(self, lane: str, block: Block | None, at: int, value: bytes) -> Entry:
        """A fact that is kept with the next commit, or the one an earlier attempt kept."""
        pos = self.ask(lane, block)
        known = self._known.get((lane, pos))
        if known is None:
            known = Entry(lane, pos, lane[1:], lane[1:], 0, None, at, journal.OK, value)
            self._known[lane, pos] = known
            self._notes.append(known)
        return known

    # ---- taking back

    def forget(self, entry: Entry, blocks: Iterable[Block]) -> None:
        """It was not done: the next equal one takes its place, in this attempt and in every later one."""
        place = (entry.lane, entry.pos)
        for block in blocks:
            if place in block.asked:
                block.asked.remove(place)
        self._free(place)

    def drop(self, block: Block) -> None:
        """A block failed: what it asked for was never asked for."""
        for place in block.asked:
            self._free(place)
        for table, name, before in reversed(block.undo):
            if before is None:
                table.pop(name, None)
            else:
                table[name] = before

    def _free(self, place: Place) -> None:
        heappush(self._freed.setdefault(place[0], []), place[1])

    # ---- what was done

    def number(self, entries: Sequence[Entry], now: int) -> list[Entry]:
        """These and all notes, in the order they will have among the effects of the run."""
        numbered = [*entries, *self._notes]
        for entry in numbered:
            self._seq += 1
            entry.seq, entry.at = self._seq, now
        return numbered

    def gathered(self, entry: Entry, block: Block) -> None:
        """A block will commit this: until then nothing is the latest write of what it overwrites."""
        if entry.kind in WRITES:
            _put(self._since, entry.name, self._seq, block)
        for name in self._overwritten(entry):
            _put(self._latest, name, None, block)

    def committed(self, entries: Sequence[Entry]) -> None:
        """These are durable."""
        for entry in entries:
            self._known[entry.lane, entry.pos] = entry
            self._touch(entry)
            if entry.kind in WRITES:
                self._since[entry.name] = entry.seq or 0
        if self._notes:
            self._notes = [note for note in self._notes if note not in entries]

    def _touch(self, entry: Entry) -> None:
        if entry.kind in WRITES or entry.kind == UPDATE:
            for name in self._overwritten(entry):
                self._latest.pop(name, None)
            self._latest[entry.name] = entry.lane, entry.pos

    def _overwritten(self, entry: Entry) -> list[str]:
        """What this entry is a later write of: its cell and the group's clear, or all of a group."""
        if entry.kind == "clear":
            return [name for name in self._latest if _group_of(name) == entry.name]
        if entry.kind in WRITES or entry.kind == UPDATE:
            return [entry.name, _group_of(entry.name)]
        return []


def _group_of(name: str) -> str:
    """The group of a cell, and of itself: a slash within a group's name is quoted."""
    return name.partition("/")[0]


def _put(table: dict[str, Any], name: str, value: Any, block: Block | None) -> None:
    if block is not None:
        block.undo.append((table, name, table.get(name)))
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
