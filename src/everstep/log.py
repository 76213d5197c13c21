"""Structured logs on the standard library's tree "everstep": a message and fields.

A `Logger` carries what its lines belong to (Step, run, trace).  Lines are made
for people ("pretty") or for machines ("json"); a value that cannot be written
is shown as well as may be, for a log never fails the code it reports on.

Floor 0.  May import: clock.  Imported by: every floor above.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TextIO

from everstep.clock import iso

ROOT = "everstep"
_FIELDS = "everstep_fields"
_STEP = "step"


_known: dict[str, logging.Logger] = {}  # asking logging by name takes a lock, and runs are many


class Logger:
    """
    Writes messages with fields, each line with those the logger is bound to.

    >>> ctx.logger.info("charged", {"order": "o-1"}, cents=1200)
    """

    __slots__ = ("_fields", "_log")

    def __init__(self, name: str = ROOT, /, **fields: Any) -> None:
        self._log = _known.get(name) or _known.setdefault(name, logging.getLogger(name))
        self._fields = fields

    def bind(self, **fields: Any) -> Logger:
        """A logger whose lines carry these fields too."""
        bound = Logger.__new__(Logger)  # asking logging for its logger by name takes a lock
        bound._log = self._log
        bound._fields = {**self._fields, **fields}
        return bound

    @property
    def debugging(self) -> bool:
        """Whether what only someone who looks for a fault wants to know is written."""
        return self._log.isEnabledFor(logging.DEBUG)

    def debug(self, message: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what only someone who looks for a fault wants to know."""
        self._write(logging.DEBUG, message, data, fields)

    def info(self, message: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what happened."""
        self._write(logging.INFO, message, data, fields)

    def warning(self, message: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what may become a fault."""
        self._write(logging.WARNING, message, data, fields)

    warn = warning

    def error(self, message: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what failed."""
        self._write(logging.ERROR, message, data, fields)

    def exception(self, message: str, data: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Say what failed, with the traceback of the error being handled."""
        self._write(logging.ERROR, message, data, fields, trace=True)

    def failure(
        self, message: str, error: BaseException, data: Mapping[str, Any] | None = None, /, **fields: Any
    ) -> None:
        """Say what failed for good, with the traceback of *error*, whether or not it is being handled."""
        self._write(logging.ERROR, message, data, fields, trace=error)

    def _write(
        self,
        level: int,
        message: str,
        data: Mapping[str, Any] | None,
        fields: Mapping[str, Any],
        *,
        trace: bool | BaseException = False,
    ) -> None:
        if not self._log.isEnabledFor(level):
            return
        given = data if isinstance(data, Mapping) else {} if data is None else {"data": data}
        shown = {**self._fields, **given, **fields}
        # Two frames up is the line of the user's call.
        self._log.log(level, message, extra={_FIELDS: shown}, exc_info=trace, stacklevel=3)


def _fields_of(record: logging.LogRecord) -> dict[Any, Any]:
    fields = getattr(record, _FIELDS, None)
    return dict(fields) if isinstance(fields, Mapping) else {}


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a stdlib call whose arguments do not fit its message
        return f"{record.msg} {record.args!r}"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line: dict[str, Any] = {
            "time": iso(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record),
        }
        for key, value in _fields_of(record).items():
            name = _text(key)
            line[f"{name}_" if name in line else name] = value
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        try:
            text = json.dumps(line, default=_text, ensure_ascii=False, allow_nan=False)
            text.encode()  # half a surrogate pair would fail the stream
        except Exception:  # a key that is no text, a value that holds itself, nan
            text = json.dumps(
                {key: value if _is_plain(value) else _text(value) for key, value in line.items()}
            )
        return text


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int)


_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_SHORT = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class Pretty(logging.Formatter):
    """A line for people: ``[12:00:01] INFO  AnalyzeRisk  message  key=value``."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record, and its traceback below it."""
        at = datetime.fromtimestamp(record.created).astimezone()
        level = _SHORT.get(record.levelname, record.levelname)
        fields = _fields_of(record)
        source = _text(fields.pop(_STEP, "")) or record.name.removeprefix(ROOT).lstrip(".")
        head = (
            self._paint("2", f"[{at:%H:%M:%S}]"),
            self._paint(_COLOURS.get(record.levelname, ""), f"{level:<5}"),
        )
        parts = [
            self._paint("1", source),
            _message_of(record),
            " ".join(f"{self._paint('2', f'{_text(key)}=')}{_value(value)}" for key, value in fields.items()),
        ]
        line = " ".join((*head, "  ".join(part for part in parts if part)))
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line.encode("utf-8", "backslashreplace").decode()

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour and text else text


def _value(value: object) -> str:
    """A field's value on one line; quoted where spaces would make it hard to read."""
    if not isinstance(value, str):
        try:
            return json.dumps(value, ensure_ascii=False, default=_text)
        except Exception:
            value = _text(value)
    plain = value and not any(c.isspace() or c in '"=' or not c.isprintable() for c in value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def configure(
    *,
    format: Literal["pretty", "json"] = "pretty",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """
    Send the lines of everstep to one stream, in one format; a second call replaces the first.

    Args:
        format: "pretty" for people (coloured on a terminal unless NO_COLOR is set), "json" for machines.
        level: The least that is written: debug, info, warning or error.
        stream: Standard error unless given.
    """
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(JsonLines() if format == "json" else Pretty(colour=colour))
    root = logging.getLogger(ROOT)
    root.handlers[:] = [handler]
    root.setLevel({"warn": "WARNING"}.get(level.lower(), level.upper()))
    root.propagate = False
