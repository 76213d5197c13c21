"""Values as bytes, by their declared type: what is written reads back as what it was.

A `Codec` writes JSON, except that bytes stand raw behind a zero byte.  Each
value is read back before it is kept (`roundtrip`), so that the first answer is
the replayed answer, and what could not be read later is refused now.  Types
are declared, never stored: nothing here names a class, and nothing is pickled.

Floor 0.  May import: codec.schemas, errors.  Imported by: codec.functions.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite
from types import NoneType
from typing import Any, Generic, TypeVar, Union

from pydantic_core import PydanticSerializationError, ValidationError, from_json, to_json, to_jsonable_python
from typing_extensions import TypeForm

from everstep.codec import schemas
from everstep.errors import NotEncodable

T = TypeVar("T")
_Type = type  # `type` is a parameter's name below

_RAW = b"\x00"
_ANNOTATE = "Annotate it, so that it comes back as the same type"
_SCALAR_TYPES = (str, int, float, bool, NoneType)  # a tuple: not every annotation can be hashed
_SCALARS: frozenset[Any] = frozenset(_SCALAR_TYPES)
_DICTS: tuple[Any, ...] = (dict, dict[str, Any], dict[str, object])
_LISTS: tuple[Any, ...] = (list, list[Any], list[object])


class Codec(Generic[T]):
    """
    Writes and reads the values of one declared type.

    Ask `codec_for` for one; it keeps them.  `note` says why a declared type is
    not used, and ends the message when a value is refused for that.
    """

    __slots__ = ("_canon", "_demand", "_dump", "_exact", "_load", "_raw", "_twins", "note", "type")

    def __init__(self, type: Any, *, note: str = "") -> None:
        self.type = type
        self.note = note
        self._canon: Callable[[Any], Any] | None = None
        self._twins = False
        self._exact: frozenset[Any]
        self._raw: bool
        self._demand: Callable[[Any], object] | None = None
        self._dump: Callable[[Any], bytes]
        self._load: Callable[[bytes], Any]
        if type is Any or type is object:
            self._plain(None)
        elif type in _DICTS or type in _LISTS:
            self._plain(dict if type in _DICTS else list)
        elif schemas.holds_struct(type):
            self._exact, self._raw, self._twins = frozenset(), False, True
            self._dump, self._load = schemas.struct_json(type)
        else:
            self._typed()

    def _plain(self, container: type | None) -> None:
        self._exact = frozenset() if container else _SCALARS
        self._raw = container is None
        self._canon = canonical

        def load(data: bytes) -> Any:
            value = from_json(data)
            if container and not isinstance(value, container):
                raise ValueError(f"expected a {container.__name__}, found {type(value).__name__}")
            return value

        # Null for nan and base64 for bytes, so that both fail the comparison with what was given.
        self._dump = lambda value: to_json(value, inf_nan_mode="null", bytes_mode="base64")
        self._load = load

    def _typed(self) -> None:
        choices, self._raw = schemas.without_bytes(self.type)
        # A text among other types may read back as one of them: only scalars alone are sure.
        self._exact = frozenset(choices) if all(c in _SCALAR_TYPES for c in choices) else frozenset()
        schema = schemas.Schema(Union[choices] if self._raw else self.type, on_any=_demand_plain)  # noqa: UP007 - of a tuple
        self._dump, self._load = schema.to_json, schema.from_json
        self._twins = schema.has_union
        self._demand = None if self._twins else schema.demand

    def encode(self, value: T, where: str = "") -> bytes:
        """
        The bytes of a value.

        Args:
            value: What to write.
            where: What the value is, for the message: "the result of charge()".

        Raises:
            NotEncodable: (a TypeError) It would not come back as what it is.
        """
        return self.roundtrip(value, where)[0]

    def decode(self, data: bytes) -> T:
        """
        The value of some bytes.

        Raises:
            ValueError: They do not fit the declared type.
        """
        if data[:1] == _RAW:
            if not self._raw:
                raise ValueError(f"expected {_name(self.type)}, found bytes")
            raw: Any = data[1:]
            return raw  # type: ignore[no-any-return]  # T is bytes here
        value: T = self._load(data)
        return value

    def roundtrip(self, value: T, where: str = "") -> tuple[bytes, T]:
        """
        The bytes of a value, and the value as a replay will see it.

        Raises:
            NotEncodable: (a TypeError) It would not come back as what it is.
        """
        kind = type(value)
        if kind in self._exact and (kind is not float or isfinite(value)):  # type: ignore[arg-type]
            try:
                return to_json(value), value
            except (PydanticSerializationError, ValueError) as error:
                raise self._refused(value, where, _reason(error)) from None
        if kind is bytes and self._raw:
            return _RAW + value, value  # type: ignore[operator]
        try:
            data = self._dump(value)
            back = self._load(data)
            # A model was checked when it was made, so it need not be compared.
            if self._demand and (
                type(back) is not kind or (not hasattr(kind, "model_fields") and back != value)
            ):
                self._demand(value)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise self._refused(value, where, _reason(error)) from error
        if self._canon is canonical:
            if back != value and (odd := _odd(value)):
                raise self._odd(odd, where)
        elif self._twins and not _same_types(value, back):
            raise self._refused(value, where, f"as JSON it reads back as {_show(back)}")
        return data, back

    def canonical(self, value: T) -> Any:
        """The value as JSON-like data that tells equal from different: defaults left out, sets sorted."""
        if self._canon is None:
            self._canon = _canonical_by(self)
        return self._canon(value)

    def _refused(self, value: object, where: str, why: str) -> NotEncodable:
        try:
            if self._canon is canonical and (odd := _odd(value)):
                return self._odd(odd, where)
        except RecursionError:
            pass  # it holds itself, as *why* says
        declared = "" if self.type is Any else f"Declared is {_name(self.type)}."
        return NotEncodable(where, found=_show(value), why=why, remedy=declared)

    def _odd(self, odd: tuple[str, object, str], where: str) -> NotEncodable:
        path, found, why = odd
        remedy = f"{_ANNOTATE}: {_name(type(found))}." if not self.note else f"{self.note}."
        return NotEncodable(where, found=_show(found), why=why, path=path, remedy=remedy)


def codec_for(type: TypeForm[T]) -> Codec[T]:
    """
    The codec of a type; the same one each time.

    ``Any`` is plain JSON and top-level bytes: a model, dataclass or date under
    it is refused, because nothing would say what to read it back as.

    Raises:
        TypeError: Values of this type cannot be written as JSON.
    """
    declared: Any = type
    try:
        hash(declared)
    except TypeError:
        return Codec(declared)  # Annotated with something mutable
    return _kept(declared)


@lru_cache(maxsize=4096)
def _kept(type: Any) -> Codec[Any]:
    return Codec(type)


# ---- plain JSON: what needs no declared type


def _odd(value: object, path: str = "") -> tuple[str, object, str] | None:
    """The first part of a value that plain JSON cannot keep: where, what, why."""
    if isinstance(value, float) and not isfinite(value):
        return path, value, "JSON has no such number"
    if value is None or isinstance(value, str | int | float):
        return None
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                return path, value, f"a key of a JSON object is text, and {_show(key)} is not"
            if odd := _odd(part, f"{path}.{key}"):
                return odd
        return None
    if isinstance(value, list) or type(value) is tuple:
        for i, part in enumerate(value):
            if odd := _odd(part, f"{path}[{i}]"):
                return odd
        return None
    return path, value, "no type is declared that would say what to read back"


def _demand_plain(value: object) -> object:
    # Called for each part of a typed value that is declared Any.
    if odd := _odd(value):
        path, found, why = odd
        at = f" at {path}" if path else ""
        raise TypeError(f"it holds {_show(found)}{at} where Any is declared, and {why}")
    return value


# ---- typed values


def _same_types(value: object, back: object) -> bool:
    """Whether a value came back as what it was; a subclass may come back as what was declared."""
    if not isinstance(value, type(back)):
        return isinstance(value, int) and isinstance(back, float)  # as everywhere in Python's typing
    if isinstance(value, dict) and isinstance(back, dict):
        return len(value) == len(back) and all(
            k in back and _same_types(v, back[k]) for k, v in value.items()
        )
    if isinstance(value, list | tuple) and isinstance(back, list | tuple):
        return len(value) == len(back) and all(map(_same_types, value, back))
    if isinstance(value, set | frozenset) and isinstance(back, set | frozenset):
        return {type(v) for v in back} <= {base for v in value for base in type(v).__mro__}
    names = _field_names(back)
    return all(_same_types(getattr(value, n, None), getattr(back, n, None)) for n in names)


def _field_names(value: object) -> tuple[str, ...]:
    kind = type(value)
    if model := getattr(kind, "model_fields", None):
        return tuple(model)
    if is_dataclass(kind):
        return tuple(f.name for f in fields(kind))
    return getattr(kind, "__struct_fields__", ())


def _reason(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        at = ".".join(map(str, first["loc"]))
        return f"it would not read back ({f'{at}: ' if at else ''}{first['msg']})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())
    if expected := re.search(r"Expected `(.+?)`", text):
        return f"it is not the {expected[1]} that is declared"
    return re.sub(r"^Error serializing to JSON: (\w+: )?(.*`_demand_plain`: TypeError: )?", "", text)


def _name(type: Any) -> str:
    return type.__name__ if isinstance(type, _Type) and not hasattr(type, "__args__") else str(type)


def _show(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, str | float | bytes | NoneType) or (
        isinstance(value, int) and abs(value) < 1 << 999
    ):
        text = repr(value)
        return f"{text[:60]}…" if len(text) > 60 else text
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


# ---- canonical data, for fingerprints


def canonical(value: Any) -> Any:
    """
    Any value as JSON-like data that tells equal from different.

    The same in every process: sets are sorted, fields that hold their default
    are left out, and an object of unknown kind counts by its class alone.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, dict):
        return {k if type(k) is str else text_of(canonical(k)): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(canonical, value), key=text_of)
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, Mapping):
        return canonical(dict(value))
    if isinstance(value, bytes | bytearray):
        return ["bytes", b64encode(value).decode()]
    if schemas.is_struct(kind):
        return schemas.struct_facts(value, canonical)
    if hasattr(kind, "__pydantic_serializer__") or is_dataclass(kind):
        try:
            return codec_for(kind).canonical(value)
        except Exception:
            return ["object", f"{kind.__module__}.{kind.__qualname__}"]
    try:
        return to_jsonable_python(value)
    except Exception:
        named = value if hasattr(value, "__qualname__") else kind
        return ["object", f"{getattr(named, '__module__', '')}.{named.__qualname__}"]


def _canonical_by(codec: Codec[Any]) -> Callable[[Any], Any]:
    if codec._raw or schemas.holds_struct(codec.type):
        return canonical
    schema = schemas.Schema(codec.type, on_any=canonical, on_set=lambda v, rest: sorted(rest(v), key=text_of))

    def by_type(value: Any) -> Any:
        try:
            return schema.facts(value)
        except Exception:
            return canonical(value)

    return by_type


text_of: Callable[[Any], str] = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode
"""Canonical data as text: keys sorted, nothing between."""
