"""Messages that fail for good: kept with their reason and history, and what a redrive does again."""

import json
from pathlib import Path

import pytest

from everstep.core.batch import Run
from everstep.core.status import Status, WrongStatus
from everstep.engine.attempt import Attempt
from everstep.engine.engine import Engine
from everstep.errors import TerminalError
from tests.acceptance.project import Project, eventually
from tests.torture.engines import ONE_MORE, done, sent, step, until, url_in, value, working


class Broken(Exception):
    """What the handler raises until it is mended."""


class Charging:
    """A handler with three effects and a function, which fails at its end until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.charged: list[int] = []
        self.error: type[Exception] = Broken

    async def charge(self, amount: int) -> int:
        self.charged.append(amount)
        return amount

    async def __call__(self, this: Attempt) -> None:
        amount = json.loads(this.run.input)
        await this.effects.run(self.charge, amount)
        await this.effects.kv_update("g", "n", ONE_MORE)
        async with this.effects.atomic():
            await this.effects.kv_set("g", "last", b"%d" % amount)
            await this.effects.publish("charged", b"%d" % amount)
        if not self.mended:
            raise self.error(f"attempt {this.number}")


async def history(engine: Engine, run: Run) -> list[str]:
    entries = await engine.store.entries(run.id, run.generation)
    return [json.loads(entry.value or b"{}")["message"] for entry in entries if entry.kind == "attempt"]


@pytest.mark.anyio
async def test_four_failures_end_in_the_dead_letters(tmp_path: Path) -> None:
    """Three retries by default; the reason, the number of attempts and each failure are kept."""
    charging = Charging()
    async with working(url_in(tmp_path), step(charging)) as engine:
        run = await done(engine, await sent(engine, data=7))

        assert (run.state, run.attempt) == (Status.FAILED, 4)
        assert "attempt 4" in (run.error or b"").decode()
        assert await history(engine, run) == [f"attempt {n}" for n in (1, 2, 3, 4)]
        assert (charging.charged, await value(engine, "n")) == ([7], {"n": 1})
        assert len(await engine.store.unrouted()) == 1


@pytest.mark.anyio
async def test_an_error_that_no_attempt_would_mend_is_not_tried_again(tmp_path: Path) -> None:
    """A TerminalError goes straight to the dead letters."""
    charging = Charging()
    charging.error = TerminalError
    async with working(url_in(tmp_path), step(charging)) as engine:
        run = await done(engine, await sent(engine, data=7))

        assert (run.state, run.attempt, await history(engine, run)) == (Status.FAILED, 1, ["attempt 1"])


@pytest.mark.anyio
@pytest.mark.parametrize(("action", "times"), [("redrive", 1), ("redrive_new", 2)])
async def test_a_redrive_keeps_what_was_done_and_a_new_one_does_it_again(
    tmp_path: Path, action: str, times: int
) -> None:
    """Redriven, effects that earlier attempts had are not repeated; redriven as new, all of them are."""
    charging = Charging()
    async with working(url_in(tmp_path), step(charging)) as engine:
        rid = await sent(engine, data=7)
        await done(engine, rid)
        charging.mended = True

        await engine.control(rid, action)
        run = await done(engine, rid)

        assert run.state is Status.DONE
        assert (len(charging.charged), await value(engine, "n")) == (times, {"n": times})
        assert len(await engine.store.unrouted()) == times


@pytest.mark.anyio
async def test_a_redrive_that_fails_again_has_its_attempts_anew(tmp_path: Path) -> None:
    """Four more, appended to the history; then it is a dead letter again."""
    charging = Charging()
    async with working(url_in(tmp_path), step(charging)) as engine:
        rid = await sent(engine, data=7)
        await done(engine, rid)
        await engine.control(rid, "redrive")
        await until(lambda: _failed_with(engine, rid, 8))
        run = await done(engine, rid)

        assert (run.state, charging.charged) == (Status.FAILED, [7])
        with pytest.raises(WrongStatus):
            await engine.control(rid, "resume")
        assert (await engine.control(rid, "discard")).state is Status.CANCELLED


async def _failed_with(engine: Engine, rid: str, attempts: int) -> bool:
    run = await engine.store.run(rid)
    assert run is not None
    return run.state is Status.FAILED and len(await history(engine, run)) == attempts


@pytest.mark.anyio
async def test_a_redrive_with_another_input_charges_the_other_amount(tmp_path: Path) -> None:
    """What was done for the old input stays done; for the new one it is done."""
    charging = Charging()
    async with working(url_in(tmp_path), step(charging)) as engine:
        rid = await sent(engine, data=7)
        await done(engine, rid)
        charging.mended = True
        await engine.control(rid, "redrive", input=b"8")
        await done(engine, rid)

        assert charging.charged == [7, 8]
        assert await value(engine, "last") == 8


CRASHER = """
    import os, signal
    from ledger import note

    config = {"name": "Crasher", "triggers": [{"type": "queue", "topic": "crash"}]}


    async def handler(message, ctx):
        note("crashed")
        os.kill(os.getpid(), signal.SIGKILL)
"""
INNOCENT = """
    from ledger import note

    config = {"name": "Innocent", "triggers": [{"type": "queue", "topic": "innocent"}]}


    async def handler(message, ctx):
        note("innocent")
"""


@pytest.mark.timeout(240)
def test_a_handler_that_kills_its_worker_is_set_aside_after_five_times(project: Project) -> None:
    """A crash loop ends by itself; what else there is to do is done."""
    project.write("src/crasher_step.py", CRASHER)
    project.write("src/innocent_step.py", INNOCENT)
    server = project.serve()
    project.cli("enqueue", "crash", "{}")
    for n in range(5):
        server = server if n == 0 else project.start("start")
        assert server.wait() == -9
        assert project.ledger().count("crashed") == n + 1
    project.cli("enqueue", "innocent", "{}")

    survivor = project.serve()
    project.wait_for_note("innocent")
    eventually(lambda: _statuses(project) == ["done", "needs_attention"])

    assert survivor.exited is None
    assert project.ledger().count("crashed") == 5
    (aside,) = project.run("runs", "list", "--status", "needs_attention", "--json").lines
    shown = project.run("runs", "show", aside["id"])
    assert "crashes its worker" in shown.out, str(shown)


def _statuses(project: Project) -> list[str]:
    return sorted(run["status"] for run in project.run("runs", "list", "--json").lines)
