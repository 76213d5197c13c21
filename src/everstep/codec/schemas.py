"""How pydantic and msgspec are asked to write a type for the journal.

A model may be configured for the web (aliases, nan as null, bytes as text);
in the journal it must come back exactly.  So its core schema is taken with
its validators and serializers, and the settings that lose something replaced.

Floor 0.  May import: nothing.  Imported by: codec.values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic_core import SchemaSerializer, SchemaValidator

_Type = type  # `type` is a parameter's name below
_EXACT = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "strings",
    "ser_json_timedelta": "iso8601",
    "ser_json_temporal": "iso8601",
}
_SCALAR_NODES = (
    (str, "str"),
    (int, "int"),
    (float, "float"),
    (bool, "bool"),
    (NoneType, "none"),
    (bytes, "bytes"),
)
_CONFIGURED = frozenset({"model", "dataclass", "typed-dict"})
_FIELDS = frozenset({"model-field", "dataclass-field", "typed-dict-field"})
_ALIASES = frozenset({"alias", "validation_alias", "serialization_alias"})
# What holds a user's data, or is already about writing, is not looked into.
_OPAQUE = frozenset({"metadata", "default", "expected", "members", "serialization", "custom_error_context"})
_BY_NAME = frozenset({"fields", "choices"})


def without_bytes(type: Any) -> tuple[tuple[Any, ...], bool]:
    """The members of a union, or the type alone, but for bytes; and whether bytes was among them."""
    members = get_args(type) if get_origin(type) in (Union, UnionType) else (type,)
    members = tuple(NoneType if m is None else m for m in members)
    others = tuple(m for m in members if m is not bytes)
    # Bytes alone are read from base64 too: from JSON that another process wrote.
    return others or members, others != members


class Schema:
    """
    One type, written by pydantic as the journal wants it.

    `to_json` writes what it is given, `demand` refuses what is not of the type
    and takes four times as long, `from_json` refuses text that is not of it.
    `facts` is JSON-like data without the fields that hold their default.

    Args:
        type: Any type pydantic knows.
        on_any: Called with each part that is declared Any, before it is written.
        on_set: Called with each set and the function that writes it.

    Raises:
        TypeError: pydantic does not know the type.
    """

    def __init__(
        self,
        type: Any,
        *,
        on_any: Callable[[Any], Any],
        on_set: Callable[[Any, Callable[[Any], Any]], Any] | None = None,
    ) -> None:
        self.has_union = False
        self._on_any = on_any
        self._on_set = on_set
        schema = self._walk(_core_schema(type))
        validator = _built(SchemaValidator, schema)
        serializer = _built(SchemaSerializer, schema)
        self.from_json: Callable[[bytes], Any] = validator.validate_json
        self.to_json: Callable[[Any], bytes] = lambda value: serializer.to_json(
            value, warnings=False, round_trip=True
        )
        self.demand: Callable[[Any], bytes] = lambda value: serializer.to_json(
            value, warnings="error", round_trip=True
        )
        self.facts: Callable[[Any], Any] = lambda value: serializer.to_python(
            value, mode="json", exclude_defaults=True, round_trip=True, warnings="none"
        )

    def _walk(self, node: Any) -> Any:
        if isinstance(node, list | tuple):
            return [*map(self._walk, node)] if isinstance(node, list) else (*map(self._walk, node),)
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        self.has_union = self.has_union or kind == "union"
        walked = {
            key: value if key in _OPAQUE else self._named(value) if key in _BY_NAME else self._walk(value)
            for key, value in node.items()
            if not (kind in _FIELDS and key in _ALIASES)
        }
        if kind in _CONFIGURED:
            walked["config"] = {**walked.get("config", {}), **_EXACT}
        if "serialization" not in walked:
            self._hook(walked, kind)
        return walked

    def _named(self, nodes: Any) -> Any:
        # Names are the user's: a field may be called "default".
        return (
            {name: self._walk(n) for name, n in nodes.items()}
            if isinstance(nodes, dict)
            else self._walk(nodes)
        )

    def _hook(self, node: dict[str, Any], kind: Any) -> None:
        if kind == "any":
            node["serialization"] = {"type": "function-plain", "function": self._on_any}
        elif kind in ("set", "frozenset") and self._on_set:
            node["serialization"] = {
                "type": "function-wrap",
                "function": self._on_set,
                "schema": dict(node),
                "return_schema": {"type": "any"},
            }


def _core_schema(type: Any) -> Any:
    if node := next((node for scalar, node in _SCALAR_NODES if type is scalar), None):
        return {"type": node}
    # Plain types do not need it, and it takes long to import.
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        adapter = TypeAdapter(type)
        if not isinstance(adapter.core_schema, dict):
            adapter.rebuild(force=True)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise TypeError(
            f"values of {type} cannot be written as JSON: {str(error).splitlines()[0]}"
        ) from error
    return adapter.core_schema


def _built(make: Any, schema: Any) -> Any:
    try:
        # A model keeps a validator built with its own settings; ours must not be replaced by it.
        return make(schema, _EXACT, _use_prebuilt=False)
    except TypeError:
        return make(schema, _EXACT)


# ---- msgspec: only when a type is one of its Structs, and then it is loaded already


def is_struct(type: Any) -> bool:
    """Whether a type is a msgspec.Struct."""
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and isinstance(type, _Type) and issubclass(type, msgspec.Struct)


def holds_struct(type: Any) -> bool:
    """Whether a type is, or is made of, a msgspec.Struct."""
    if "msgspec" not in sys.modules:
        return False
    if is_struct(get_origin(type) or type):
        return True
    parts = get_args(type)[:1] if get_origin(type) is Annotated else get_args(type)
    return any(map(holds_struct, parts))


def struct_json(type: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """
    How msgspec writes and reads a type.

    Raises:
        TypeError: msgspec does not know the type.
    """
    msgspec: Any = sys.modules["msgspec"]
    try:
        return msgspec.json.Encoder().encode, msgspec.json.Decoder(type).decode
    except NameError as error:
        raise TypeError(f"values of {type} cannot be written as JSON: {error}") from error


def struct_facts(value: Any, canonical: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a Struct that do not hold their default."""
    msgspec: Any = sys.modules["msgspec"]
    facts = {}
    for field in msgspec.structs.fields(type(value)):
        given = getattr(value, field.name)
        made = field.default_factory is not msgspec.NODEFAULT
        if given != (field.default_factory() if made else field.default):
            facts[field.name] = canonical(given)
    return facts
