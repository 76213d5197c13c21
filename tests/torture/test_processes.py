"""Two processes on one store: they share, one dies, one hangs and comes back; each effect is there once."""

import json
import os
import signal
import time
from collections import defaultdict
from typing import Any

import pytest

from tests.acceptance.project import Project, eventually
from tests.torture.conftest import SEND, send

FOREVER = "600s"  # a lease nobody can be waiting for here
WORK = """
    import asyncio, os
    from ledger import note

    config = {"name": "Work", "triggers": [{"type": "queue", "topic": "work"}]}


    async def handler(message, ctx):
        note("began", message["n"], os.getpid())
        await asyncio.sleep(0.005)
        await ctx.state.update("count", "work", [{"type": "increment", "path": "n", "by": 1}])
        note("ended", message["n"], os.getpid())
"""
ORDERED = """
    import asyncio, os, random
    from ledger import note

    config = {
        "name": "Ordered",
        "triggers": [{"type": "queue", "topic": "ordered"}],
        "infrastructure": {"queue": {"type": "fifo"}},
    }


    async def handler(message, ctx):
        note("began", message["group"], message["n"])
        await asyncio.sleep(random.random() * 0.01)
        if message["n"] % 7 == 3 and ctx.trigger.attempt == 1:
            raise ValueError("on purpose")
        note("ended", message["group"], message["n"])
"""
HELD = """
    import os
    from ledger import note, released

    config = {
        "name": "Held",
        "triggers": [{"type": "queue", "topic": "held"}],
        "infrastructure": {"handler": {"timeout": 100}},
    }


    async def handler(message, ctx):
        note("began", message["n"], os.getpid())
        await released(f"go-{os.getpid()}")
        try:
            await ctx.state.update("count", "held", [{"type": "increment", "path": "n", "by": 1}])
        except Exception as error:
            note("refused", message["n"], os.getpid(), type(error).__name__)
            raise
        note("ended", message["n"], os.getpid())
"""
HELD_CALL = """
    import os
    from ledger import note, released

    config = {"name": "HeldCall", "triggers": [{"type": "queue", "topic": "held_call"}]}


    async def charge():
        note("charged", os.getpid())
        await released(f"go-{os.getpid()}")
        return os.getpid()


    async def handler(message, ctx):
        by = await ctx.run(charge)
        await ctx.enqueue({"topic": "charged", "data": {"by": by}})
        note("ended", os.getpid())
"""


def state(project: Project, group: str, key: str) -> Any:
    return project.cli("state", "get", group, key)


def statuses(project: Project) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for run in project.run("runs", "list", "--json", "--limit", "1000").lines:
        found[run["status"]] += 1
    return dict(found)


def numbers(project: Project, word: str) -> list[str]:
    return [line.split()[1] for line in project.ledger() if line.split()[0] == word]


def pids(project: Project, word: str) -> set[int]:
    return {int(line.split()[2]) for line in project.ledger() if line.split()[0] == word}


