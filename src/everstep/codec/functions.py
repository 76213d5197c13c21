"""What a function's annotations say of its arguments and its result.

Nothing here fails on an annotation: one that cannot be resolved or written
counts as none, and a value that is refused for that says so.

Floor 0.  May import: clock, codec.values.  Imported by: codec.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from everstep.clock import TIME_READERS
from everstep.codec.values import Codec, codec_for, text_of

_ANY: Codec[Any] = codec_for(Any)


@dataclass(frozen=True, slots=True)
class _Signature:
    """The codecs of one function: of its result, and of its positional parameters."""

    returns: Codec[Any]
    names: tuple[str, ...] = ()
    arguments: tuple[Codec[Any], ...] = ()


_signatures: WeakKeyDictionary[Any, _Signature] = WeakKeyDictionary()
# What a body asks for most carries no annotation.
_UNANNOTATED: dict[Any, type] = {**TIME_READERS, uuid.uuid1: uuid.UUID, uuid.uuid4: uuid.UUID}


def return_codec(fn: Callable[..., Any]) -> Codec[Any]:
    """
    The codec of what a function returns, by its annotation; plain JSON without one.

    Knows functions, coroutine functions, methods, partials, classes and callable objects.
    """
    inner, _ = _inner(fn)
    return _signature(inner).returns


def argument_codecs(fn: Callable[..., Any]) -> tuple[Codec[Any], ...]:
    """The codecs of the positional parameters that callers of this function fill, in order."""
    inner, filled = _inner(fn)
    of = _signature(inner)
    if inner is fn:
        return of.arguments
    named = fn.keywords if isinstance(fn, partial) else {}
    left = zip(of.names[filled:], of.arguments[filled:], strict=True)
    return tuple(codec for name, codec in left if name not in named)


def fingerprint(codecs: Sequence[Codec[Any]], args: Sequence[Any]) -> int:
    """
    A number from 1 to 2**63 - 1 that changes when an argument does; the same in every process.

    Neither the order of keys nor a field at its default counts, so that a new
    optional field strands no run.  0 stays free to mean "none was taken".

    Args:
        codecs: Of the arguments, from `argument_codecs`; what is beyond them counts as Any.
        args: The arguments of one call.
    """
    if len(args) == 1:
        data = _facts(codecs[0] if codecs else _ANY, args[0])
    else:
        parts = [_facts(codecs[i] if i < len(codecs) else _ANY, arg) for i, arg in enumerate(args)]
        # Their lengths keep ("ab", "c") apart from ("a", "bc").
        data = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return int.from_bytes(blake2b(data, digest_size=8).digest()) >> 1 or 1


def _facts(codec: Codec[Any], arg: Any) -> bytes:
    kind = type(arg)
    if kind is str:
        return b"s" + arg.encode("utf-8", "surrogatepass")  # type: ignore[no-any-return]
    if kind is int:
        return b"i%x" % arg
    if kind is bytes:
        return b"b" + arg  # type: ignore[no-any-return]
    return b"j" + text_of(codec.canonical(arg)).encode("utf-8", "surrogatepass")


def _inner(fn: Any) -> tuple[Any, int]:
    """The function or class that has the annotations, and how many of its parameters are filled."""
    filled = 0
    while True:
        if isinstance(fn, FunctionType):
            return (inspect.unwrap(fn) if hasattr(fn, "__wrapped__") else fn), filled
        if isinstance(fn, type | BuiltinMethodType):
            return fn, filled
        if isinstance(fn, partial):
            fn, filled = fn.func, filled + len(fn.args)
        elif isinstance(fn, MethodType):
            fn, filled = fn.__func__, filled + 1
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif isinstance(type(fn).__call__, FunctionType):
            fn, filled = type(fn).__call__, filled + 1
        else:
            return fn, filled


def _signature(fn: Any) -> _Signature:
    try:
        return _signatures[fn]
    except KeyError:
        found = _signatures[fn] = _read(fn)
        return found
    except TypeError:
        return _read(fn)  # a builtin that cannot be referred to weakly


def _read(fn: Any) -> _Signature:
    if fn in _UNANNOTATED:
        return _Signature(codec_for(_UNANNOTATED[fn]))
    if isinstance(fn, type):
        maker = vars(fn).get("__init__")
        makes = _usable(fn, fn.__qualname__)
        if not isinstance(maker, FunctionType):
            return _Signature(makes)
        names, arguments = _arguments(maker, _hints(maker))
        return _Signature(makes, names[1:], arguments[1:])
    if not isinstance(fn, FunctionType):
        return _Signature(_ANY)
    hints = _hints(fn)
    returns = hints.get("return", Any)
    if get_origin(returns) in (Awaitable, Coroutine):  # a plain function that hands on a coroutine
        returns = get_args(returns)[-1]
    return _Signature(_usable(returns, fn.__qualname__), *_arguments(fn, hints))


def _arguments(fn: FunctionType, hints: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Codec[Any], ...]]:
    names = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    return names, tuple(_usable(hints.get(name, Any), fn.__qualname__) for name in names)


@dataclass(frozen=True, slots=True)
class _Unresolved:
    annotation: Any
    reason: str


def _hints(fn: FunctionType) -> dict[str, Any]:
    try:
        return get_type_hints(fn, include_extras=True)
    except Exception:
        pass
    try:
        annotations = dict(fn.__annotations__)
    except Exception:  # Python 3.14 resolves them here
        return {}
    # One name known only to the type checker must not cost the others their types.
    return {name: _hint(fn, name, annotation) for name, annotation in annotations.items()}


def _hint(fn: FunctionType, name: str, annotation: Any) -> Any:
    probe = FunctionType(fn.__code__, fn.__globals__, closure=fn.__closure__)
    probe.__annotations__ = {name: annotation}
    try:
        return get_type_hints(probe, include_extras=True)[name]
    except Exception as error:
        return _Unresolved(annotation, str(error))


def _usable(hint: Any, owner: str) -> Codec[Any]:
    if isinstance(hint, _Unresolved):
        known = "names what is not there at run time: define or import it at module level"
        return Codec(Any, note=f"The annotation {hint.annotation!r} of {owner} {known} ({hint.reason})")
    try:
        return codec_for(hint)
    except Exception as error:
        return Codec(Any, note=f"The annotation of {owner} cannot be used: {str(error).rstrip('.')}")
