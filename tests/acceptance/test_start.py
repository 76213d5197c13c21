"""`everstep start`: production; what it refuses, and how it ends without losing anything."""

import json
import os
import signal
import socket
import threading

import pytest

from tests.acceptance.project import Project, eventually

SLOW = """
    from ledger import note, released

    config = {"name": "Slow", "triggers": [{"type": "queue", "topic": "slow"}]}


    async def handler(message, ctx):
        note("began", message["n"])
        await released("slow")
        note("ended", message["n"])
"""
HELLO = """
    from ledger import note, released

    config = {"name": "Hello", "triggers": [{"type": "http", "method": "GET", "path": "/hello"}]}


    async def handler(request, ctx):
        note("asked")
        if "wait" in request.query_params:
            await released("hello")
        return {"status": 200, "body": {"hello": "you"}}
"""


def test_sigterm_drains_a_running_handler(project: Project) -> None:
    """SIGTERM: what runs may end, its end is kept, and the exit code says all is well."""
    project.write("src/slow_step.py", SLOW)
    server = project.serve()
    project.cli("enqueue", "slow", '{"n": 1}')
    project.wait_for_note("began 1")

    server.send(signal.SIGTERM)
    server.wait_for('"stopping"')
    project.release("slow")

    assert server.wait() == 0
    assert project.ledger() == ["began 1", "ended 1"]
    assert [run["status"] for run in project.run("runs", "list", "--json").lines] == ["done"]


def test_what_does_not_end_in_time_is_given_back(project: Project) -> None:
    """A handler that outlasts the drain is given back at once: the next server takes it up."""
    project.write("src/slow_step.py", SLOW)
    server = project.serve(env={"EVERSTEP_DRAIN": "0.2s"})
    project.cli("enqueue", "slow", '{"n": 1}')
    project.wait_for_note("began 1")

    assert server.stop() == 0
    project.release("slow")
    project.serve()

    assert project.wait_for_note("ended 1") == ["began 1", "began 1", "ended 1"]


def test_a_request_being_answered_is_answered(project: Project) -> None:
    """SIGTERM closes the port; who was let in before is answered."""
    project.write("src/hello_step.py", HELLO)
    server = project.serve()
    answers: list[int] = []
    client = server.client()
    asking = threading.Thread(target=lambda: answers.append(client.get("/hello?wait=1").status_code))
    asking.start()
    project.wait_for_note("asked")

    server.send(signal.SIGTERM)
    eventually(lambda: _refused(server.port), "the port is closed")
    project.release("hello")
    asking.join()

    assert server.wait() == 0
    assert answers == [200]


def _refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_on_the_spot(project: Project, number: signal.Signals) -> None:
    """Who asks twice does not want to wait; the work is taken up by another server."""
    project.write("src/slow_step.py", SLOW)
    server = project.serve()
    project.cli("enqueue", "slow", '{"n": 1}')
    project.wait_for_note("began 1")

    server.send(number)
    server.wait_for('"stopping"')
    server.send(number)

    assert server.wait(timeout=10) == 128 + number
    project.release("slow")
    project.serve()
    assert project.wait_for_note("ended 1").count("began 1") == 2


def test_a_thread_that_does_not_end_does_not_hold_the_process(project: Project) -> None:
    """A blocking handler cannot be stopped: its run is given back and the process ends without it."""
    project.write(
        "src/stuck_step.py",
        """
        import asyncio, time
        from ledger import note

        config = {"name": "Stuck", "triggers": [{"type": "queue", "topic": "stuck"}]}


        async def handler(message, ctx):
            note("began")
            await asyncio.to_thread(time.sleep, 600)
        """,
    )
    server = project.serve(env={"EVERSTEP_DRAIN": "0.1s"})
    project.cli("enqueue", "stuck", "{}")
    project.wait_for_note("began")

    assert server.stop() == 0
    assert "left threads behind" in server.err
    (run,) = project.run("runs", "list", "--json").lines
    assert run["status"] == "ready"


