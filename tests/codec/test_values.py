"""What is written reads back as what it was, or is refused when it is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from everstep.codec import codec_for
from everstep.errors import NotEncodable


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Size(StrEnum):
    SMALL = "s"


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: str = Field(alias="SKU")
    raw: bytes = b""
    weight: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return self.sku.upper()


@dataclass
class Order:
    id: str
    items: list[Item] = field(default_factory=list)
    at: datetime | None = None
    tags: frozenset[str] = frozenset()


class Row(TypedDict, total=False):
    id: int
    data: bytes


class Point(NamedTuple):
    x: int
    y: float


class Base(BaseModel):
    a: int


class Derived(Base):
    b: int = 0


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ITEMS = st.builds(Item, SKU=TEXT, raw=st.binary(max_size=9), weight=st.none() | st.floats(allow_nan=False))
MOMENTS = st.datetimes(timezones=st.just(UTC))
ORDERS = st.builds(
    Order,
    id=TEXT,
    items=st.lists(ITEMS, max_size=3),
    at=st.none() | MOMENTS,
    tags=st.frozensets(TEXT, max_size=3),
)
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Any, JSON | st.binary()),
    (object, JSON),
    (int, st.integers()),
    (str, TEXT),
    (float, st.floats(allow_nan=False)),
    (bool, st.booleans()),
    (None, st.none()),
    (bytes, st.binary()),
    (bytes | str, st.binary() | TEXT),
    (int | None, st.none() | st.integers()),
    (int | str | bool | None, st.none() | st.integers() | TEXT | st.booleans()),
    (list[int], st.lists(st.integers())),
    (dict[str, Any], st.dictionaries(TEXT, JSON, max_size=4)),
    (dict[int, str], st.dictionaries(st.integers(), TEXT, max_size=4)),
    (dict[str, float | None], st.dictionaries(TEXT, st.none() | st.floats(allow_nan=False), max_size=4)),
    (set[int], st.sets(st.integers())),
    (frozenset[str], st.frozensets(TEXT)),
    (tuple[int, str], st.tuples(st.integers(), TEXT)),
    (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    (list[bytes], st.lists(st.binary())),
    (datetime, MOMENTS),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999))),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    (Annotated[int, Field(ge=0)], st.integers(0)),
    (Item, ITEMS),
    (Order, ORDERS),
    (Order | None, st.none() | ORDERS),
    (dict[str, Order], st.dictionaries(TEXT, ORDERS, max_size=2)),
    (Row, st.fixed_dictionaries({}, optional={"id": st.integers(), "data": st.binary()})),
    (Point, st.builds(Point, st.integers(), st.floats(allow_nan=False))),
    (Tree, st.builds(Tree, value=st.integers(), children=st.lists(st.builds(Tree, value=st.integers())))),
]


@pytest.mark.parametrize(("type", "values"), TYPED, ids=[str(type) for type, _ in TYPED])
def test_the_first_answer_is_the_replayed_answer(type: Any, values: st.SearchStrategy[Any]) -> None:
    """Written and read, a value is equal and of the same type; the first answer is that already."""

    @given(values)
    def check(value: Any) -> None:
        codec = codec_for(type)
        data, first = codec.roundtrip(value)
        replayed = codec.decode(data)

        assert data == codec.encode(value)
        assert same(first, replayed)
        assert same(first, value)

    check()


def same(a: object, b: object) -> bool:
    """Equal, and of equal types throughout."""
    if a.__class__ is not b.__class__ or a != b:
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return all(map(same, a, b))
    return same(vars(a), vars(b)) if isinstance(a, BaseModel | Order) else True


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("type", [float, float | None, list[float], dict[str, float | None], Item])
def test_numbers_json_does_not_know_come_back_where_a_float_is_declared(type: Any, number: float) -> None:
    """Neither nan nor infinity becomes null, as pydantic would have it."""
    wrap: dict[Any, Any] = {list[float]: [number], dict[str, float | None]: {"a": number}}
    value = Item(SKU="a", weight=number) if type is Item else wrap.get(type, number)

    _, back = codec_for(type).roundtrip(value)

    found = back.weight if type is Item else back["a"] if isinstance(back, dict) else back
    found = found[0] if isinstance(found, list) else found
    assert repr(found) == repr(number)


def test_a_tuple_without_a_type_comes_back_as_a_list_at_once() -> None:
    """Plain JSON knows no tuple; the first answer says so already."""
    assert codec_for(Any).roundtrip({"pair": (1, 2)})[1] == {"pair": [1, 2]}


def test_an_int_declared_as_float_comes_back_as_float() -> None:
    """As everywhere in typing, an int is taken for a float."""
    value = codec_for(float).roundtrip(3)[1]  # also in a union

    assert (value, value.__class__) == (3.0, float)
    assert codec_for(float | str).roundtrip(3)[1] == 3


def test_a_subclass_comes_back_as_what_was_declared() -> None:
    """The type that counts is the declared one, on the first pass too."""
    assert codec_for(Base).roundtrip(Derived(a=1, b=2))[1] == Base(a=1)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Base(a=1), ""),
        (Order(id="a"), ""),
        ({"a": [1, {"when": datetime(2026, 1, 1, tzinfo=UTC)}]}, ".a[1].when"),
        ({"ids": {1, 2}}, ".ids"),
        ([b"x"], "[0]"),
        (Decimal(1), ""),
        (Colour.RED, ""),
        (Point(1, 2.0), ""),
        ({"n": math.nan}, ".n"),
        ({"n": [math.inf]}, ".n[0]"),
        (math.nan, ""),
        ({1: "a"}, ""),
        pytest.param(object(), "", id="object"),
        ({"a": (1, {2})}, ".a[1]"),
    ],
    ids=str,
)
def test_what_plain_json_would_change_is_refused(value: Any, path: str) -> None:
    """Without a declared type a model would come back as a dict: say where it is, and to annotate it."""
    with pytest.raises(TypeError, match=r"the result of charge.*Annotate it") as refused:
        codec_for(Any).encode(value, where="the result of charge()")

    assert isinstance(refused.value, NotEncodable)
    assert refused.value.path == path


class Event(BaseModel):
    payload: Any


@pytest.mark.parametrize("type", [Event, dict[str, Event], Event | None])
def test_the_parts_declared_any_must_be_plain_too(type: Any) -> None:
    """A date under Any in a model would come back as text."""
    event = Event(payload={"on": date(2026, 1, 1)})

    with pytest.raises(NotEncodable, match=r"a date at \.on where Any is declared"):
        codec_for(type).encode({"a": event} if type == dict[str, Event] else event)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (int, "x"),
        (int, None),
        (str, 5),
        (str, datetime(2026, 1, 1, tzinfo=UTC)),
        (Base, {"b": 1}),
        (list[int], {1: 2}),
        (list[float], [None]),
        (None, 3),
        (dict[str, Any], [1]),
        (list, {"a": 1}),
        (dict[tuple[int, int], str], {(1, 2): "a"}),
    ],
)
def test_a_value_that_is_not_of_its_type_is_refused(type: Any, value: Any) -> None:
    """Better now, by name, than when a replay reads it months later."""
    with pytest.raises(NotEncodable, match="Declared is"):
        codec_for(type).encode(value)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (list[int] | set[int], {1}),
        (float | str, math.nan),
        (datetime | str, "2026-01-01T00:00:00Z"),
        (UUID | str, "12345678123456781234567812345678"),
    ],
)
def test_a_union_that_json_cannot_tell_apart_is_refused(type: Any, value: Any) -> None:
    """A text that looks like a date would come back as a date."""
    with pytest.raises(NotEncodable, match="reads back as"):
        codec_for(type).encode(value)


def test_what_no_text_can_hold_is_refused() -> None:
    """Half a surrogate pair, a list that holds itself, a list too deep."""
    ring: list[Any] = []
    ring.append(ring)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    for value in ("\ud800", {"a": "\ud800"}, ring, deep):
        with pytest.raises(NotEncodable):
            codec_for(Any).encode(value)


def test_what_does_not_fit_the_type_any_more_is_refused_on_reading() -> None:
    """The code's type has changed since the value was written."""
    for type, data in ((int, b'"x"'), (Base, b"{}"), (str, b"\x00ab"), (list, b"{}"), (int, b"5,")):
        with pytest.raises(ValueError, match=r"."):
            codec_for(type).decode(data)


def test_a_new_optional_field_reads_old_values() -> None:
    """What was written before the field was there is still read."""
    assert codec_for(Derived).decode(codec_for(Base).encode(Base(a=1))) == Derived(a=1, b=0)


def test_bytes_stand_raw() -> None:
    """A megabyte of bytes is a megabyte in the journal."""
    assert codec_for(bytes).encode(b"\xff\x00") == b"\x00\xff\x00"
    assert codec_for(Any).encode(b"") == b"\x00"


def test_a_codec_is_kept() -> None:
    """The same type, the same codec; a type that cannot be hashed gets one all the same."""
    unhashable = Annotated[int, AfterValidator(lambda n: n), ["notes"]]

    assert codec_for(dict[str, int]) is codec_for(dict[str, int])
    assert codec_for(unhashable).roundtrip(3) == (b"3", 3)


class Opaque:
    pass


def test_a_type_that_cannot_be_written_is_refused_by_name() -> None:
    """An open file or a client has no JSON."""
    with pytest.raises(TypeError, match="Opaque"):
        codec_for(Opaque)
