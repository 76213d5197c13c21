"""Random bodies, killed at random points, in random order: each ends as its journal says, always."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.core.batch import Asked
from everstep.engine.context import Context
from everstep.errors import TerminalError
from tests.engine.programs import Boom
from tests.engine.world import World, calm

Program = tuple[Any, ...]


@dataclass
class Interpreter:
    """Runs a program made of tuples as a body."""

    world: World
    ctx: Context
    log: list[Any] = field(default_factory=list)

    async def io(self, name: str) -> str:
        return str(await self.world.io(f"<{name}>"))

    async def boom(self, name: str) -> None:
        await self.world.io()
        raise Boom(name)

    async def go(self, program: Program, path: str) -> Any:
        method: Callable[..., Any] = getattr(self, f"do_{program[0]}")
        return await method(*program[1:], path=path)

    async def do_call(self, *, path: str) -> Any:
        return await self.ctx.run(self.io, path)

    async def do_fail(self, *, path: str) -> Any:
        return await self.ctx.run(self.boom, path)

    async def do_sleep(self, ms: int, *, path: str) -> Any:
        await asyncio.sleep(ms / 1000)
        return "slept"

    async def do_nap(self, ms: int, *, path: str) -> Any:
        await self.ctx.sleep(ms / 1000)
        return "napped"

    async def do_seq(self, parts: list[Program], *, path: str) -> Any:
        return [await self.go(part, f"{path}.{i}") for i, part in enumerate(parts)]

    async def do_gather(self, parts: list[Program], *, path: str) -> Any:
        return await asyncio.gather(*[self.go(part, f"{path}.{i}") for i, part in enumerate(parts)])

    async def do_settled(self, parts: list[Program], *, path: str) -> Any:
        all_ = [self.go(part, f"{path}.{i}") for i, part in enumerate(parts)]
        return [repr(one) for one in await asyncio.gather(*all_, return_exceptions=True)]

    async def do_group(self, parts: list[Program], *, path: str) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.go(part, f"{path}.{i}")) for i, part in enumerate(parts)]
        return [task.result() for task in tasks]

    async def do_gate(self, width: int, parts: list[Program], *, path: str) -> Any:
        gate = asyncio.Semaphore(width)

        async def behind(i: int, part: Program) -> Any:
            async with gate:
                return await self.go(part, f"{path}.{i}")

        return await asyncio.gather(*[behind(i, part) for i, part in enumerate(parts)])

    async def do_pool(self, width: int, parts: list[Program], *, path: str) -> Any:
        queue: asyncio.Queue[tuple[int, Program]] = asyncio.Queue()
        out: dict[int, Any] = {}
        for item in enumerate(parts):
            queue.put_nowait(item)

        async def worker() -> None:
            while not queue.empty():
                i, part = queue.get_nowait()
                out[i] = await self.go(part, f"{path}.{i}")

        await asyncio.gather(*[worker() for _ in range(width)])
        return [out[i] for i in range(len(parts))]

    async def do_timeout(self, ms: int, part: Program, *, path: str) -> Any:
        try:
            async with asyncio.timeout(ms / 1000):
                return await self.go(part, f"{path}.t")
        except TimeoutError:
            return [f"late {path}", await self.ctx.run(self.io, f"{path}.late")]

    async def do_first(self, parts: list[Program], *, path: str) -> Any:
        tasks = [asyncio.create_task(self.go(part, f"{path}.{i}")) for i, part in enumerate(parts)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return [len(done), [type(one).__name__ if isinstance(one, BaseException) else one for one in ended]]

    async def do_caught(self, part: Program, *, path: str) -> Any:
        try:
            return await self.go(part, f"{path}.c")
        except (TerminalError, ExceptionGroup) as error:
            return f"caught {type(error).__name__}"

    async def do_cleaned(self, part: Program, *, path: str) -> Any:
        try:
            return await self.go(part, f"{path}.f")
        finally:
            self.log.append(path)
            await asyncio.shield(asyncio.ensure_future(self.ctx.run(self.io, f"{path}.clean{len(self.log)}")))

    async def do_shared(self, *, path: str) -> Any:
        answer: Any = await self.ctx.run(self.io, path)
        self.log.append(path)
        if len(self.log) % 2:
            answer = [answer, await self.ctx.run(self.io, f"{path}.{len(self.log)}")]
        return answer


leaves = st.one_of(
    st.just(("call",)),
    st.just(("call",)),
    st.just(("shared",)),
    st.tuples(st.just("sleep"), st.integers(1, 5)),
    st.tuples(st.just("nap"), st.integers(1, 5)),
    st.just(("caught", ("fail",))),
)


def inner(children: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    parts = st.lists(children, min_size=1, max_size=4)
    width = st.integers(1, 3)
    return st.one_of(
        st.tuples(st.sampled_from(["seq", "gather", "group", "settled", "first"]), parts),
        st.tuples(st.sampled_from(["gate", "pool"]), width, parts),
        st.tuples(st.just("timeout"), st.integers(1, 8), children),
        st.tuples(st.just("caught"), st.tuples(st.just("group"), st.tuples(children, st.just(("fail",))))),
        st.tuples(st.just("cleaned"), children),
    )


programs: st.SearchStrategy[Program] = st.recursive(leaves, inner, max_leaves=12)


def body_of(program: Program) -> tuple[Any, list[World]]:
    """A body that runs the program, and where to put its world."""
    worlds: list[World] = []

    async def body(ctx: Context, _: Any) -> Any:
        return await Interpreter(worlds[0], ctx).go(program, "p")

    return body, worlds


async def outcome(awaited: Any) -> Any:
    """How it ended: the result, or the error by its text."""
    try:
        return await awaited
    except TerminalError as error:
        return f"{type(error).__name__}: {error}"
    except asyncio.CancelledError:
        return "cancelled"


def relaxed(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed(150)
@given(programs, st.integers(0, 2**32), st.integers(0, 8), st.booleans())
def test_a_random_body_killed_anywhere_ends_as_its_journal_says(
    program: Program, seed: int, crashes: int, evict_always: bool
) -> None:
    """Nothing journaled runs again; a replay of the whole journal does nothing new, and ends the same."""

    async def go() -> None:
        body, worlds = body_of(program)
        world = World(body, seed, evict_always=evict_always)
        worlds.append(world)
        first = await outcome(world.to_the_end(crashes))

        assert await outcome(world.replay()) == first

    asyncio.run(go())


def plain(program: Program) -> bool:
    """Whether order and time play no part in its result."""
    if program[0] in ("shared", "timeout", "first", "cleaned", "caught", "fail"):
        return False
    return all(plain(part) for parts in program[1:] if isinstance(parts, list) for part in parts)


@relaxed(80)
@given(programs.filter(plain), st.integers(0, 2**32), st.integers(1, 8))
def test_a_disturbed_pass_gives_what_an_undisturbed_one_gives(
    program: Program, seed: int, crashes: int
) -> None:
    """Crashes and the order in which functions end show in nothing that does not ask for them."""

    async def go(crashes: int) -> Any:
        body, worlds = body_of(program)
        worlds.append(World(body, seed))
        return await outcome(worlds[0].to_the_end(crashes))

    assert asyncio.run(go(crashes)) == asyncio.run(go(0))


@relaxed(80)
@given(programs, st.integers(0, 2**32), st.integers(0, 25), st.booleans())
def test_a_cancel_between_any_two_results_is_replayed(
    program: Program, seed: int, after: int, evict_always: bool
) -> None:
    """The run ends in the same way on every pass, with the same clean-up."""

    async def go() -> None:
        body, worlds = body_of(program)
        world = World(body, seed, evict_always=evict_always)
        worlds.append(world)
        if await world.go(after) is None and world.turn is not None:
            world.turn.ask(Asked.CANCEL)
        if world.end is None and world.parked is not None:
            world.wait_out()
        first = await outcome(world.to_the_end(2))

        assert await outcome(world.replay()) == first

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(30))
def test_a_large_body_in_any_order(seed: int) -> None:
    """Hundreds of calls in nested groups, gates and pools, with many crashes."""
    random = Random(seed)

    def made(depth: int) -> Program:
        if depth == 0:
            return random.choice([("call",), ("shared",), ("sleep", random.randrange(1, 5)), ("call",)])
        parts = [made(depth - 1) for _ in range(random.randrange(2, 6))]
        kind = random.choice(["seq", "gather", "group", "gate", "pool", "timeout", "cleaned", "first"])
        if kind in ("gate", "pool"):
            return (kind, random.randrange(1, 4), parts)
        if kind == "timeout":
            return (kind, random.randrange(1, 20), ("gather", parts))
        if kind == "cleaned":
            return (kind, ("gather", parts))
        return (kind, parts)

    async def go() -> None:
        body, worlds = body_of(made(3))
        world = World(body, seed)
        worlds.append(world)
        first = await outcome(world.to_the_end(10))

        assert await outcome(world.replay()) == first
        await calm()

    asyncio.run(go())
