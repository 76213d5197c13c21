"""The end of a process: what is short ends, what is long is handed on, what waits goes on waiting."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from everstep.core import journal
from everstep.core.batch import Applied, Batch, Run, Settle
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.context import Context
from everstep.engine.engine import Engine
from everstep.store.sqlite import SqliteStore
from tests.acceptance.project import Project
from tests.torture.conftest import SEND, send
from tests.torture.engines import ONE_MORE, body, done, sent, step, until, url_in, working

# ---- the real server

STEPS = """
    from ledger import note, released

    config = {
        "name": "Held",
        "triggers": [{"type": "queue", "topic": "held"}],
        "infrastructure": {"handler": {"timeout": 100}},
    }


    async def handler(message, ctx):
        note("began", message["n"])
        await released(message["until"])
        await ctx.state.update("count", "held", [{"type": "increment", "path": "n", "by": 1}])
        note("ended", message["n"])
"""


def test_short_ones_end_and_long_ones_are_handed_on(project: Project) -> None:
    """On SIGTERM: who ends in time is done here; who does not is done by the other, once each."""
    project.write("src/held_step.py", STEPS)
    project.write("src/send_step.py", SEND)
    one = project.serve(env={"EVERSTEP_DRAIN": "3s", "EVERSTEP_LEASE": "600s"})
    send(one, "held", *({"n": n, "until": ("soon", "late")[n % 2]} for n in range(4)))
    for n in range(4):
        project.wait_for_note(f"began {n}")
    two = project.serve(env={"EVERSTEP_LEASE": "600s"})

    one.send(signal.SIGTERM)
    one.wait_for('"stopping"')
    project.release("soon")
    for n in (0, 2):
        project.wait_for_note(f"ended {n}")
    assert one.wait() == 0
    project.release("late")
    for n in (1, 3):
        project.wait_for_note(f"ended {n}")

    assert project.ledger().count("began 0") == 1
    assert project.ledger().count("began 1") == 2
    assert project.cli("state", "get", "count", "held") == {"n": 4}
    assert two.stop() == 0
    assert {run["status"] for run in project.run("runs", "list", "--json").lines} == {"done"}


DELAYED = """
    from ledger import note

    config = {"name": "Work", "triggers": [{"type": "queue", "topic": "work"}]}


    async def handler(message, ctx):
        note("ran", message["n"], ctx.trigger.attempt)
        if message.get("fail") and ctx.trigger.attempt == 1:
            raise ValueError("on purpose")
"""


def test_delays_and_retries_survive_a_restart_and_a_kill(project: Project) -> None:
    """A message sent for later, and one that waits for its next attempt, come in their time."""
    project.write("src/work_step.py", DELAYED)
    project.write("src/send_step.py", SEND)
    one = project.serve()
    project.cli("enqueue", "work", '{"n": 1}', "--delay", "2s")
    send(one, "work", {"n": 2, "fail": True})
    project.wait_for_note("ran 2 1")

    one.kill9()
    project.serve()

    project.wait_for_note("ran 1 1")
    project.wait_for_note("ran 2 2")
    assert project.ledger().count("ran 1 1") == 1
    assert set(project.ledger()) == {
        "ran 1 1",
        "ran 2 1",
        "ran 2 2",
    }  # the first attempt may have been cut short


# ---- an engine in this process


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.anyio
async def test_ten_thousand_messages_for_later_are_rows_only(tmp_path: Path) -> None:
    """Whoever waits for its time is in the store and nowhere else; all come, and none before its time."""
    early: list[int] = []

    async def on_time(this: Attempt) -> None:
        run = this.run
        if run.due_at is not None or (run.started_at or 0) < run.created_at + DELAY:
            early.append(run.id)

    many = 10_000
    async with working(url_in(tmp_path), step(on_time)) as engine:
        before = resident()
        for _ in range(10):
            await asyncio.gather(*[sent(engine, delay=DELAY) for _ in range(many // 10)])
        waiting = dict(await engine.store.counts())
        worker = engine.worker
        assert waiting == {("t", Status.SCHEDULED): many}
        assert worker.running == 0
        assert resident() - before < 24 << 20
        assert _held_by(worker) < 100

        await until(lambda: _all_done(engine, many), "all are done")
    assert not early


DELAY = 6_000_000


def _held_by(worker: Any) -> int:
    """How many things a worker's own structures hold."""
    sized = (getattr(worker, name) for name in vars(worker))
    return max(len(each) for each in sized if isinstance(each, dict | set | list))


