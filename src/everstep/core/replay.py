"""Match what a handler asks for against what its journal remembers.

A handler runs from the top every time.  Each ctx call asks at an address, and
`Replay` says whether the journal already knows it.  Because nothing here
awaits, the whole rule of durable execution can be tested with plain lists.

The rule, the same on the first pass and on every replay:

- Entries are handed over one at a time, by `seq`, and the handler runs until
  it can go no further before the next one is.
- What is asked at an address the journal knows must be of the kind and name,
  and have the arguments, that were recorded there.
- When the turn of an entry comes, it must have been asked for.  If nobody waits
  for it any more (its lane was cancelled meanwhile), it is passed over: its time
  counts, its value does not.
- An entry without `seq` ended after nobody waited for it.  It must have been
  asked for by the end of the replay, and nobody may wait for it then either.

Floor 1.  May import: core, floor 0.  Imported by: engine.turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from everstep.core.journal import Entry, named
from everstep.errors import Asked, JournalMismatch

T = TypeVar("T")

CONTROL = named("0", "control")
"""The lane of what was done to the run from outside: nobody asks for it in the body."""

CANCEL = "cancel"


class Replay(Generic[T]):
    """
    What one generation of a run remembers, used up as its handler asks for it again.

    `T` is whatever stands for an operation that waits; it is handed back when
    the turn of its entry comes.

    Args:
        run_id: For messages.
        entries: The journal, in any order.
        accept_args: Let a call with other arguments have the recorded answer.
    """

    __slots__ = ("_accept_args", "_lanes", "_late", "_run_id", "_waiting", "order")

    def __init__(self, run_id: str, entries: Iterable[Entry], *, accept_args: bool = False) -> None:
        self._run_id = run_id
        self._accept_args = accept_args
        self._lanes: dict[str, dict[int, Entry]] = {}
        self._waiting: dict[int, T] = {}
        self._late: list[tuple[Entry, T]] = []
        self.order: list[Entry] = []
        for entry in entries:
            if entry.seq is not None:
                self.order.append(entry)
            if entry.lane != CONTROL:
                self._lanes.setdefault(entry.lane, {})[entry.pos] = entry
        self.order.sort(key=_seq)

    def lane(self, path: str) -> dict[int, Entry] | None:
        """The entries of a lane that were not asked for yet, by position; None if there are none."""
        return self._lanes.get(path)

    def ask(self, entry: Entry, kind: str, name: str, fp: int, op: T) -> JournalMismatch | None:
        """
        An operation was asked where the journal has *entry*; it waits for its turn.

        Answers the difference if it is not the operation that was recorded.
        """
        if kind != entry.kind or name != entry.name or (fp != entry.fp and self._differs(fp, entry.fp)):
            return self.mismatch(entry, Asked(kind, name, fp))
        if entry.seq is None:
            self._late.append((entry, op))
        else:
            self._waiting[entry.seq] = op
        return None

    def turn(self, entry: Entry) -> T | None:
        """The operation that *entry* answers; None if it was not asked for, which is a mismatch."""
        return self._waiting.pop(entry.seq, None)  # type: ignore[arg-type]  # those in `order` have one

    def rest(self) -> list[tuple[Entry, T | None]]:
        """After the last turn: entries that ended late, with who asked; and those nobody asked for."""
        unasked = [entry for lane in self._lanes.values() for entry in lane.values()]
        return [*self._late, *((entry, None) for entry in unasked)]

    def mismatch(self, entry: Entry, attempted: Asked | None) -> JournalMismatch:
        """The error that shows both sides."""
        kind = entry.kind if entry.seq is not None else f"abandoned {entry.kind}"
        recorded = Asked(kind, entry.name, entry.fp)
        return JournalMismatch(
            run_id=self._run_id, address=entry.address, recorded=recorded, attempted=attempted
        )

    def _differs(self, asked: int, recorded: int) -> bool:
        # 0 means that none was taken: a closure, or arguments nobody can compare.
        return asked != 0 and recorded != 0 and not self._accept_args


def _seq(entry: Entry) -> int:
    assert entry.seq is not None
    return entry.seq
