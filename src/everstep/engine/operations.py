"""What a body can ask for, as objects that wait for their answer.

An operation gets its address when it is asked, its work is begun once the body
has come to rest, and its answer is handed over when the turn of its entry
comes.  Nobody waits for it any more (`wanted`) when the task that asked was
cancelled; then its entry is passed over.

Floor 3.  May import: core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from everstep.codec import Codec
from everstep.core.failure import decode_error
from everstep.core.journal import ERROR, OK, Entry
from everstep.core.replay import CANCEL, CONTROL
from everstep.engine.runloop import CANCELLED, LaneTask, RunLoop


class Operation:
    """One thing asked at one address.  `value` is as the journal keeps it, `answer` as the body gets it."""

    __slots__ = ("answer", "fp", "lane", "name", "pos", "state", "value")

    kind = ""
    kept_late = False  # whether its result is worth an entry when nobody waits for it any more

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lane = ""
        self.pos = 0
        self.fp = 0
        self.state = OK
        self.value: bytes | None = None
        self.answer: Any = None

    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        raise NotImplementedError

    def recall(self, entry: Entry) -> None:
        """Take the answer from the journal."""
        self.state = entry.state
        self.value = entry.value

    def hand_over(self) -> None:
        """Make ready whoever waits."""
        raise NotImplementedError

    def begins(self, now: int) -> None:
        """The journal does not know it; its work will begin when the body rests."""

    def fingerprint(self) -> int:
        """A number for its arguments; 0 when there are none to compare."""
        return 0


class Awaited(Operation):
    """An operation that one task awaits."""

    __slots__ = ("future",)

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.future: asyncio.Future[Any]

    def wanted(self) -> bool:
        return not self.future.done()

    def hand_over(self) -> None:
        if self.state == ERROR:
            self.future.set_exception(decode_error(self.value or b""))
        else:
            self.future.set_result(self.answer)
        self.answer = self.value = None  # the body has it now


class Sleep(Awaited):
    """``ctx.sleep``: over at *due*."""

    __slots__ = ("due", "length")

    kind = "sleep"

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.due = 0

    def begins(self, now: int) -> None:
        self.due = now + self.length


class PromiseWait(Awaited):
    """Waits for a promise of this run to be settled."""

    __slots__ = ("codec",)

    kind = "promise"

    def __init__(self, name: str, codec: Codec[Any]) -> None:
        super().__init__(name)
        self.codec = codec

    def recall(self, entry: Entry) -> None:
        self.settle(entry.state, entry.value)

    def settle(self, state: int, value: bytes | None) -> None:
        """Somebody settled it."""
        self.state = state
        self.value = value
        if state == OK:
            self.answer = self.codec.decode(value or b"null")


class LoopTimer(Operation):
    """A timer of the body's loop: asyncio.sleep, asyncio.timeout."""

    __slots__ = ("_handle", "_loop", "_rung", "due")

    kind = "timer"

    def __init__(self, handle: asyncio.TimerHandle, loop: RunLoop, due: int) -> None:
        super().__init__()
        self._handle = handle
        self._loop = loop
        self._rung = False
        self.due = due

    def wanted(self) -> bool:
        return not (self._rung or self._handle.cancelled())

    def hand_over(self) -> None:
        self._rung = True
        self._loop.ring(self._handle)


class Cancel(Operation):
    """Somebody outside cancelled the run; the one operation that no body asks for."""

    __slots__ = ("_main",)

    kind = CANCEL

    def __init__(self, main: LaneTask[Any], pos: int) -> None:
        super().__init__()
        self.lane = CONTROL
        self.pos = pos
        self._main = main

    def wanted(self) -> bool:
        return not self._main.done()

    def hand_over(self) -> None:
        self._main.cancel(CANCELLED)
