"""Updates of JSON-like values: set, increment, decrement, append, merge, remove.

All or nothing: the value given is never changed, and either every op applies
to the copy that is returned, or an `UpdateError` names the first that does not.
A path walks keys and list indexes: "items.0.price"; a dot in a key is "\\.".

Floor 1.  May import: errors.  Imported by: core.decide, engine, steps, http, cli.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from everstep.errors import UpdateError, did_you_mean

Op = Mapping[str, Any]
_Check = Callable[[object], str]

_MISSING: Any = object()
_DEEPEST = 100
_KEY = re.compile(r"(?:^|\.)((?:[^.\\]|\\.|\\$)*)", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def _number(value: object) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    return "" if fits else "a number"


def _dict(value: object) -> str:
    return "" if isinstance(value, dict) else "a dict"


def _list(value: object) -> str:
    return "" if isinstance(value, list) else "a list"


def _add(old: Any, by: Any) -> Any:
    return by if old is _MISSING else old + by


def _subtract(old: Any, by: Any) -> Any:
    return -by if old is _MISSING else old - by


def _append(old: Any, value: Any) -> Any:
    return [value] if old is _MISSING else [*old, value]


def _merge(old: Any, value: Any) -> Any:
    return dict(value) if old is _MISSING else {**old, **value}


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of op: its operand, what that and the old value must be, and what becomes of them."""

    operand: str
    change: Callable[[Any, Any], Any]
    given: _Check | None = None
    found: _Check | None = None


_KINDS = {
    "set": _Kind("value", lambda _, value: value),
    "increment": _Kind("by", _add, given=_number, found=_number),
    "decrement": _Kind("by", _subtract, given=_number, found=_number),
    "append": _Kind("value", _append, found=_list),
    "merge": _Kind("value", _merge, given=_dict, found=_dict),
    "remove": _Kind("", lambda _old, _given: _MISSING),
}


def apply(value: Any, ops: Sequence[Op]) -> Any:
    """
    The value that results from applying some ops in order; the one given stays as it is.

    Missing dicts on the way are created, except for remove.  A missing number
    counts as 0 and a missing list or dict as empty; to remove what is missing
    does nothing.  `merge` is shallow.  At the root ("") remove leaves None.

    Raises:
        UpdateError: An op is malformed, or does not fit what it found. Nothing was changed.

    >>> apply({"n": 1}, [{"type": "increment", "path": "n", "by": 2}])
    {'n': 3}
    """
    validate_ops(ops)
    for number, op in enumerate(ops):
        # At the root None is what a key that is not there reads as.
        new = _Update(number, op).of(_MISSING if value is None else value, split(op.get("path", "")))
        value = None if new is _MISSING else new
    return value


def validate_ops(ops: Sequence[Op]) -> None:
    """
    Look at ops before anything is changed.

    Raises:
        UpdateError: One is malformed.
    """
    if isinstance(ops, str | bytes | Mapping) or not isinstance(ops, Sequence):
        raise UpdateError(op=0, type="?", path="", expected="a list of ops", found=_show(ops))
    for number, op in enumerate(ops):
        _validate(number, op)


def _validate(number: int, op: object) -> None:
    if not isinstance(op, Mapping):
        raise UpdateError(
            op=number,
            type="?",
            path="",
            expected='an op such as {"type": "set", "path": "a.b", "value": 1}',
            found=_show(op),
        )
    name, path = op.get("type", _MISSING), op.get("path", "")

    def fault(expected: str, found: str, hint: str = "") -> UpdateError:
        known = path if isinstance(path, str) else ""
        return UpdateError(op=number, type=str(name), path=known, expected=expected, found=found, hint=hint)

    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise _unknown(number, name)
    if not isinstance(path, str):
        raise fault('path to be text such as "a.b.0", or "" for the whole value', _show(path))
    if len(split(path)) > _DEEPEST:
        raise fault(f"a path of at most {_DEEPEST} keys", str(len(split(path))))
    if strange := op.keys() - {"type", "path", kind.operand}:
        word = str(min(strange, key=str))
        raise fault(
            f"only type, path, {kind.operand}".rstrip(" ,"), repr(word), did_you_mean(word, [kind.operand])
        )
    if kind.operand == "value" and "value" not in op:
        raise fault("a value", "none")
    if kind.given and (expected := kind.given(op.get(kind.operand, 1))):
        raise fault(f"{kind.operand} to be {expected}", _show(op[kind.operand]))


def _unknown(number: int, name: object) -> UpdateError:
    ops = f"ops are {', '.join(_KINDS)}"
    said = repr(name) if isinstance(name, str) else _show(name)
    what = "has no type" if name is _MISSING else f"is {said}"
    return UpdateError(
        op=number,
        type=str(name),
        path="",
        expected=ops,
        found=_show(name),
        hint=did_you_mean(name, _KINDS) if isinstance(name, str) else "",
        text=f"op {number} {what}; {ops}",
    )


@contextmanager
def naming(group: str, key: str) -> Iterator[None]:
    """Let an `UpdateError` inside say whose value it is."""
    try:
        yield
    except UpdateError as error:
        raise error.of(group, key) from None


@lru_cache(maxsize=1024)
def split(path: str) -> tuple[str, ...]:
    """
    The keys of a path; "" is none, the root.

    >>> split(r"a.b\\.c.0")
    ('a', 'b.c', '0')
    """
    if path == "":
        return ()
    return tuple(re.sub(r"(?s)\\(.)", r"\1", part) for part in _KEY.findall(path))


@dataclass(frozen=True, slots=True)
class _Update:
    """One op, and its way down: each place it passes is copied, so that the one given stays as it is."""

    number: int
    op: Op

    def of(self, here: Any, keys: Sequence[str]) -> Any:
        """What becomes of *here*; missing, if nothing is left of it."""
        removes = self.op["type"] == "remove"
        if not keys:
            return self._changed(here)
        if here is _MISSING:
            if removes:
                return here
            here = {}
        if isinstance(here, dict):
            return _without_missing(
                {**here, keys[0]: self.of(here.get(keys[0], _MISSING), keys[1:])}, keys[0]
            )
        if isinstance(here, list) and (index := self._index(here, keys[0])) is not None:
            return _without_missing(
                [*here[:index], self.of(here[index], keys[1:]), *here[index + 1 :]], index
            )
        if removes:
            return here
        raise self._fault("a dict or a list on the way", _show(here))

    def _changed(self, old: Any) -> Any:
        kind = _KINDS[self.op["type"]]
        if old is not _MISSING and kind.found and (expected := kind.found(old)):
            raise self._fault(expected, _show(old))
        try:
            new = kind.change(old, self.op.get(kind.operand, 1))
        except OverflowError:  # a whole number beyond all floats, and a float
            new = math.inf
        if kind.given is _number and _number(new):
            raise self._fault("a sum that stays finite", _show(old))
        return new

    def _index(self, here: list[Any], key: str) -> int | None:
        if _INDEX.fullmatch(key) and int(key) < len(here):
            return int(key)
        if self.op["type"] == "remove":
            return None
        raise self._fault(f"an index of a list of {len(here)}", repr(key))

    def _fault(self, expected: str, found: str) -> UpdateError:
        op = self.op
        return UpdateError(
            op=self.number, type=op["type"], path=op.get("path", ""), expected=expected, found=found
        )


def _without_missing(place: Any, key: str | int) -> Any:
    if place[key] is _MISSING:
        del place[key]
    return place


def _show(value: object) -> str:
    if value is _MISSING:
        return "none"
    try:
        text = repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        text = "…"
    return f"{type(value).__name__} {text[:60] + '…' if len(text) > 60 else text}"
