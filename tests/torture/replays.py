"""Replay-mode handlers of ordinary asyncio code, each with what its result must be.

Their functions note in the ledger that they ran, under the key that everstep
gives a payment provider.  What they answer depends on their arguments alone;
how long they take does not, so two passes of a program never interleave alike.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from everstep.codec import codec_for
from everstep.core.batch import Mode
from everstep.core.retry import Retry
from everstep.engine.calls import attempt
from everstep.engine.context import Context
from everstep.engine.registry import Handler
from everstep.errors import Cancelled, TerminalError
from tests.torture.killer import RUN_AFTER, RUN_BEFORE, Killer
from tests.torture.ledger import Ledger

PROMISES = ("left", "right", "last")
CANCELLED = "cancelled"  # the program that is cancelled from outside
PROMISED = "promised"  # the program whose promises are settled from outside
QUICK, SLOW = 0.003, 0.02


class Boom(TerminalError):
    """What a function raises."""


class Shaky(Exception):
    """What a function raises that is tried again."""


class Replays:
    """The bodies, and the functions they call."""

    def __init__(self, ledger: Ledger, killer: Killer) -> None:
        self._ledger = ledger
        self._killer = killer

    def handlers(self) -> list[Handler]:
        """All of them, as the engine knows them."""
        return [
            Handler(name, Mode.REPLAY, getattr(self, name), input=codec_for(Any), output=codec_for(Any))
            for name in PROGRAMS
        ]

    # ---- functions of ctx.run

    def _begin(self) -> None:
        self._killer.hit(RUN_BEFORE)
        self._ledger.note("run", attempt().idempotency_key)

    async def add(self, *numbers: int) -> int:
        self._begin()
        await asyncio.sleep(random.random() * QUICK)
        self._killer.hit(RUN_AFTER)
        return sum(numbers) + 1

    async def slow(self, number: int) -> int:
        self._begin()
        await asyncio.sleep(random.choice((0.001, SLOW)))
        self._killer.hit(RUN_AFTER)
        return number + 1

    async def boom(self) -> None:
        self._begin()
        await asyncio.sleep(random.random() * QUICK)
        self._killer.hit(RUN_AFTER)
        raise Boom("boom")

    def plain(self, number: int) -> int:
        """A function without async: it runs in a thread."""
        self._begin()
        time.sleep(random.random() * QUICK)
        self._killer.hit(RUN_AFTER)
        return number + 1

    async def shaky(self, number: int) -> int:
        """Fails the first two times it is tried in a process."""
        self._begin()
        self._killer.hit(RUN_AFTER)
        if attempt().number < 3:
            raise Shaky("not yet")
        return number + 1

    async def large(self, size: int) -> str:
        self._begin()
        self._killer.hit(RUN_AFTER)
        return "x" * size

    # ---- bodies

    async def gathers(self, ctx: Context, n: int) -> Any:
        async def branch(i: int) -> Any:
            a = await ctx.run(self.add, i)
            return a, await asyncio.gather(*[ctx.run(self.add, a, k) for k in range(3)])

        return await asyncio.gather(*[branch(i) for i in range(n)])

    async def groups(self, ctx: Context, n: int) -> Any:
        out: dict[str, int] = {}

        async def leaf(i: int, k: int) -> None:
            out[f"{i}.{k}"] = await ctx.run(self.add, i, k)

        async def branch(i: int) -> None:
            async with asyncio.TaskGroup() as group:
                for k in range(await ctx.run(self.add, 1)):
                    group.create_task(leaf(i, k))

        async with asyncio.TaskGroup() as group:
            for i in range(n):
                group.create_task(branch(i))
        return sorted(out.items())

    async def pool(self, ctx: Context, n: int) -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        out: dict[int, int] = {}
        done = 0

        async def work() -> None:
            nonlocal done
            while (i := await queue.get()) >= 0:
                out[i] = await ctx.run(self.add, i)
                done += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(work())
            for i in range(2 * n):
                await queue.put(i)
            for _ in range(3):
                await queue.put(-1)
        return [sorted(out.items()), done]

    async def semaphore(self, ctx: Context, n: int) -> Any:
        gate = asyncio.Semaphore(2)
        inside = most = 0

        async def branch(i: int) -> Any:
            nonlocal inside, most
            async with gate:
                inside += 1
                most = max(most, inside)
                found = await ctx.run(self.add, i), await ctx.run(self.plain, i)
                inside -= 1
                return found

        return [await asyncio.gather(*[branch(i) for i in range(n)]), most]

    async def shared(self, ctx: Context, n: int) -> Any:
        total = 0
        second: list[int] = []

        async def branch(i: int) -> int:
            nonlocal total
            r = await ctx.run(self.add, i)
            total += 1
            if total == 2:
                second.append(await ctx.run(self.add, i, 100))
            await ctx.run(self.add, total)
            return r

        return [await asyncio.gather(*[branch(i) for i in range(n)]), total, len(second)]

    async def timeouts(self, ctx: Context, n: int) -> Any:
        out: list[Any] = []
        for i in range(n):
            try:
                async with asyncio.timeout(SLOW / 2):
                    out.append(await ctx.run(self.slow, i))
            except TimeoutError:
                out.append(await ctx.run(self.add, i))
        return out

    async def sleeps(self, ctx: Context, n: int) -> Any:
        async def branch(i: int) -> Any:
            before = ctx.now()
            await ctx.sleep(0.005 * (i + 1))
            await asyncio.sleep(0.003)
            found = await ctx.run(self.add, i)
            return [found, (ctx.now() - before).total_seconds() >= 0.005 * (i + 1)]

        return await asyncio.gather(*[branch(i) for i in range(n)])

    async def failing(self, ctx: Context, n: int) -> Any:
        """A group in which one task fails; the others, cut short, clean up."""
        undone: list[int] = []
        kept: list[int] = []

        async def good(i: int) -> None:
            steps = 0
            try:
                for k in range(4):
                    await ctx.run(self.add, i, k)
                    steps += 1
                kept.append(i)
            finally:
                if steps < 4:
                    await asyncio.shield(asyncio.ensure_future(ctx.run(self.add, i)))
                    undone.append(i)

        async def bad() -> None:
            await ctx.run(self.add, 0)
            await ctx.run(self.boom)

        try:
            async with asyncio.TaskGroup() as group:
                for i in range(n):
                    group.create_task(good(i))
                group.create_task(bad())
        except* Boom:
            pass
        return sorted(kept + undone)

    async def racing(self, ctx: Context, n: int) -> Any:
        """The first answer counts; the calls that lost are let go."""
        out = []
        for i in range(n):
            tasks = [asyncio.ensure_future(ctx.run(self.slow, k)) for k in (i, i)]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            out.append(done.pop().result())
        return out

    async def dag(self, ctx: Context, n: int) -> Any:
        parents = {"a": "", "b": "", "c": "", "d": "a", "e": "b", "f": "c", "g": "de", "h": "f"}
        made: dict[str, asyncio.Task[int]] = {}

        async def node(name: str) -> int:
            above = [await made[parent] for parent in parents[name]]
            return await ctx.run(self.add, *above)

        for name in parents:
            made[name] = asyncio.ensure_future(node(name))
        return [await made[name] for name in parents]

    async def retrying(self, ctx: Context, n: int) -> Any:
        soon = Retry(attempts=5, delay=0.001)
        return await asyncio.gather(*[ctx.run(self.shaky, i, retry=soon) for i in range(n)])

    async def largely(self, ctx: Context, n: int) -> Any:
        """Results that travel outside the commit."""
        sizes = [70_000 + i for i in range(n)]
        found = await asyncio.gather(*[ctx.run(self.large, size) for size in sizes])
        return [[len(one) for one in found], await ctx.run(self.add, n)]

    async def promised(self, ctx: Context, n: int) -> Any:
        async def one(name: str) -> list[Any]:
            return [await ctx.promise(name, int).wait(), await ctx.run(self.add, n)]

        both = await asyncio.gather(*[one(name) for name in PROMISES[:2]])
        return [*both, await ctx.promise(PROMISES[2], int).wait()]

    async def cancelled(self, ctx: Context, n: int) -> Any:
        """Waits for ever; cancelled, it cleans up."""
        cleaned = 0
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.sleep("30d"))
                for i in range(n):
                    group.create_task(ctx.run(self.add, i))
        except Cancelled:
            for i in range(2):
                cleaned = await ctx.run(self.add, cleaned, i)
            raise
        return cleaned


Check = Callable[[Any, int], bool]

# What each must answer when begun with n.
PROGRAMS: dict[str, Check] = {
    "gathers": lambda r, n: r == [[i + 1, [i + 1 + k + 1 for k in range(3)]] for i in range(n)],
    "groups": lambda r, n: r == sorted([f"{i}.{k}", i + k + 1] for i in range(n) for k in range(2)),
    "pool": lambda r, n: r == [[[i, i + 1] for i in range(2 * n)], 2 * n],
    "semaphore": lambda r, n: r == [[[i + 1, i + 1] for i in range(n)], min(2, n)],
    "shared": lambda r, n: r == [[i + 1 for i in range(n)], n, 1],
    "timeouts": lambda r, n: r == [i + 1 for i in range(n)],
    "sleeps": lambda r, n: r == [[i + 1, True] for i in range(n)],
    "failing": lambda r, n: r == list(range(n)),
    "racing": lambda r, n: r == [i + 1 for i in range(n)],
    "dag": lambda r, n: r == [1, 1, 1, 2, 2, 2, 5, 3],
    "retrying": lambda r, n: r == [i + 1 for i in range(n)],
    "largely": lambda r, n: r == [[70_000 + i for i in range(n)], n + 1],
    PROMISED: lambda r, n: r == [[1, n + 1], [2, n + 1], 3],
    CANCELLED: lambda r, n: False,
}
RETRIED = frozenset({"retrying"})  # whose functions may run more than once in a process

__all__ = ["CANCELLED", "PROGRAMS", "PROMISED", "PROMISES", "RETRIED", "Awaitable", "Boom", "Replays"]