@pytest.mark.timeout(240)
def test_two_processes_share_a_queue(project: Project) -> None:
    """Each gets some, nothing is handled twice, all is handled."""
    project.write("src/send_step.py", SEND)
    project.write("src/work_step.py", WORK)
    few = {"EVERSTEP_CONCURRENCY": "4"}
    one, two = project.serve(env=few), project.serve(env=few)

    for first in range(0, 300, 50):
        send((one, two)[first % 100 // 50], "work", *({"n": n} for n in range(first, first + 50)))
    eventually(lambda: len(numbers(project, "ended")) >= 300, "300 messages are handled")

    assert sorted(map(int, numbers(project, "began"))) == list(range(300))
    assert pids(project, "ended") == {one.pid, two.pid}
    assert state(project, "count", "work") == {"n": 300}
    eventually(lambda: statuses(project) == {"done": 300})


def test_the_runs_of_a_killed_process_are_taken_over_at_once(project: Project) -> None:
    """A free lock is a dead process: nobody waits for its lease."""
    project.write("src/send_step.py", SEND)
    project.write("src/held_step.py", HELD)
    one = project.serve(env={"EVERSTEP_LEASE": FOREVER})
    send(one, "held", *({"n": n} for n in range(10)))
    eventually(lambda: len(numbers(project, "began")) == 10)
    two = project.serve(env={"EVERSTEP_LEASE": FOREVER})
    project.release(f"go-{two.pid}")

    one.kill9()
    killed = time.monotonic()
    eventually(lambda: len(numbers(project, "ended")) == 10, "the other one has handled them")

    assert time.monotonic() - killed < 15
    assert pids(project, "ended") == {two.pid}
    assert state(project, "count", "held") == {"n": 10}
    eventually(lambda: statuses(project) == {"done": 10})


def test_a_process_that_starts_takes_over_from_one_that_died_before(project: Project) -> None:
    """Alone after a crash: the runs of the dead are the first it does."""
    project.write("src/send_step.py", SEND)
    project.write("src/held_step.py", HELD)
    one = project.serve(env={"EVERSTEP_LEASE": FOREVER})
    send(one, "held", {"n": 1})
    project.wait_for_note(f"began 1 {one.pid}")
    one.kill9()

    two = project.serve(env={"EVERSTEP_LEASE": FOREVER})
    project.release(f"go-{two.pid}")
    project.wait_for_note(f"ended 1 {two.pid}")

    assert state(project, "count", "held") == {"n": 1}


def test_a_zombie_commits_nothing_and_works_on_as_somebody_new(project: Project) -> None:
    """Stopped beyond its lease and continued: what it had in flight is refused, what comes next is not."""
    project.write("src/send_step.py", SEND)
    project.write("src/held_step.py", HELD)
    lease = {"EVERSTEP_LEASE": "1s"}
    zombie = project.serve(env=lease)
    send(zombie, "held", {"n": 1})
    project.wait_for_note(f"began 1 {zombie.pid}")
    other = project.serve(env=lease)

    zombie.freeze()
    project.wait_for_note(f"began 1 {other.pid}")
    project.release(f"go-{zombie.pid}")
    project.release(f"go-{other.pid}")
    project.wait_for_note(f"ended 1 {other.pid}")
    zombie.thaw()
    zombie.wait_for("declared dead")

    eventually(lambda: statuses(project) == {"done": 1})
    assert state(project, "count", "held") == {"n": 1}
    other.stop()
    send(zombie, "held", {"n": 2})
    project.wait_for_note(f"ended 2 {zombie.pid}")
    assert numbers(project, "ended") == ["1", "2"]
    assert state(project, "count", "held") == {"n": 2}


def test_a_function_in_flight_in_a_zombie_has_its_result_refused(project: Project) -> None:
    """The function may run twice, once in each; its result counts once, and so does what follows."""
    project.write("src/send_step.py", SEND)
    project.write("src/call_step.py", HELD_CALL)
    lease = {"EVERSTEP_LEASE": "1s"}
    zombie = project.serve(env=lease)
    send(zombie, "held_call", {})
    project.wait_for_note(f"charged {zombie.pid}")
    other = project.serve(env=lease)

    zombie.freeze()
    project.wait_for_note(f"charged {other.pid}")
    zombie.thaw()
    project.release(f"go-{zombie.pid}")
    zombie.wait_for("declared dead")
    project.release(f"go-{other.pid}")
    project.wait_for_note(f"ended {other.pid}")

    eventually(lambda: statuses(project) == {"done": 1})
    assert [line for line in project.ledger() if line.startswith("ended")] == [f"ended {other.pid}"]


def test_a_request_to_a_zombie_is_served(project: Project) -> None:
    """Whoever asked it while it was stopped gets an answer, and the message is kept once."""
    project.write("src/send_step.py", SEND)
    project.write("src/work_step.py", WORK)
    lease = {"EVERSTEP_LEASE": "1s"}
    zombie = project.serve(env=lease)
    client = zombie.client()
    other = project.serve(env=lease)
    zombie.freeze()
    other.wait_for("stood still")

    os.killpg(zombie.pid, signal.SIGCONT)
    answer = client.post("/send", json={"topic": "work", "messages": [{"n": n} for n in range(5)]})

    assert answer.status_code == 202, answer.text
    eventually(lambda: statuses(project) == {"done": 5})
    assert state(project, "count", "work") == {"n": 5}


@pytest.mark.timeout(240)
def test_groups_keep_their_order_over_two_processes(project: Project) -> None:
    """One at a time and in the order sent, in whichever process, and through failures too."""
    project.write("src/send_step.py", SEND)
    project.write("src/ordered_step.py", ORDERED)
    one, two = project.serve(), project.serve()

    for n in range(20):
        send((one, two)[n % 2], "ordered", *({"group": f"g{g}", "n": n} for g in range(5)))
    hoped = "100 messages are handled"
    eventually(lambda: len(numbers(project, "ended")) >= 100, hoped, timeout=120)

    lines: dict[str, list[str]] = defaultdict(list)
    for line in project.ledger():
        word, group, number = line.split()
        lines[group].append(f"{word} {number}")
    expected = [
        word for n in range(20) for word in ([f"began {n}"] * (2 if n % 7 == 3 else 1) + [f"ended {n}"])
    ]
    assert dict(lines) == {f"g{g}": expected for g in range(5)}


LATE = """
    import asyncio, time
    from ledger import note, released

    config = {
        "name": "Late",
        "triggers": [{"type": "queue", "topic": "late"}],
        "infrastructure": {"handler": {"timeout": 1}, "queue": {"visibilityTimeout": 2}},
    }


    async def handler(message, ctx):
        note("began", ctx.trigger.attempt)
        if ctx.trigger.attempt == 1:
            try:
                await released("late")
            except asyncio.CancelledError:
                pass  # it does not let itself be stopped
            await released("late")
        try:
            await ctx.state.update("count", "late", [{"type": "increment", "path": "n", "by": 1}])
            await ctx.enqueue({"topic": "nobody", "data": {}})
        except Exception as error:
            note("refused", ctx.trigger.attempt, type(error).__name__)
            raise
        note("ended", ctx.trigger.attempt)
"""
LATE_THREAD = """
    import time
    from pathlib import Path
    from ledger import FOLDER, note

    config = {
        "name": "Late",
        "triggers": [{"type": "queue", "topic": "late"}],
        "infrastructure": {"handler": {"timeout": 1}, "queue": {"visibilityTimeout": 2}},
    }


    def handler(message, ctx):
        note("began", ctx.trigger.attempt)
        while ctx.trigger.attempt == 1 and not (FOLDER / "late.released").exists():
            time.sleep(0.01)
        try:
            ctx.state.update("count", "late", [{"type": "increment", "path": "n", "by": 1}])
            ctx.enqueue({"topic": "nobody", "data": {}})
        except BaseException as error:
            note("refused", ctx.trigger.attempt, type(error).__name__)
            raise
        note("ended", ctx.trigger.attempt)
"""


@pytest.mark.parametrize("text", [LATE, LATE_THREAD], ids=["async", "thread"])
def test_a_handler_that_outlived_its_timeout_commits_nothing(project: Project, text: str) -> None:
    """It is left behind: its run goes on in another attempt, and whatever it still tries is refused."""
    project.write("src/late_step.py", text)
    project.serve()
    project.cli("enqueue", "late", "{}")
    project.wait_for_note("ended 2")

    project.release("late")
    eventually(
        lambda: any(line.startswith("refused 1") for line in project.ledger()), "the late one is refused"
    )

    assert [line for line in project.ledger() if line.startswith("ended")] == ["ended 2"]
    assert state(project, "count", "late") == {"n": 1}
    (run,) = project.run("runs", "list", "--json").lines
    assert run["status"] == "done", json.dumps(run)
