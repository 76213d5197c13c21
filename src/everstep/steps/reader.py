"""Reads what a user wrote into a dict: the right type, or a `ConfigError` that says where and what would do.

Floor 5.  May import: durations, errors.  Imported by: config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from everstep.durations import micros
from everstep.errors import ConfigError, did_you_mean

OLD_KEYS = {
    "emits": "it is called 'enqueues' now, and ctx.emit is ctx.enqueue",
    "virtual_emits": "it is called 'virtualEnqueues' now",
    "subscribes": 'write it as triggers: [{"type": "queue", "topic": …}]',
}


class Reader:
    """Collects warnings, and raises at the first value that cannot be used."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.warnings: list[str] = []
        self._unknown: dict[str, list[str]] = {}  # keys nobody knows, by where they are

    def refuse(self, what: str, expected: str = "", suggestion: str = "") -> NoReturn:
        raise ConfigError(what, file=self.file or None, expected=expected, suggestion=suggestion)

    def warn(self, text: str) -> None:
        self.warnings.append(f"{self.file}: {text}" if self.file else text)

    def known(self, given: Mapping[str, Any], keys: Sequence[str], at: str) -> dict[str, Any]:
        """The known keys of a dict in snake_case; a warning for each of the others."""
        known = {}
        for key, value in given.items():
            name = _snake(key) if isinstance(key, str) else ""
            if name in keys:
                known[name] = value
            elif name in OLD_KEYS:
                self.warn(f"{at}: {key!r} is ignored: {OLD_KEYS[name]}")
            else:
                choices = [camel(k) if key != name or "_" not in str(key) else k for k in keys]
                self.warn(f"{at}: unknown key {key!r} is ignored.{did_you_mean(str(key), choices)}")
                self._unknown.setdefault(at, []).append(str(key))
        return known

    def missing(self, what: str, key: str, at: str, expected: str) -> NoReturn:
        """Refuse a dict that lacks a key, and name the one that was probably meant to be it."""
        near = [other for other in self._unknown.get(at, ()) if did_you_mean(other, [camel(key), key])]
        self.refuse(what, expected, f"There is {near[0]!r}; call it {camel(key)!r}" if near else "")

    def mapping(self, given: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(given, Mapping):
            self.refuse(f"{at} is {shown(given)}", "it is a dict")
        return given

    def text(self, given: Mapping[str, Any], key: str, at: str, *, required: bool = False) -> str:
        value = given.get(key)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value.strip()):
            if value is None:
                self.missing(f"{at} has no {camel(key)}", key, at, f'write "{camel(key)}": "…"')
            self.refuse(f"{at}: {camel(key)} is {shown(value)}", "it is text")
        return value.strip() if required else value

    def texts(self, given: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = given.get(key)
        if value is None:
            return ()
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            self.refuse(f"{camel(key)} is {shown(value)}", "it is a list of texts")
        texts = tuple(value)
        for text in texts:
            if not isinstance(text, str):
                self.refuse(f"{camel(key)} holds {shown(text)}", "it is a list of texts")
        return texts

    def flag(self, given: Mapping[str, Any], key: str) -> bool:
        value = given.get(key, False)
        if not isinstance(value, bool):
            self.refuse(f"{camel(key)} is {shown(value)}", "it is True or False")
        return value

    def word(self, given: Mapping[str, Any], key: str, words: Sequence[str], default: str) -> Any:
        value = given.get(key, default)
        if value not in words and value != default:
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            self.refuse(f"{camel(key)} is {shown(value)}", f"it is {' or '.join(words)}", near)
        return value

    def whole(self, given: Mapping[str, Any], key: str, at: str, *, least: int) -> int | None:
        value = given.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self.refuse(f"{at}: {camel(key)} is {shown(value)}", f"it is a whole number from {least}")
        return value

    def duration(self, given: Mapping[str, Any], key: str, at: str, *, least: int = 1) -> int | None:
        value = given.get(key)
        if value is None:
            return None
        try:
            length = micros(value)
        except ValueError:
            length = -1
        if length < least:
            self.refuse(
                f"{at}: {camel(key)} is {shown(value)}", 'it is a number of seconds, or text such as "5m"'
            )
        return length

    def function(self, given: Mapping[str, Any], key: str, at: str) -> Callable[..., Any] | None:
        value: Callable[..., Any] | None = given.get(key)
        if value is not None and not callable(value):
            self.refuse(f"{at}: {camel(key)} is {shown(value)}", "it is a function (input, ctx)")
        return value


def _snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()


def camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
