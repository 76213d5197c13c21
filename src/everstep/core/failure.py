"""Errors as bytes, and back: what a function raised must be raised again on every replay.

A `TerminalError` comes back as its own class, found again by module and name;
anything else comes back as `StepFailed`, which says what it was.  What the
journal names is imported, checked to be a subclass of TerminalError, and only
then made: no other class is ever called, and nothing is pickled.

Floor 1.  May import: core, floor 0.  Imported by: engine, steps, http.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from typing import Any

from everstep.errors import StepFailed, TerminalError

_FRAMES = 25  # of a traceback that is kept to be read by people
_LONGEST = 16_000  # characters of it
_MACHINERY = ("everstep", "asyncio", "concurrent", "threading", "contextlib")


def encode_error(error: BaseException) -> bytes:
    """
    Write down an error: its class, its text, what it carries, and where it was raised.

    Arguments and attributes that JSON cannot say are kept as text.
    """
    kind = type(error)
    kept: dict[str, Any] = {"type": f"{kind.__module__}:{kind.__qualname__}", "message": message_of(error)}
    if isinstance(error, TerminalError):
        kept["args"] = [_plain(arg) for arg in error.args]
        if state := {key: _plain(value) for key, value in vars(error).items()}:
            kept["state"] = state
    if trace := _trace(error):
        kept["traceback"] = trace
    # A lone half of a surrogate pair becomes its escape, which JSON reads back as it was.
    return json.dumps(kept, ensure_ascii=False).encode("utf-8", "backslashreplace")


def decode_error(data: bytes) -> TerminalError:
    """Make the error again: of its own class if that is a TerminalError, otherwise a `StepFailed`."""
    try:
        kept = json.loads(data)
        name, message = str(kept["type"]), str(kept["message"])
    except (ValueError, TypeError, KeyError):
        return StepFailed("an error that cannot be read was kept", error_type="?", cause=repr(data[:200]))
    kind = _find(name)
    if kind is not None:
        try:
            return _make(kind, kept.get("args", [message]), kept.get("state", {}))
        except Exception:
            pass  # its __new__ asks for something else: at least say what it was
    return StepFailed(f"{name.rpartition(':')[2]}: {message}", error_type=name, cause=message)


def message_of(error: BaseException) -> str:
    """The text of an error, even of one whose ``__str__`` fails."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} that cannot be shown>"


def _make(kind: type[TerminalError], args: list[Any], state: dict[str, Any]) -> TerminalError:
    # Its __init__ is passed over: it ran when the error was made, and may ask
    # for other arguments than those it handed on.
    error = kind.__new__(kind, *args)
    error.args = tuple(args)
    vars(error).update(state)
    return error


def _find(name: str) -> type[TerminalError] | None:
    """The class of that name, if it is there and is a TerminalError."""
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception:
        return None  # gone, renamed, or defined inside a function
    return found if isinstance(found, type) and issubclass(found, TerminalError) else None


def _plain(value: object) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__qualname__} that cannot be shown>"


def cut(error: BaseException) -> None:
    """
    Let the traceback of an error, and of what led to it, begin in the code of whoever wrote the Step.

    The frames before that are everstep's and those of the loop or thread it
    calls from; where there is no other they stay.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        left += (one.__cause__, one.__context__)
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
        frames = one.__traceback__
        while frames is not None and _ours(frames.tb_frame.f_globals.get("__name__")):
            frames = frames.tb_next
        if frames is not None:
            one.__traceback__ = frames


def _ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _MACHINERY


def _trace(error: BaseException) -> str:
    cut(error)
    if error.__traceback__ is None and error.__cause__ is None:
        return ""
    try:
        text = "".join(traceback.format_exception(error, limit=-_FRAMES))
    except Exception:
        return ""
    return text if len(text) <= _LONGEST else "…" + text[-_LONGEST:]
