"""What a second attempt repeats, when the first one failed at an awkward moment."""

import asyncio
from pathlib import Path

import pytest

from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.errors import GroupMissing, UpdateError
from tests.torture.engines import ONE_MORE, done, sent, step, url_in, value, working

pytestmark = pytest.mark.anyio


class Flaky(Exception):
    """On purpose."""


async def test_a_timeout_inside_an_atomic_block_forgets_the_block(tmp_path: Path) -> None:
    """What was gathered and never committed is done by the next attempt."""

    async def call(this: Attempt) -> None:
        async with this.effects.atomic():
            await this.effects.kv_update("g", "n", ONE_MORE)
            await this.effects.publish("other", b"1")
            if this.number == 1:
                await asyncio.sleep(30)

    async with working(url_in(tmp_path), step(call, timeout=100_000)) as engine:
        run = await done(engine, await sent(engine))

        assert (run.state, run.attempt, await value(engine, "n")) == (Status.DONE, 1, {"n": 1})
        assert len(await engine.store.unrouted()) == 1


@pytest.mark.parametrize("atomic", [False, True])
async def test_an_update_that_was_refused_was_never_asked_for(tmp_path: Path, atomic: bool) -> None:
    """An equal one that succeeds later in the attempt is the first, also for the next attempt."""

    async def add(this: Attempt) -> None:
        try:
            await this.effects.kv_update("g", "n", ONE_MORE)
        except UpdateError:
            await this.effects.kv_set("g", "n", b"{}")
            await this.effects.kv_update("g", "n", ONE_MORE)

    async def call(this: Attempt) -> None:
        if atomic:
            async with this.effects.atomic():
                await add(this)
        else:
            await add(this)
        if this.number == 1:
            raise Flaky

    async with working(url_in(tmp_path), step(call)) as engine:
        await engine.kv_set("g", "n", b'"no number"')
        await done(engine, await sent(engine))

        assert await value(engine, "n") == {"n": 1}


async def test_a_message_that_was_refused_was_never_asked_for(tmp_path: Path) -> None:
    """It is sent once it can be, and not again by the next attempt."""
    got: list[str] = []

    async def call(this: Attempt) -> None:
        try:
            await this.effects.publish("fifo", b"1")
        except GroupMissing:
            await this.effects.publish("fifo", b"1", group="a")
        if this.number == 1:
            raise Flaky

    async def fifo(this: Attempt) -> None:
        got.append(this.run.rid)

    async with working(url_in(tmp_path), step(call), step(fifo, "fifo", fifo=True)) as engine:
        await done(engine, await sent(engine))
        counts = await engine.store.counts()

    assert sum(n for (handler, _), n in counts.items() if handler == "fifo") == 1


async def test_a_function_that_failed_was_never_asked_for(tmp_path: Path) -> None:
    """The call that succeeded at last is the first one, also for the next attempt."""
    ran: list[str] = []

    async def charge() -> str:
        ran.append("charge")
        if len(ran) == 1:
            raise Flaky
        return "ok"

    async def call(this: Attempt) -> None:
        try:
            await this.effects.run(charge)
        except Flaky:
            await this.effects.run(charge)
        if this.number == 1:
            raise Flaky

    async with working(url_in(tmp_path), step(call)) as engine:
        run = await done(engine, await sent(engine))

    assert (run.state, len(ran)) == (Status.DONE, 2)


async def test_a_function_that_was_cut_short_was_never_asked_for(tmp_path: Path) -> None:
    """A timeout of the user's own around ctx.run counts like a failure of it."""
    ran: list[str] = []

    async def charge() -> str:
        ran.append("charge")
        if len(ran) == 1:
            await asyncio.sleep(30)
        return "ok"

    async def call(this: Attempt) -> None:
        try:
            async with asyncio.timeout(0.05):
                await this.effects.run(charge)
        except TimeoutError:
            await this.effects.run(charge)
        if this.number == 1:
            raise Flaky

    async with working(url_in(tmp_path), step(call)) as engine:
        await done(engine, await sent(engine))

    assert len(ran) == 2


async def test_many_equal_effects_side_by_side_are_as_many(tmp_path: Path) -> None:
    """Equal effects are told apart by how often they are asked for, not by who is first."""

    async def call(this: Attempt) -> None:
        fx = this.effects
        await asyncio.gather(*[fx.kv_update("g", "n", ONE_MORE) for _ in range(10)])
        if this.number < 4:
            raise Flaky
        await asyncio.gather(*[fx.kv_update("g", "n", ONE_MORE) for _ in range(5)])

    async with working(url_in(tmp_path), step(call)) as engine:
        run = await done(engine, await sent(engine))

        assert (run.state, run.attempt, await value(engine, "n")) == (Status.DONE, 3, {"n": 15})
