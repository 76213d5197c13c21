"""`enqueue`, `state`, `runs` and `dlq`, beside a running server."""

import json
from datetime import datetime
from statistics import median
from typing import Any

from tests.acceptance.project import Project, eventually

WORK = """
    from ledger import note

    config = {
        "name": "Work",
        "triggers": [{"type": "queue", "topic": "work", "config": {"maxRetries": 0}}],
    }


    async def handler(message, ctx):
        await ctx.state.set("last", "message", message)
        if message.get("fail"):
            note("failed", message["n"])
            raise ValueError("no such luck")
        note("worked", message["n"])
        return {"done": message["n"]}
"""
FIFO = """
    from ledger import note

    config = {
        "name": "InOrder",
        "triggers": [{"type": "queue", "topic": "ordered", "config": {"type": "fifo"}}],
    }


    async def handler(message, ctx):
        note(message["n"])
"""


def lines(project: Project, *args: str) -> list[Any]:
    ran = project.run(*args, "--json")
    assert ran.code == 0, str(ran)
    return ran.lines


def ended(project: Project, status: str, count: int = 1) -> list[Any]:
    """Wait until so many runs have a status, and return them."""
    return until(project, count, "runs", "list", "--status", status)


def until(project: Project, count: int, *args: str) -> list[Any]:
    """Ask a command until it prints so many lines, and return them."""

    def look() -> list[Any]:
        found = lines(project, *args)
        return found if len(found) == count else []

    return eventually(look, f"{count} lines of {args}")


# ---- enqueue


def test_enqueue_wakes_a_running_server_at_once(project: Project) -> None:
    """A message from another process is taken up when it comes, not at the next look a second later."""
    project.write("src/work_step.py", WORK)
    project.serve()

    for n in range(9):
        sent = project.cli("enqueue", "work", json.dumps({"n": n}))
        assert sent["steps"] == ["Work"]
        project.wait_for_note(f"worked {n}")

    runs = ended(project, "done", 9)
    waits = [at(run["started_at"]) - at(run["created_at"]) for run in runs]
    assert median(waits) < 0.25


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_enqueue_says_who_gets_it(project: Project) -> None:
    """The message id and the Steps; a topic nobody listens to is said plainly, and is no failure."""
    project.write("src/work_step.py", WORK)
    with_server = project.serve()

    routed = project.run("enqueue", "--topic", "work", "--message", '{"n": 1}')
    unrouted = project.run("enqueue", "wrok", '{"n": 1}')
    with_server.stop()

    assert routed.code == unrouted.code == 0
    assert routed.out.startswith("m_")
    assert routed.out.endswith("→ Work\n")
    assert "no Step is subscribed to 'wrok'" in unrouted.out
    sent = project.cli("enqueue", "wrok", "1")
    assert sent | {"id": ""} == {"id": "", "topic": "wrok", "steps": [], "routed": False}


def test_a_message_sent_before_any_server_ran_is_handled_by_the_first(project: Project) -> None:
    """Enqueueing makes the store when there is none; the message waits for its Step."""
    project.write("src/work_step.py", WORK)
    sent = project.run("enqueue", "work", "-", "--json", input='{"n": 7}')
    assert (sent.code, sent.json["routed"]) == (0, False)

    project.serve()

    project.wait_for_note("worked 7")


def test_enqueue_knows_delay_group_and_priority(project: Project) -> None:
    """Options reach the run: when it is due, which group it is in, how urgent it is."""
    project.write("src/work_step.py", WORK)
    project.write("src/fifo_step.py", FIFO)
    project.serve().stop()

    project.cli("enqueue", "work", '{"n": 1}', "--delay", "5m", "--priority", "3")
    project.cli("enqueue", "ordered", '{"n": 1}', "--group", "g-1")
    missing = project.run("enqueue", "ordered", '{"n": 2}')

    ordered, delayed = lines(project, "runs", "list")
    assert (delayed["status"], delayed["priority"]) == ("scheduled", 3)
    assert round(at(delayed["due_at"]) - at(delayed["created_at"])) == 300
    assert ordered["key"] == "g-1"
    assert missing.code == 1
    assert "--group" in missing.err


