"""Codecs from annotations, and fingerprints that change only when an argument does."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from everstep.codec import argument_codecs, codec_for, fingerprint, return_codec
from everstep.errors import NotEncodable
from tests.codec.test_values import JSON, ORDERS, TEXT, TYPED, Order, same

if TYPE_CHECKING:
    from nowhere import Ghost  # type: ignore[import-not-found]


class User(BaseModel):
    id: str
    mail: str


class UserWithNickname(BaseModel):
    id: str
    mail: str
    nickname: str | None = None
    tags: list[str] = []


def plain(x: int, y: User) -> list[User]:
    return [y] * x


async def later(x: int, /, y: str = "", *, z: User | None = None) -> User:
    return User(id=str(x), mail=y)


def hands_on(x: int) -> Awaitable[int]:
    return asyncio.sleep(0, x)


def hands_on_too(x: int) -> Coroutine[Any, Any, User]:
    return later(x)


def haunted(x: int, ghost: Ghost) -> User:
    return User(id=str(x), mail=str(ghost))


def bare(x, y):  # type: ignore[no-untyped-def]
    return x, y


class Shop:
    def sell(self, user: User) -> int:
        return len(user.id)

    @classmethod
    def open(cls, x: int) -> User:
        return User(id=str(x), mail="")

    @staticmethod
    def close(x: int) -> str:
        return str(x)

    def __call__(self, x: User) -> bool:
        return bool(x.mail)


@functools.lru_cache
def cached(x: int) -> User:
    return User(id=str(x), mail="")


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


FUNCTIONS: list[tuple[Callable[..., Any], Any, list[Any]]] = [
    (plain, list[User], [int, User]),
    (later, User, [int, str]),
    (hands_on, int, [int]),
    (hands_on_too, User, [int]),
    (bare, Any, [Any, Any]),
    (lambda x: x, Any, [Any]),
    (Shop().sell, int, [User]),
    (Shop.open, User, [int]),
    (Shop.close, str, [int]),
    (Shop(), bool, [User]),
    (partial(plain, 1), list[User], [User]),
    (partial(plain, y=User(id="", mail="")), list[User], [int]),
    (partial(Shop().sell), int, [User]),
    (partial(partial(later, 1), z=None), User, [str]),
    (cached, User, [int]),
    (logged(plain), list[User], [int, User]),
    (User, User, []),
    (date.today, date, []),
    (partial(datetime.now, UTC), datetime, []),
    (uuid.uuid4, uuid.UUID, []),
    (len, Any, []),
]


@pytest.mark.parametrize(("fn", "returns", "arguments"), FUNCTIONS)
def test_types_are_found_in_annotations(fn: Callable[..., Any], returns: Any, arguments: list[Any]) -> None:
    """Of functions, methods, partials, wrappers, classes and callable objects; the second time too."""
    for _ in range(2):
        assert return_codec(fn).type == returns
        assert [codec.type for codec in argument_codecs(fn)] == arguments


def test_a_name_only_the_type_checker_knows_costs_no_other_its_type() -> None:
    """The argument that cannot be resolved counts as Any, and says so when a value is refused."""
    x, ghost = argument_codecs(haunted)

    assert (x.type, ghost.type, return_codec(haunted).type) == (int, Any, User)
    with pytest.raises(NotEncodable, match=r"The annotation 'Ghost' of haunted names what is not there"):
        ghost.encode(User(id="", mail=""))


def test_a_local_type_counts_as_none() -> None:
    """With postponed annotations nobody can find it; plain values still pass."""

    class Local(BaseModel):
        n: int

    def make() -> Local:
        return Local(n=1)

    assert return_codec(make).encode({"n": 1}) == b'{"n":1}'
    with pytest.raises(NotEncodable, match="at module level"):
        return_codec(make).encode(make())


def test_a_type_that_cannot_be_written_counts_as_none() -> None:
    """A function may take a client; it is refused only where it would have to be kept."""

    def connect() -> object:
        return None

    connect.__annotations__["return"] = subprocess.Popen

    assert "Popen" in return_codec(connect).note
    assert return_codec(connect).encode(None) == b"null"


# ---- fingerprints


@given(ORDERS | JSON, ORDERS | JSON)
def test_a_fingerprint_differs_when_an_argument_does(a: Any, b: Any) -> None:
    """Equal values of equal types have one fingerprint, others have others."""
    assume(isinstance(a, Order) == isinstance(b, Order))
    codecs = [codec_for(Order if isinstance(a, Order) else Any)]

    equal = same(a, b)
    assert (fingerprint(codecs, [a]) == fingerprint(codecs, [b])) == equal


@given(st.lists(TEXT | st.integers(), max_size=3), st.lists(TEXT | st.integers(), max_size=3))
def test_arguments_do_not_run_into_each_other(a: list[Any], b: list[Any]) -> None:
    """("ab", "c") is not ("a", "bc"), 1 is not "1"."""
    assert (fingerprint([], a) == fingerprint([], b)) == (a == b)


@given(st.dictionaries(TEXT, JSON, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_count(data: dict[str, Any], random: Any) -> None:
    """Neither under Any, nor where a dict is declared."""
    pairs = list(data.items())
    random.shuffle(pairs)

    for type in (Any, dict, dict[str, Any]):
        assert fingerprint([codec_for(type)], [data]) == fingerprint([codec_for(type)], [dict(pairs)])


@given(TEXT, TEXT)
def test_a_new_optional_field_does_not_count(id: str, mail: str) -> None:
    """Adding one must not strand waiting runs; filling it is a change."""
    old, new = [codec_for(User)], [codec_for(UserWithNickname)]
    before = fingerprint(old, [User(id=id, mail=mail)])

    assert before == fingerprint(new, [UserWithNickname(id=id, mail=mail)])
    assert before == fingerprint([], [User(id=id, mail=mail)])
    assert before != fingerprint(new, [UserWithNickname(id=id, mail=mail, nickname="n")])
    assert fingerprint([codec_for(list[User])], [[User(id=id, mail=mail)]]) == fingerprint(
        [codec_for(list[UserWithNickname])], [[UserWithNickname(id=id, mail=mail)]]
    )


def test_a_new_field_of_a_dataclass_does_not_count() -> None:
    """Neither with a default nor with a default factory."""
    old = make_dataclass("Line", [("sku", str)])
    new = make_dataclass(
        "Line", [("sku", str), ("n", int, field(default=1)), ("tags", list[str], field(default_factory=list))]
    )

    prints = {fingerprint([codec_for(t)], [t("a")]) for t in (old, new)} | {fingerprint([], [old("a")])}

    assert len(prints) == 1


@pytest.mark.parametrize(("type", "values"), TYPED, ids=[str(type) for type, _ in TYPED])
def test_every_value_has_a_fingerprint(type: Any, values: st.SearchStrategy[Any]) -> None:
    """A positive number of 63 bits, never 0, and the same for what the value reads back as."""

    @given(values)
    def check(value: Any) -> None:
        codec = codec_for(type)
        number = fingerprint([codec], [value])

        assert 0 < number < 1 << 63
        assert number == fingerprint([codec], [codec.roundtrip(value)[1]])

    check()


def test_an_object_of_unknown_kind_counts_by_its_class() -> None:
    """Its address in memory must not count; another class must."""
    assert fingerprint([], [Shop()]) == fingerprint([], [Shop()])
    assert fingerprint([], [Shop()]) != fingerprint([], [object()])
    assert fingerprint([], [plain]) != fingerprint([], [later])


@dataclass(frozen=True)
class Tag:
    name: str


def test_fingerprints_are_kept_for_ever() -> None:
    """Another process, with other hashes, and every later release, must find the same."""
    expected = [
        fingerprint([], ()),
        fingerprint([], (5,)),
        fingerprint([], ("o-1", None, 2.5)),
        fingerprint([codec_for(set[str])], ({"b", "a", "c"},)),
        fingerprint([], ({"x": {"b", "a", "c"}, "y": Tag("t")},)),
        fingerprint([codec_for(frozenset[Tag])], (frozenset({Tag("b"), Tag("a")}),)),
    ]
    program = (
        "from everstep.codec import codec_for, fingerprint\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Tag: name: str\n"
        "print(fingerprint([], ()), fingerprint([], (5,)), fingerprint([], ('o-1', None, 2.5)),"
        " fingerprint([codec_for(set[str])], ({'b', 'a', 'c'},)),"
        " fingerprint([], ({'x': {'b', 'a', 'c'}, 'y': Tag('t')},)),"
        " fingerprint([codec_for(frozenset[Tag])], (frozenset({Tag('b'), Tag('a')}),)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [int(n) for n in done.stdout.split()] == expected == KEPT


KEPT = [
    8238016292129134938,
    5944410019254831970,
    393259199668709658,
    8507562826137449284,
    1561452869142724581,
    7819448991004397386,
]
