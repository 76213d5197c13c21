"""Which line of the user's code something came from, for messages.

Ours, the standard library's and installed packages' frames are passed over,
so that a message names the line the reader can change.

Floor 3.  May import: floor 0.  Imported by: engine.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FOREIGN = tuple(
    {
        path + os.sep
        for key in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_path(key))
    }
    | {_OURS + os.sep, "<frozen"}
)


def line_of(code: CodeType, lasti: int) -> str:
    """``orders/flow.py:41`` for an instruction of some code."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= lasti < end and number is not None:
            line = number
            break
    return f"{_shown(code.co_filename)}:{line}"


def line_of_frame(frame: FrameType | None) -> str | None:
    """The line of the innermost frame that is the user's, outwards from *frame*."""
    while frame is not None:
        if _is_users(frame.f_code):
            return line_of(frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return None


def line_of_awaiting(coro: Any) -> str | None:
    """The innermost line of the user's code at which a suspended coroutine stands."""
    found = None
    for frame in _awaiting(coro):
        if _is_users(frame.f_code) or found is None:
            found = frame
    return None if found is None else line_of(found.f_code, found.f_lasti)


def _awaiting(coro: Any) -> Iterator[FrameType]:
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is None:
            return
        yield frame
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)


def _is_users(code: CodeType) -> bool:
    return not code.co_filename.startswith(_FOREIGN)


def _shown(path: str) -> str:
    return path.removeprefix(os.getcwd() + os.sep)
