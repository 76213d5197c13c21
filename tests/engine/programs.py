"""Twelve ordinary asyncio programs (ten that replay, two that are refused by name)."""

from __future__ import annotations

import asyncio
from typing import Any

from everstep.engine.context import Context
from everstep.errors import TerminalError
from tests.engine.world import World


class Boom(TerminalError):
    """What a function raises."""


class Programs:
    """The bodies; their functions go on when *world* lets them."""

    def __init__(self) -> None:
        self.world: World

    async def io(self, *x: Any) -> list[Any]:
        await self.world.io()
        return [list(x), self.world.random.random()]

    async def slow(self, *x: Any) -> str:
        await self.world.io()
        return "ok"

    async def boom(self) -> None:
        await self.world.io()
        raise Boom("boom")

    async def gather(self, ctx: Context, _: Any) -> Any:
        async def branch(i: int) -> Any:
            a = await ctx.run(self.io, i, name="a")
            return a, await asyncio.gather(*[ctx.run(self.io, i, k, name="b") for k in range(3)])

        return await asyncio.gather(*[branch(i) for i in range(6)])

    async def semaphore(self, ctx: Context, _: Any) -> Any:
        gate = asyncio.Semaphore(3)

        async def branch(i: int) -> Any:
            async with gate:
                return await ctx.run(self.io, i, name="a"), await ctx.run(self.io, i, name="b")

        return await asyncio.gather(*[branch(i) for i in range(10)])

    async def dag(self, ctx: Context, _: Any) -> Any:
        """The usual DAG runner: a node waits for its parents' tasks."""
        return await self._dag(lambda n: ctx.run(self.io, n, name="node"))

    async def dag_closure(self, ctx: Context, _: Any) -> Any:
        """The same with closures: nothing for a fingerprint to catch."""

        def ask(n: str) -> Any:
            async def closure() -> Any:
                return await self.io(n)

            return ctx.run(closure, name="node")

        return await self._dag(ask)

    async def _dag(self, ask: Any) -> Any:
        parents = {"a": "", "b": "", "c": "", "d": "a", "e": "b", "f": "c", "g": "de", "h": "f"}
        made: dict[str, asyncio.Task[Any]] = {}

        async def node(n: str) -> Any:
            for d in parents[n]:
                await made[d]
            return n, await ask(n)

        for n in parents:
            made[n] = asyncio.ensure_future(node(n))
        return [await made[n] for n in parents]

    async def late_child(self, ctx: Context, _: Any) -> Any:
        """A branch whose first act is to make children."""

        async def branch(i: int) -> Any:
            await first[i % 2]
            return await asyncio.gather(*[ctx.run(self.io, i, k, name="x") for k in range(2)])

        first = [asyncio.ensure_future(ctx.run(self.io, i, name="t")) for i in range(2)]
        return await asyncio.gather(*[branch(i) for i in range(6)])

    async def pool(self, ctx: Context, _: Any) -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue()
        out = {}
        for i in range(12):
            queue.put_nowait(i)

        async def worker() -> None:
            while not queue.empty():
                i = queue.get_nowait()
                out[i] = await ctx.run(self.io, i, name="job")

        await asyncio.gather(worker(), worker(), worker())
        return sorted(out.items())

    async def as_completed(self, ctx: Context, _: Any) -> Any:
        return [await done for done in asyncio.as_completed([ctx.run(self.io, i) for i in range(5)])]

    async def as_completed_tasks(self, ctx: Context, _: Any) -> Any:
        out = []
        tasks = [asyncio.ensure_future(ctx.run(self.io, i, name="q")) for i in range(5)]
        for done in asyncio.as_completed(tasks):
            r = await done
            out.append(await ctx.run(self.io, r[0], name="after"))
        return out

    async def shared(self, ctx: Context, _: Any) -> Any:
        total = 0
        log = []

        async def branch(i: int) -> Any:
            nonlocal total
            r = await ctx.run(self.io, i, name="a")
            total += 1
            if total == 2:
                log.append(await ctx.run(self.io, i, name="second"))
            await ctx.run(self.io, i, name="z")
            return r

        r = await asyncio.gather(*[branch(i) for i in range(4)])
        return r, log

    async def timeout(self, ctx: Context, _: Any) -> Any:
        out: list[Any] = []
        for i in range(3):
            try:
                async with asyncio.timeout(0.01):
                    out.append(await ctx.run(self.slow, i))
            except TimeoutError:
                out.append(await ctx.run(self.io, i, name="fallback"))
        return out

    async def wait_for(self, ctx: Context, _: Any) -> Any:
        return await asyncio.wait_for(ctx.run(self.slow, 1), 0.01)

    async def group_fail(self, ctx: Context, _: Any) -> Any:
        undo: list[Any] = []

        async def good(i: int) -> None:
            try:
                for k in range(6):
                    await ctx.run(self.io, i, k, name="s")
                    undo.append((i, k))
            finally:
                n = sum(1 for u in undo if u[0] == i)
                if n < 6:
                    await asyncio.shield(asyncio.ensure_future(ctx.run(self.io, i, n, name="cleanup")))

        async def bad() -> None:
            await ctx.run(self.io, 0, name="x")
            await ctx.run(self.io, 1, name="y")
            await ctx.run(self.boom)

        try:
            async with asyncio.TaskGroup() as group:
                for i in range(3):
                    group.create_task(good(i))
                group.create_task(bad())
        except* Boom:
            pass
        return sorted(undo)


REPLAYABLE = (
    "gather",
    "semaphore",
    "dag",
    "dag_closure",
    "late_child",
    "pool",
    "as_completed_tasks",
    "shared",
    "timeout",
    "group_fail",
)
REFUSED = ("as_completed", "wait_for")


def world_of(program: str, seed: int = 0, *, evict_always: bool = False) -> World:
    """A world that runs one of the programs."""
    programs = Programs()
    programs.world = World(getattr(programs, program), seed, evict_always=evict_always)
    return programs.world