def test_messages_nobody_reads_are_listed(project: Project) -> None:
    """Newest first, to programs and to people, until their Step comes."""
    project.write("src/work_step.py", WORK)
    project.cli("enqueue", "work", '{"n": 1}')
    project.cli("enqueue", "wrok", '{"n": 2}')

    kept = lines(project, "unrouted", "list")
    assert [(m["topic"], m["data"]) for m in kept] == [("wrok", {"n": 2}), ("work", {"n": 1})]
    assert len(lines(project, "unrouted", "list", "--limit", "1")) == 1
    project.serve()
    project.wait_for_note("worked 1")
    shown = project.run("unrouted", "list").out
    assert "wrok" in shown
    assert "work " not in shown


# ---- state


def test_state_makes_a_round_trip(project: Project) -> None:
    """What is set can be got, listed, deleted and cleared; Steps see the same."""
    project.write("src/work_step.py", WORK)
    project.serve()

    changed = project.cli("state", "set", "orders", "o-1", '{"total": 12.5, "name": "Ünï"}')
    assert changed == {"group": "orders", "key": "o-1", "old": None, "new": {"total": 12.5, "name": "Ünï"}}
    assert project.cli("state", "get", "orders", "o-1") == {"total": 12.5, "name": "Ünï"}
    project.cli("state", "set", "orders", "o-2", "-", input="[1, 2]")
    assert [row["key"] for row in project.cli("state", "list", "orders")] == ["o-1", "o-2"]

    project.cli("enqueue", "work", '{"n": 1}')
    project.wait_for_note("worked 1")
    assert project.cli("state", "get", "last", "message") == {"n": 1}
    assert project.cli("state", "list") == [{"group": "last", "keys": 1}, {"group": "orders", "keys": 2}]

    assert project.cli("state", "delete", "orders", "o-1")["old"] == {"total": 12.5, "name": "Ünï"}
    assert project.run("state", "get", "orders", "o-1").code == 1
    assert project.cli("state", "clear", "orders") == {"group": "orders", "deleted": 1}
    assert "orders" not in project.run("state", "list").out


# ---- runs


def test_runs_are_listed_and_shown(project: Project) -> None:
    """A run shows its row, input, journal and failed attempts, to programs and to people."""
    project.write("src/work_step.py", WORK)
    project.serve()
    project.cli("enqueue", "work", '{"n": 1}')
    project.cli("enqueue", "work", '{"n": 2, "fail": true}')

    (done,) = ended(project, "done")
    (failed,) = ended(project, "failed")
    assert (done["handler"], done["topic"]) == ("Work", "work")
    assert failed["error"]["message"] == "no such luck"
    assert lines(project, "runs", "list", "--handler", "Other") == []
    assert len(lines(project, "runs", "list", "--limit", "1")) == 1
    assert len(lines(project, "runs", "list", "--all")) == 2

    whole = project.cli("runs", "show", done["id"])
    assert (whole["input"], whole["status"]) == ({"n": 1}, "done")
    assert [(e["kind"], e["name"]) for e in whole["journal"]] == [("set", "last/message")]
    shown = project.run("runs", "show", failed["id"]).out
    assert "no such luck" in shown
    assert "Failed attempts (1)" in shown
    assert "Traceback" in shown
    assert project.cli("runs", "show", failed["id"])["attempts_failed"][0]["number"] == 1