async def _all_done(engine: Engine, many: int) -> bool:
    counts = await engine.store.counts()
    return counts.get(("t", Status.DONE)) == many


async def add(n: int) -> int:
    return n + 1


async def waiting(ctx: Context, n: int) -> int:
    n = await ctx.run(add, n)
    n += await ctx.promise("more", int).wait()
    await ctx.sleep(0.2)
    return await ctx.run(add, n)


async def settle(engine: Engine, run: Run) -> None:
    batch = Batch(changes=[Settle(run.rid, "more", journal.OK, b"10")])
    assert isinstance(await engine.worker.committer.commit(batch), Applied)


@pytest.mark.anyio
@pytest.mark.parametrize("evict", ["lru", "always"])
async def test_runs_that_wait_survive_a_restart(tmp_path: Path, evict: str) -> None:
    """Parked at a promise or asleep, in memory or not: another process goes on where they were."""
    url = url_in(tmp_path)
    async with working(url, body(waiting), evict=evict) as engine:
        runs = [(await engine.begin("body", b"%d" % n)).run for n in range(20)]
        await until(lambda: _parked(engine, 20))
        for run in runs[:10]:
            await settle(engine, run)
    async with working(url, body(waiting), evict=evict) as engine:
        for run in runs[10:]:
            await settle(engine, run)

        outputs = [(await done(engine, run.rid)).output for run in runs]

    assert outputs == [b"%d" % (n + 12) for n in range(20)]


async def _parked(engine: Engine, many: int) -> bool:
    return (await engine.store.counts()).get(("body", Status.PARKED)) == many


@pytest.mark.anyio
async def test_a_body_whose_function_outlasts_the_drain_is_handed_on_at_once(tmp_path: Path) -> None:
    """It is given back, not left to a lease, and to be drained is not counted as to have crashed."""
    url = url_in(tmp_path)
    began = asyncio.Event()
    calls: list[str] = []

    async def endless() -> str:
        calls.append("endless")
        began.set()
        await asyncio.sleep(1000 if len(calls) <= 6 else 0)
        return "ended"

    async def calling(ctx: Context, _: None) -> str:
        return await ctx.run(endless)

    rid = ""
    for _ in range(6):
        began.clear()
        async with working(url, body(calling), drain=0.0) as engine:
            rid = rid or (await engine.begin("body", b"null")).run.rid
            await began.wait()
        store = SqliteStore(url)
        await store.open()
        run = await store.run(rid)
        await store.close()
        assert run is not None
        assert (run.state, run.worker, run.claims) == (Status.READY, None, 0)
    async with working(url, body(calling)) as engine:
        run = await done(engine, rid)

    assert (run.state, run.output) == (Status.DONE, b'"ended"')


@pytest.mark.anyio
async def test_an_engine_that_stops_under_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """Stopped again and again in the middle of a backlog: each message once, no run left running."""
    url = url_in(tmp_path)

    async def count(this: Attempt) -> None:
        await this.effects.kv_update("g", "n", ONE_MORE)
        await asyncio.sleep(0.001)

    many, stops = 400, 0
    async with working(url, step(count), work=False) as engine:
        await asyncio.gather(*[sent(engine) for _ in range(many)])
    while True:
        async with working(url, step(count), concurrency=8, drain=0.0 if stops % 2 else 5.0) as engine:
            await asyncio.sleep(0.02 + 0.01 * stops)
            finished = not [key for key in await engine.store.counts() if not Status(key[1]).ended]
        store = SqliteStore(url)
        await store.open()
        assert not await store.runs(statuses=[Status.RUNNING]), "a run is left running"
        assert not await store.workers()
        row = await store.kv_get("g", "n")
        await store.close()
        if finished:
            break
        stops += 1
    assert stops > 2
    assert row is not None
    assert row.value == b'{"n":%d}' % many
