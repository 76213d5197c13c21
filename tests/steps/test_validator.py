"""One validator over types and JSON Schema: every fault named, by its path."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from everstep.errors import ConfigError, NotEncodable
from everstep.steps.validator import Fault, InvalidInput, Validator, load_plain, plain_json, validator_of


class Item(BaseModel):
    sku: str
    price: float


class Order(BaseModel):
    items: list[Item]
    note: str | None = None


ORDER_SCHEMA = {
    "type": "object",
    "required": ["items"],
    "additionalProperties": False,
    "properties": {
        "note": {"type": "string"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["sku", "price"],
                "properties": {"sku": {"type": "string"}, "price": {"type": "number"}},
            },
        },
    },
}
BOTH = pytest.mark.parametrize("declared", [Order, ORDER_SCHEMA], ids=["model", "schema"])


def faults(validator: Validator, value: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        validator.validate(value)
    return dict(caught.value.faults)


@BOTH
def test_every_fault_is_named_by_its_path(declared: Any) -> None:
    """Three faults in three places are three paths, and the message holds them all."""
    bad = {"items": [{"sku": 1, "price": 1}, {"sku": "a"}, {"sku": "b", "price": "x"}]}

    found = faults(validator_of(declared), bad)

    assert set(found) == {"body.items[0].sku", "body.items[1].price", "body.items[2].price"}


@BOTH
def test_what_fits_passes(declared: Any) -> None:
    """A type answers an instance of itself; a JSON Schema leaves the value as it is."""
    good = {"items": [{"sku": "a", "price": 2.5}]}
    validator = validator_of(declared)

    accepted = validator.validate(good)

    assert validator.typed == (declared is Order)
    assert accepted == (Order.model_validate(good) if validator.typed else good)


@BOTH
def test_it_can_be_shown_as_json_schema(declared: Any) -> None:
    """OpenAPI gets the same declaration that requests are held against."""
    schema = validator_of(declared).json_schema()

    assert schema["properties"].keys() == {"items", "note"}
    assert schema["required"] == ["items"]


@BOTH
def test_a_message_reads_back_as_what_was_sent(declared: Any) -> None:
    """What `dump` wrote, `load` reads, and plain JSON reads too."""
    validator = validator_of(declared)
    value = validator.validate({"items": [{"sku": "a", "price": 2.5}]})

    data = validator.dump(value)

    assert validator.load(data) == value
    assert load_plain(data)["items"] == [{"sku": "a", "price": 2.5}]


@BOTH
def test_a_message_that_does_not_fit_is_not_written(declared: Any) -> None:
    """`dump` names the faults of what it is given, under the name of the message."""
    with pytest.raises(InvalidInput) as caught:
        validator_of(declared).dump({"items": [{"sku": "a"}]})

    assert [fault.path for fault in caught.value.faults] == ["data.items[0].price"]


@BOTH
@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"items": '])
def test_bytes_that_are_no_json_are_a_fault_of_the_input(declared: Any, data: bytes) -> None:
    """A producer that sends rubbish gets a fault, not a crash."""
    with pytest.raises(InvalidInput) as caught:
        validator_of(declared).load(data)

    assert caught.value.faults[0].path == "input"


def test_unknown_fields_are_named_when_a_schema_forbids_them() -> None:
    """additionalProperties: false says which fields are too many."""
    found = faults(validator_of(ORDER_SCHEMA), {"items": [], "nope": 1, "two words": 2})

    assert set(found) == {"body.nope", 'body["two words"]'}


def test_formats_of_a_schema_are_checked() -> None:
    """A string that says it is an e-mail address has to look like one."""
    validator = validator_of({"type": "string", "format": "email"})

    assert faults(validator, "nobody").keys() == {"body"}
    assert validator.validate("a@b.c") == "a@b.c"


@pytest.mark.parametrize(
    ("declared", "good", "bad"),
    [
        (int, 3, "x"),
        (list[int], [1], [1, "x"]),
        (int | None, None, "x"),
        (dict[str, datetime], {"at": "2026-01-01T00:00:00Z"}, {"at": "soon"}),
    ],
)
def test_any_type_validates(declared: Any, good: Any, bad: Any) -> None:
    """Unions, containers and dates are declarations like models are."""
    validator = validator_of(declared)

    validator.validate(good)
    assert len(faults(validator, bad)) >= 1


def test_a_dataclass_validates() -> None:
    """Dataclasses are read from dicts and written back."""

    @dataclass
    class Point:
        x: int

    assert validator_of(Point).load(validator_of(Point).dump(Point(1))) == Point(1)


def test_messages_are_written_by_alias() -> None:
    """The bytes of a message are what a program would send that knows only the JSON."""

    class Payment(BaseModel):
        order_id: str = Field(alias="orderId")

    validator = validator_of(Payment)

    assert validator.dump(Payment(orderId="o-1")) == b'{"orderId":"o-1"}'


def test_a_message_nobody_could_read_is_refused_when_it_is_sent() -> None:
    """An alias that is only written would fail in each consumer; it fails in the producer."""

    class Odd(BaseModel):
        order_id: str = Field(serialization_alias="orderId")

    with pytest.raises(InvalidInput):
        validator_of(Odd).dump(Odd(order_id="o-1"))


@pytest.mark.parametrize("schema", [{"type": "strng"}, {"properties": 5}, {"pattern": "("}])
def test_a_broken_schema_is_refused_at_once(schema: dict[str, Any]) -> None:
    """A mistake in a schema shows at start-up, not with the first request."""
    with pytest.raises(ConfigError, match="not a valid JSON Schema"):
        validator_of(schema)


def test_a_type_nobody_can_check_is_refused_at_once() -> None:
    """A class without a schema names itself."""
    with pytest.raises(ConfigError, match="no type that can be validated"):
        validator_of(type("Opaque", (), {}))


def test_models_become_plain_json_where_nothing_is_declared() -> None:
    """A model may be sent on a topic that has only a name."""
    assert load_plain(plain_json(Item(sku="a", price=1))) == {"sku": "a", "price": 1.0}


def test_what_json_cannot_hold_is_refused() -> None:
    """An object of a class of one's own is named, and nothing is guessed."""
    with pytest.raises(NotEncodable):
        plain_json({"at": object()})


def test_long_values_do_not_flood_the_message() -> None:
    """A fault quotes no more than a line of what was sent."""
    found = faults(validator_of({"type": "number"}), "x" * 10_000)

    assert len(found["body"]) <= 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_anything_else_is_a_fault_and_never_a_crash(value: Any) -> None:
    """Whatever a client sends, the answer is a value that fits or a list of faults."""
    for declared in (Order, ORDER_SCHEMA):
        found: tuple[Fault, ...] = ()
        try:
            validator_of(declared).validate(value)
        except InvalidInput as error:
            found = error.faults or (Fault("", "no fault was named"),)

        assert all(fault.path.startswith("body") for fault in found)


def test_a_strict_model_takes_its_json() -> None:
    """What JSON cannot say otherwise (a date as text, a tuple as a list) is no fault of the client."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        at: datetime
        sizes: tuple[int, ...]
        count: int

    validator = validator_of(Strict)
    plain = {"at": "2026-01-01T00:00:00Z", "sizes": [1], "count": 2}

    assert validator.validate(plain).sizes == (1,)
    with pytest.raises(InvalidInput) as refused:
        validator.validate({**plain, "count": "2"})
    assert [fault.path for fault in refused.value.faults] == ["body.count"]
    with pytest.raises(InvalidInput):
        validator.validate({**plain, "sizes": {1}})