def test_a_failed_run_is_tried_again_and_a_waiting_one_cancelled(project: Project) -> None:
    """`retry` takes it up again in the running server; `cancel` ends what has not ended."""
    project.write("src/work_step.py", WORK)
    project.serve()
    project.cli("enqueue", "work", '{"n": 1, "fail": true}')
    (failed,) = ended(project, "failed")

    again = project.cli("runs", "retry", failed["id"])
    project.wait_for_note("failed 1", count=2)
    assert again["id"] == failed["id"]

    project.cli("enqueue", "work", '{"n": 2}', "--delay", "1h")
    (waiting,) = ended(project, "scheduled")
    assert project.cli("runs", "cancel", waiting["id"])["status"] == "cancelled"
    twice = project.run("runs", "cancel", waiting["id"])
    assert twice.code == 1
    assert "cancelled" in twice.err


def test_a_run_that_is_running_elsewhere_is_cancelled(project: Project) -> None:
    """The command asks its worker, which stops the handler and writes that it was cancelled."""
    project.write(
        "src/slow_step.py",
        """
        from ledger import note, released

        config = {"name": "Slow", "triggers": [{"type": "queue", "topic": "slow"}]}


        async def handler(message, ctx):
            note("began")
            await released("never")
        """,
    )
    project.serve()
    project.cli("enqueue", "slow", "{}")
    project.wait_for_note("began")
    (running,) = lines(project, "runs", "list", "--status", "running")

    assert project.cli("runs", "cancel", running["id"])["asked"] == "cancel"

    assert ended(project, "cancelled")[0]["id"] == running["id"]
    assert project.ledger() == ["began"]


# ---- dead letters


def test_dead_letters_make_a_round_trip(project: Project) -> None:
    """List, show, redrive one with another message, redrive all of a topic, discard the rest."""
    project.write("src/work_step.py", WORK)
    project.serve()
    for n in range(4):
        project.cli("enqueue", "work", json.dumps({"n": n, "fail": True}))
    dead = until(project, 4, "dlq", "list")
    assert len(lines(project, "dlq", "list", "--limit", "2")) == 2
    assert lines(project, "dlq", "list", "--topic", "other") == []
    assert lines(project, "dlq", "list", "--step", "Other") == []
    assert lines(project, "dlq", "redrive", "--all", "--step", "Other") == []
    assert len(lines(project, "dlq", "list", "--step", "Work", "--topic", "work")) == 4
    assert project.run("dlq", "discard", dead[0]["id"], "--step", "Work").code == 2
    assert project.cli("dlq", "show", dead[0]["id"])["error"]["message"] == "no such luck"

    project.cli("dlq", "redrive", dead[0]["id"], "--input", '{"n": 10}')
    project.wait_for_note("worked 10")
    assert len(lines(project, "dlq", "list")) == 3

    redriven = lines(project, "dlq", "redrive", "--all", "--step", "Work", "--rate", "100/s", "--as-new")
    assert {run["id"] for run in redriven} == {run["id"] for run in dead[1:]}
    assert [run["generation"] for run in redriven] == [1, 1, 1]
    eventually(lambda: len(project.ledger()) == 4 + 1 + 3)
    until(project, 3, "dlq", "list")

    done = project.run("dlq", "discard", dead[1]["id"], "r_unknown", dead[0]["id"])
    assert done.code == 1
    assert done.out == "1 dead letter discarded.\n"
    assert "r_unknown" in done.err
    assert "is no dead letter" in done.err
    assert len(lines(project, "dlq", "discard", "--all")) == 2
    assert project.run("dlq", "list").out == "There are no dead letters.\n"


def test_bulk_redriving_keeps_to_its_rate(project: Project) -> None:
    """Five at 10/s take at least four tenths of a second: what they failed on is not felled again."""
    project.write("src/work_step.py", WORK)
    project.serve()
    for n in range(5):
        project.cli("enqueue", "work", json.dumps({"n": n, "fail": True}))
    until(project, 5, "dlq", "list")

    lines(project, "dlq", "redrive", "--all", "--rate", "10/s")

    eventually(lambda: len(project.ledger()) == 10)
    starts = sorted(at(run["started_at"]) for run in lines(project, "runs", "list"))
    assert starts[-1] - starts[0] >= 0.35
