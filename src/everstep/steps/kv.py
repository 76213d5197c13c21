"""State as a Step sees it: named groups of keys, each with a JSON value.

A value is kept as its own class says (a model, a dataclass) or as plain JSON;
read with a type it is that type again, read without one it is plain data.

Floor 5.  May import: engine.effects, codec, validator.  Imported by: context.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any, overload

from typing_extensions import TypeForm, TypeVar

from everstep.codec import Codec, codec_for
from everstep.engine.effects import Effects
from everstep.steps.validator import PLAIN

T = TypeVar("T")


class Changed(dict[str, Any]):
    """What a write did: `new_value` and `old_value`, by key or by attribute."""

    @property
    def new_value(self) -> Any:
        """The value as it is now."""
        return self["new_value"]

    @property
    def old_value(self) -> Any:
        """The value as it was; None when there was none."""
        return self["old_value"]


class KV:
    """
    Groups of keys that every Step shares: ``ctx.state``, and ``ctx.kv`` in our own word.

    A write is durable and visible to all when its await returns; inside
    ``ctx.atomic()`` it is when the block ends.
    """

    __slots__ = ("_effects",)

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    @overload
    async def get(self, group: str, key: str, /) -> Any: ...
    @overload
    async def get(self, group: str, key: str, type: TypeForm[T], /) -> T | None: ...
    async def get(self, group: str, key: str, type: Any = Any, /) -> Any:
        """The value of a key, or None when there is none."""
        data = await self._effects.kv_get(_text("group", group), _text("key", key))
        return None if data is None else _codec(type).decode(data)

    async def set(self, group: str, key: str, value: Any, /) -> Changed:
        """
        Write one value, whatever was there.

        Raises:
            NotEncodable: It cannot be kept as JSON; nothing was written.
        """
        data = _encode(value, f"state {group}/{key}")
        old = await self._effects.kv_set(_text("group", group), _text("key", key), data)
        return _changed(old, data)

    async def update(self, group: str, key: str, ops: Sequence[Mapping[str, Any]], /) -> Changed:
        """
        Change parts of a value at once: several Steps may do so at the same time, and none is lost.

        Args:
            ops: What to do, in order: ``{"type": "increment", "path": "count", "by": 1}``; the
                types are set, increment, decrement, append, merge and remove.

        Raises:
            UpdateError: An operation does not fit the value; none of them was applied.
        """
        plain = [{name: _plain(part) for name, part in op.items()} for op in ops]
        old, new = await self._effects.kv_update(_text("group", group), _text("key", key), plain)
        return _changed(old, new)

    async def delete(self, group: str, key: str, /) -> Any:
        """Remove a key; answers the value it had, or None."""
        old = await self._effects.kv_delete(_text("group", group), _text("key", key))
        return None if old is None else PLAIN.decode(old)

    @overload
    async def list(self, group: str, /) -> builtins.list[Any]: ...
    @overload
    async def list(self, group: str, type: TypeForm[T], /) -> builtins.list[T]: ...
    async def list(self, group: str, type: Any = Any, /) -> builtins.list[Any]:
        """All values of a group, by key."""
        codec = _codec(type)
        return [codec.decode(data) for _, data in await self._effects.kv_list(_text("group", group))]

    async def list_groups(self) -> builtins.list[str]:
        """The names of all groups that hold something."""
        return await self._effects.kv_groups()

    listGroups = get_groups = list_groups  # Motia's words

    async def clear(self, group: str, /) -> int:
        """Remove a whole group; answers how many keys went."""
        return await self._effects.kv_clear(_text("group", group))


def _codec(type: Any) -> Codec[Any]:
    return PLAIN if type is Any else codec_for(type)


def _encode(value: Any, where: str) -> bytes:
    kind = type(value)
    modelled = hasattr(kind, "__pydantic_serializer__") or hasattr(kind, "__dataclass_fields__")
    codec: Codec[Any] = codec_for(kind) if modelled else PLAIN
    return codec.encode(value, where)


def _plain(part: Any) -> Any:
    return part if isinstance(part, str | int | float | None) else PLAIN.decode(_encode(part, "an operation"))


def _changed(old: bytes | None, new: bytes) -> Changed:
    return Changed(new_value=PLAIN.decode(new), old_value=None if old is None else PLAIN.decode(old))


def _text(what: str, given: str) -> str:
    if not isinstance(given, str) or not given:
        raise TypeError(f"the {what} is {given!r}; groups and keys of state are text that is not empty")
    return given
