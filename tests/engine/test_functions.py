"""What is known of a function before it is called: name, kind, types, and what its arguments are worth."""

import functools
from datetime import date
from typing import Any

import pytest

from everstep.engine.calls import Function, function_of
from everstep.engine.context import Context
from tests.engine.test_calls import double, ended, plain, tick
from tests.engine.world import World

pytestmark = pytest.mark.anyio


class Client:
    """Has methods, and is called itself."""

    async def fetch(self) -> int:
        return 1

    async def __call__(self) -> int:
        return 2


def test_a_function_is_known_by_its_name() -> None:
    """Functions, methods, partials, callable objects, classes, builtins."""
    names = [
        Function(fn).name for fn in (tick, Client().fetch, functools.partial(plain, 1), Client(), Client, len)
    ]

    assert names == ["tick", "fetch", "plain", "Client", "Client", "len"]
    assert [Function(fn).is_async for fn in (tick, Client().fetch, Client(), Client, plain)] == [True] * 3 + [
        False
    ] * 2


def test_what_is_known_of_a_function_is_kept_as_long_as_it_lives() -> None:
    """And goes with it, so that another at its place is not taken for it."""

    def made(n: int) -> Any:
        async def inner() -> int:
            return n

        return inner

    one = made(1)
    assert function_of(one) is function_of(one)
    first = function_of(one)
    del one
    assert function_of(made(2)) is not first


async def test_answers_come_back_as_their_declared_type() -> None:
    """On the first pass as on replay."""
    seen: list[Any] = []

    async def today() -> date:
        return date(2030, 1, 2)

    async def pair() -> tuple[int, str]:
        return 1, "a"

    async def body(ctx: Context, _: Any) -> None:
        seen.append([await ctx.run(today), await ctx.run(pair), await ctx.run(dict)])

    world = World(body)
    await ended(world)
    world.drive, world.end = None, None
    await world.go()

    assert seen[0] == seen[1] == [date(2030, 1, 2), (1, "a"), {}]
    assert type(seen[0][1]) is tuple


async def test_arguments_are_compared_except_those_of_closures() -> None:
    """A closure holds what nobody can see; its calls have no fingerprint."""
    hidden = 3

    async def closure(n: int) -> int:
        return n + hidden

    async def body(ctx: Context, _: Any) -> None:
        await ctx.run(double, 1)
        await ctx.run(double, 2)
        await ctx.run(closure, 1)
        await ctx.run(functools.partial(double, 1))

    world = World(body)
    await world.to_the_end()
    prints = [entry.fp for entry in world.journal.values()]

    assert prints[0] != prints[1]
    assert prints[2] == 0
    assert prints[3] not in (0, prints[1])
