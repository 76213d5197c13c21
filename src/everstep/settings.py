"""What a process is told by its environment: EVERSTEP_STORE, EVERSTEP_PORT, …

A wrong value stops the start and names the variable, the value and what would
do; a name that is not ours is warned about, for it is mostly a misspelt one.

Floor 0.  May import: durations, errors, log.  Imported by: app, cli.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, cast

from everstep.durations import seconds
from everstep.errors import ConfigError, did_you_mean
from everstep.log import Logger

_PREFIX = "EVERSTEP_"
_NOT_OURS = ("EVERSTEP_TEST_", "EVERSTEP_TORTURE")
_ON = {
    "on": True,
    "1": True,
    "true": True,
    "yes": True,
    "off": False,
    "0": False,
    "false": False,
    "no": False,
}
_SIZES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_DURATION = "a duration such as 15s, 2m or 7d"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one process works with.  Durations are in seconds, sizes in bytes."""

    store: str = "sqlite:///everstep.db"
    host: str = "127.0.0.1"
    port: int = 3111
    concurrency: int = 100
    lease: float = 15.0
    work: bool = True
    evict: Literal["lru", "always"] = "lru"
    dev: bool = False
    log: Literal["pretty", "json"] = "pretty"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    body_limit: int = 1 << 20
    requests: int = 1000
    token: str = field(default="", repr=False)
    cors: tuple[str, ...] = ()
    drain: float = 25.0
    retention: float = 604_800.0

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """
        The settings of this process.

        An override wins over the environment, unless it is None; an empty
        variable counts as not set.

        Args:
            env: The environment; os.environ unless given.
            overrides: Settings by name, as values or as the text a variable would hold.

        Raises:
            ConfigError: A value is not what its variable takes.

        >>> Settings.load(port=8080).port
        8080
        """
        given = os.environ if env is None else env
        _warn_of_strangers(given)
        known = {field.name for field in fields(cls)}
        for name in overrides:
            if name not in known:
                raise ConfigError(f"there is no setting {name!r}", suggestion=did_you_mean(name, known))
        values = {name: text for name in known if (text := given.get(_variable(name), "").strip())}
        found = {name: _read(_variable(name), name, text) for name, text in values.items()}
        found |= {n: _read(n, n, value) for n, value in overrides.items() if value is not None}
        return cls(**found)


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _warn_of_strangers(env: Mapping[str, str]) -> None:
    ours = {_variable(field.name) for field in fields(Settings)}
    for name in env:
        if name.startswith(_PREFIX) and name not in ours and not name.startswith(_NOT_OURS):
            Logger("everstep.settings").warning(
                f"{name} is no setting and is ignored.{did_you_mean(name, ours)}"
            )


def _read(source: str, name: str, value: object) -> Any:
    read, expected = _READERS[name]
    try:
        return read(value)
    except (ValueError, TypeError, KeyError):
        near = did_you_mean(value, _WORDS.get(name, ())) if isinstance(value, str) else ""
        raise ConfigError(
            f"{source} is {value!r}", expected=f"it takes {expected}", suggestion=near
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value.strip()


def _store(value: object) -> str:
    text = _text(value)
    if "://" not in text:
        raise ValueError(value)
    return text


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(value)
        return number

    return read


def _length(value: object) -> float:
    return seconds(cast(Any, value))


def _items(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else cast(Any, value)
    return tuple(_text(part) for part in parts)


def _some_time(value: object) -> float:
    if (length := _length(value)) < 1:
        raise ValueError(value)
    return length


def _on(value: object) -> bool:
    return value if isinstance(value, bool) else _ON[str(value).strip().lower()]


def _word(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        word = _text(value).lower()
        if word not in words:
            raise ValueError(value)
        return word

    return read


def _level(value: object) -> str:
    word = _text(value).lower()
    return _word(*_WORDS["log_level"])({"warn": "warning"}.get(word, word))


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", _text(value).lower()):
        size = round(float(found[1]) * _SIZES[found[2]])
    else:
        raise ValueError(value)
    if not 1 <= size <= 1 << 40:
        raise ValueError(value)
    return size


_WORDS: dict[str, tuple[str, ...]] = {
    "evict": ("lru", "always"),
    "log": ("pretty", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "work": ("on", "off"),
}
_READERS: dict[str, tuple[Callable[[object], Any], str]] = {
    "store": (_store, "a store's URL such as sqlite:///everstep.db or postgresql://user@host/name"),
    "host": (_text, "an address to listen on such as 127.0.0.1"),
    "port": (_whole(0, 65_535), "a port from 0 to 65535"),
    "concurrency": (_whole(1, 100_000), "a whole number from 1 to 100000"),
    "lease": (_some_time, f"{_DURATION}, of a second or more"),
    "work": (_on, "on or off"),
    "evict": (_word(*_WORDS["evict"]), "lru or always"),
    "dev": (_on, "0 or 1"),
    "log": (_word(*_WORDS["log"]), "pretty or json"),
    "log_level": (_level, "debug, info, warning or error"),
    "body_limit": (_size, "a size such as 1MiB, 512KB or 1048576"),
    "requests": (_whole(1, 1_000_000), "how many requests are served at once, from 1 to 1000000"),
    "token": (_text, "a secret that clients of the API send"),
    "cors": (_items, "origins such as https://shop.example, separated by commas, or *"),
    "drain": (_length, _DURATION),
    "retention": (_length, _DURATION),
}
