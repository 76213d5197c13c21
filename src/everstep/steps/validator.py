"""Whether a value is what was declared: a pydantic model, any type, or a JSON Schema.

What enters a Step (a body, a query, a message) and what leaves it (a response)
is checked by one `Validator`, and whatever is wrong is named at once, each
fault by its path: ``body.items[2].price``.  The bytes of a message are its
public JSON (aliases as declared), so that every producer can write it: another
Step, the command line, a program that never heard of the model.

Floor 5.  May import: codec, errors.  Imported by: steps, http.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from re import search
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pydantic_core import PydanticSerializationError, ValidationError, from_json, to_json

from everstep.codec import Codec
from everstep.errors import ConfigError, EverstepError, NotEncodable

if TYPE_CHECKING:  # each takes long to import, and is imported when the first type or schema is declared
    from jsonschema.exceptions import ValidationError as SchemaFault
    from pydantic import TypeAdapter

PLAIN: Codec[Any] = Codec(Any)
"""Plain JSON, and bytes as they are: values no type is declared for."""

_LONGEST = 200  # a message may quote the value it refuses; nobody wants all of it


class Fault(NamedTuple):
    """One thing that is wrong: where, and what."""

    path: str
    message: str


class InvalidInput(EverstepError, ValueError):
    """
    A value is not what was declared; `faults` names everything that is wrong with it.

    >>> raise InvalidInput([Fault("body.items[2].price", "Input should be a valid number")])
    """

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        self.faults = tuple(Fault(*fault) for fault in faults)
        super().__init__("; ".join(f"{path}: {message}" for path, message in self.faults))


class Validator(Protocol):
    """Checks values against one declaration.  `validator_of` makes one."""

    source: Any
    """What was declared: the type, or the schema."""

    typed: bool
    """True when `validate` answers an instance of a type, not the plain value."""

    def validate(self, value: Any, at: str = "body") -> Any:
        """
        The value as its declaration wants it; a JSON Schema leaves it as it is.

        Args:
            value: What was given, as plain JSON data or as an instance already.
            at: What the value is called in the paths of faults.

        Raises:
            InvalidInput: It does not fit; every fault is named.
        """

    def load(self, data: bytes, at: str = "input") -> Any:
        """
        The validated value of a message's bytes.

        Raises:
            InvalidInput: They are no JSON, or do not fit.
        """

    def dump(self, value: Any, at: str = "data") -> bytes:
        """
        The bytes of a message, after making sure that `load` would take them.

        Raises:
            InvalidInput: The value does not fit.
        """

    def json_schema(self) -> dict[str, Any]:
        """The declaration as JSON Schema, for OpenAPI and forms."""


def validator_of(declared: Any) -> Validator:
    """
    The validator of a JSON Schema (a dict), a pydantic model or any other type.

    Raises:
        ConfigError: It is not a valid JSON Schema, or no type that pydantic knows.
    """
    return SchemaValidator(declared) if isinstance(declared, Mapping) else TypeValidator(declared)


def plain_json(value: Any, where: str = "") -> bytes:
    """
    The public JSON of a value no type is declared for.

    A model or dataclass is written as its own class says; bytes stand as they are.

    Raises:
        NotEncodable: JSON cannot hold it.
    """
    kind = type(value)
    if hasattr(kind, "__pydantic_serializer__") or hasattr(kind, "__dataclass_fields__"):
        try:
            return _adapter(kind).dump_json(value, by_alias=True)
        except PydanticSerializationError as error:
            raise NotEncodable(where, found=f"a {kind.__name__}", why=str(error)) from error
    return PLAIN.encode(value, where)


def plain_value(value: Any, where: str = "") -> Any:
    """A value as the JSON data it will be: models become dicts."""
    return PLAIN.decode(plain_json(value, where))


class TypeValidator:
    """Checks against a Python type, and answers instances of it."""

    typed = True

    def __init__(self, declared: Any) -> None:
        self.source = declared
        self._adapter = _adapter(declared)

    def validate(self, value: Any, at: str = "body") -> Any:
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            # A strict model takes from JSON what it refuses from Python: a date as text, a tuple as a list.
            if (data := _as_json(value)) is not None:
                return self.load(data, at)
            raise InvalidInput(list(_type_faults(error, at))) from error

    def load(self, data: bytes, at: str = "input") -> Any:
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise InvalidInput(list(_type_faults(error, at))) from error

    def dump(self, value: Any, at: str = "data") -> bytes:
        fitting = self.validate(value, at)
        try:
            data = self._adapter.dump_json(fitting, by_alias=True)
        except PydanticSerializationError as error:
            raise NotEncodable(at, found=f"a {type(value).__name__}", why=str(error)) from error
        # A subclass, or an alias that is only written, would be refused by whoever reads it.
        self.load(data, at)
        return data

    def json_schema(self) -> dict[str, Any]:
        return self._adapter.json_schema(mode="validation")


class SchemaValidator:
    """Checks against a JSON Schema (Draft 2020-12) and leaves the value as it is."""

    typed = False

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        self.source = schema
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            at = _path("", error.absolute_path).lstrip(".")
            where = f" at {at}" if at else ""
            raise ConfigError(f"is not a valid JSON Schema{where}: {_short(error.message)}") from error
        self._validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)

    def validate(self, value: Any, at: str = "body") -> Any:
        errors = self._validator.iter_errors(value)
        faults = [fault for error in errors for fault in _schema_faults(error, at)]
        if faults:
            raise InvalidInput(list(dict.fromkeys(faults)))
        return value

    def load(self, data: bytes, at: str = "input") -> Any:
        return self.validate(load_plain(data, at), at)

    def dump(self, value: Any, at: str = "data") -> bytes:
        data = plain_json(value, at)
        self.load(data, at)
        return data

    def json_schema(self) -> dict[str, Any]:
        return dict(self.source)


def load_plain(data: bytes, at: str = "input") -> Any:
    """
    The plain value of a message's bytes, where nothing is declared.

    Raises:
        InvalidInput: They are no JSON.
    """
    try:
        return PLAIN.decode(data)
    except ValueError as error:
        raise InvalidInput([Fault(at, f"is not JSON: {error}")]) from error


def _adapter(declared: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    try:
        return TypeAdapter(declared)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"{declared!r} is no type that can be validated: {why}") from error


# ---- faults


def _type_faults(error: ValidationError, at: str) -> Iterator[Fault]:
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        yield Fault(_path(at, fault["loc"]), _short(fault["msg"]))


def _schema_faults(error: SchemaFault, at: str) -> Iterator[Fault]:
    path = _path(at, error.absolute_path)
    value: Any = error.instance
    rule: Any = error.validator_value
    if error.validator == "required" and isinstance(value, dict):
        yield from (Fault(_path(path, [name]), "is required") for name in rule if name not in value)
    elif error.validator == "additionalProperties" and rule is False and isinstance(error.schema, dict):
        extras = _extras(value, error.schema)
        yield from (Fault(_path(path, [name]), "is not a known field") for name in extras)
    else:
        yield Fault(path, _short(error.message))


def _extras(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    return (name for name in value if name not in known and not any(search(p, name) for p in patterns))


def _as_json(value: Any) -> bytes | None:
    """The JSON of a value that is plain data, as a request's body is; None for any other."""
    if not isinstance(value, dict | list | str | int | float | None):
        return None
    try:
        data = to_json(value)
        return data if from_json(data) == value else None
    except (ValueError, RecursionError):
        return None


def _path(start: str, steps: Any) -> str:
    """`body`, then `.name`, `[2]` or `["two words"]` for each step inward."""
    path = start
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif str(step).isidentifier():
            path += f".{step}"
        else:
            path += f'["{step}"]'
    return path


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