def test_a_thread_that_has_nothing_to_do_is_not_waited_for(project: Project) -> None:
    """A plain function that returned leaves an idle thread: the server ends at once, and warns of nothing."""
    project.write(
        "src/plain_step.py",
        """
        from ledger import note

        config = {"name": "Plain", "triggers": [{"type": "queue", "topic": "plain"}]}


        def handler(message, ctx):
            ctx.run(note, "called")
        """,
    )
    server = project.serve()
    project.cli("enqueue", "plain", "{}")
    project.wait_for_note("called")

    assert server.stop() == 0
    assert "left threads behind" not in server.err


def test_kill_9_loses_nothing(project: Project) -> None:
    """What was accepted before the process was killed is done by the next one."""
    project.write("src/slow_step.py", SLOW)
    server = project.serve()
    for n in range(3):
        project.cli("enqueue", "slow", json.dumps({"n": n}))
    project.wait_for_note("began 2")

    server.kill9()
    project.release("slow")
    project.serve()

    for n in range(3):
        assert project.wait_for_note(f"ended {n}").count(f"ended {n}") == 1


def test_logs_are_json_lines(project: Project) -> None:
    """Every line on standard error is a JSON object; with --access-log requests are among them."""
    project.write("src/hello_step.py", HELLO)
    server = project.serve("--access-log")

    server.http.get("/hello?x=1")
    server.stop()

    lines = [json.loads(line) for line in server.err.splitlines()]
    assert server.out == ""
    ours = [line["message"] for line in lines if line["logger"] == "everstep.start"]
    assert ours == ["serving", "stopping", "stopped"]
    requests = [line for line in lines if line["logger"] == "everstep.access"]
    assert ("GET", "/hello?x=1", 200) in [(r["method"], r["path"], r["status"]) for r in requests]


def test_a_port_in_use_is_said(project: Project) -> None:
    """A taken port is a sentence and exit code 1."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        for command in ("start", "dev"):
            ran = project.run(command, "--port", str(port))

            assert ran.code == 1, str(ran)
            assert f"port {port} on 127.0.0.1 is in use" in ran.err
            assert "Traceback" not in ran.err


def test_a_step_that_cannot_be_used_stops_the_start(project: Project) -> None:
    """In production a missing Step is no small matter: exit code 3, each one named with its line."""
    project.write("src/hello_step.py", HELLO)
    project.write("src/broken_step.py", "config = (\n")
    project.write(
        "src/twin_step.py",
        HELLO.replace('"Hello"', '"Twin"'),
    )

    ran = project.run("start", "--port", "0", "--json")

    assert ran.code == 3, str(ran)
    assert [(e["event"], e["file"]) for e in ran.lines] == [
        ("problem", "src/broken_step.py"),
        ("problem", "src/twin_step.py"),
    ]
    log = [json.loads(line) for line in ran.err.splitlines()]
    assert [line["file"] for line in log[:2]] == ["src/broken_step.py", "src/twin_step.py"]
    assert log[-1]["message"] == "2 Steps cannot be used; nothing was started"


def test_a_wrong_setting_stops_the_start(project: Project) -> None:
    """A variable that cannot be read is named with its value and what would do: exit code 3."""
    ran = project.run("start", env={"EVERSTEP_LEASE": "soon"})

    assert ran.code == 3, str(ran)
    assert "EVERSTEP_LEASE is 'soon'" in ran.err


def test_two_servers_on_one_file_share_a_queue(project: Project) -> None:
    """Two processes with one slot each take one message each; killing one hands its message over."""
    project.write("src/slow_step.py", SLOW.replace('"began"', '"began", os.getpid()'))
    source = (project.root / "src/slow_step.py").read_text()
    project.write("src/slow_step.py", f"import os\n{source}")
    servers = [project.serve(env={"EVERSTEP_CONCURRENCY": "1"}) for _ in range(2)]
    for n in range(2):
        project.cli("enqueue", "slow", json.dumps({"n": n}))

    eventually(lambda: len(project.ledger()) == 2, "both began")
    pids = {int(line.split()[1]) for line in project.ledger()}
    assert pids == {server.pid for server in servers}

    servers[0].kill9()
    project.release("slow")
    project.wait_for_note("ended 0")
    project.wait_for_note("ended 1")
    assert sorted(line for line in project.ledger() if line.startswith("ended")) == ["ended 0", "ended 1"]
    assert os.getpid() not in pids
