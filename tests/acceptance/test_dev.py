"""`everstep dev`: what it finds, how it reloads, and how it ends."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx

from tests.acceptance.project import Project, Server, eventually

HELLO = """
    config = {{
        "name": "Hello",
        "triggers": [{{"type": "http", "method": "GET", "path": "/hello"}}],
        "flows": ["greetings"],
    }}


    async def handler(request, ctx):
        return {{"status": 200, "body": {{"hello": "{word}"}}}}
"""
WORK = """
    from ledger import note

    config = {"name": "Work", "triggers": [{"type": "queue", "topic": "work"}], "flows": ["greetings"]}


    async def handler(message, ctx):
        note("worked", message["n"])
"""


def hello(project: Project, word: str) -> None:
    project.write("src/hello_step.py", HELLO.format(word=word))


def test_dev_prints_each_step_and_serves_them(project: Project) -> None:
    """Each Step is printed with its kind and file, its routes and topics, then the flows and the URL."""
    hello(project, "you")
    project.write("src/jobs/work_step.py", WORK)

    server = project.dev()

    assert server.http.get("/hello").json() == {"hello": "you"}
    assert "[CREATED] Step (Http) src/hello_step.py  GET /hello\n" in server.out
    assert "[CREATED] Step (Queue) src/jobs/work_step.py  work\n" in server.out
    assert "[CREATED] Flow greetings (2 Steps)\n" in server.out
    assert server.url in server.out
    assert f"Docs     {server.url}/docs\n" in server.out


def test_a_broken_file_is_reported_and_the_others_are_served(project: Project) -> None:
    """A file that cannot be read is named with its line and reason; it stops nobody else."""
    hello(project, "you")
    project.write("src/broken_step.py", "config = {\n    'name': \n")

    server = project.dev()

    assert server.http.get("/hello").status_code == 200
    problem = server.wait_for("[PROBLEM]")
    assert "src/broken_step.py:" in problem
    assert "SyntaxError" in problem
    assert server.output.count("src/broken_step.py") == 1


def test_a_misspelt_trigger_is_reported_with_what_would_do(project: Project) -> None:
    """A configuration that cannot be used says which words there are."""
    project.write(
        "src/work_step.py",
        """
        config = {"name": "Work", "triggers": [{"type": "quue", "topic": "work"}]}
        async def handler(message): ...
        """,
    )

    server = project.dev()

    assert "src/work_step.py:1: " in server.wait_for("[PROBLEM]")
    assert "Did you mean 'queue'?" in server.out


def test_a_change_is_served_and_printed(project: Project) -> None:
    """After a reload the new code answers, and only what became different is printed."""
    hello(project, "you")
    project.write("src/work_step.py", WORK)
    server = project.dev()

    hello(project, "world")
    server.wait_for("ready again", count=1)

    assert server.http.get("/hello").json() == {"hello": "world"}
    after = server.out.split("changed: ", 1)[1]
    assert after.startswith("src/hello_step.py\n")
    assert "[UPDATED] Step (Http) src/hello_step.py" in after
    assert "work_step" not in after

    project.remove("src/work_step.py")
    project.write("steps/new_step.py", HELLO.format(word="new").replace("ello", "ey"))
    eventually(lambda: "[REMOVED] Step (Queue) src/work_step.py" in server.out, "the removal is printed")
    eventually(lambda: "[CREATED] Step (Http) steps/new_step.py" in server.out, "the new folder is seen")
    assert eventually(lambda: server.client().get("/hey").status_code == 200)


def test_a_change_in_a_module_that_steps_import_is_served(project: Project) -> None:
    """Modules beside the Steps are reloaded too, even twice within one second."""
    project.write("src/words.py", "WORD = 'one'\n")
    project.write("src/hello_step.py", HELLO.format(word="").replace('""', "words.WORD"))
    source = (project.root / "src/hello_step.py").read_text()
    project.write("src/hello_step.py", f"from . import words\n\n{source}")
    server = project.dev()
    assert server.http.get("/hello").json() == {"hello": "one"}

    for word in ("two", "six"):
        project.write("src/words.py", f"WORD = '{word}'\n")

        eventually(partial(answers, server, "/hello", {"hello": word}))


def answers(server: Server, path: str, body: object) -> bool:
    return bool(server.client().get(path).json() == body)


@contextmanager
def asking(server: Server) -> Iterator[list[int | str]]:
    """Ask without pause, each time over a connection of its own; what came of it is collected."""
    got: list[int | str] = []
    done = threading.Event()
    url = f"{server.url}/hello"

    def ask() -> None:
        while not done.is_set():
            try:
                got.append(httpx.get(url, timeout=30, trust_env=False).status_code)
            except httpx.HTTPError as error:
                got.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield got
    finally:
        done.set()
        for thread in threads:
            thread.join()


def longer(got: list[int | str], goal: int) -> bool:
    return len(got) > goal


def test_no_request_is_refused_while_it_reloads(project: Project) -> None:
    """The socket stays open: what is asked during a reload waits, and is answered."""
    hello(project, "0")
    server = project.dev()

    with asking(server) as got:
        for n in range(1, 4):
            hello(project, str(n))
            server.wait_for("ready again", count=n)
            goal = len(got) + 3
            eventually(partial(longer, got, goal), "requests go on")

    assert set(got) == {200}
    assert server.http.get("/hello").json() == {"hello": "3"}


def test_a_message_being_handled_survives_a_reload(project: Project) -> None:
    """A reload gives back what does not end in time; the new code takes it up."""
    project.write(
        "src/work_step.py",
        """
        from ledger import note, released

        config = {"name": "Work", "triggers": [{"type": "queue", "topic": "work"}]}


        async def handler(message, ctx):
            note("old began")
            await released("never")
        """,
    )
    server = project.dev(env={"EVERSTEP_DRAIN": "0.1s"})
    project.cli("enqueue", "work", "{}")
    project.wait_for_note("old began")

    project.write("src/work_step.py", WORK.replace('"worked", message["n"]', '"new ended"'))

    project.wait_for_note("new ended")
    assert server.exited is None


def test_a_child_that_cannot_start_is_reported_and_the_next_change_starts_another(project: Project) -> None:
    """A start that fails ends nothing: the parent says so and waits for the next change."""
    hello(project, "you")
    server = project.dev()

    project.write("src/fatal_step.py", "import os\n\nos._exit(7)\n")
    assert "exit code 7" in server.wait_for("did not start")
    assert server.exited is None

    project.remove("src/fatal_step.py")
    server.wait_for("ready again")
    assert server.http.get("/hello").status_code == 200


def test_a_child_that_dies_while_it_serves_is_started_again(project: Project) -> None:
    """A Step that ends its process takes the server with it for a moment only."""
    hello(project, "you")
    project.write(
        "src/fatal_step.py",
        """
        import os

        config = {"name": "Fatal", "triggers": [{"type": "http", "method": "GET", "path": "/fatal"}]}


        async def handler(request, ctx):
            os._exit(9)
        """,
    )
    server = project.dev()

    try:
        server.client().get("/fatal")
    except httpx.TransportError:
        pass

    assert "exit code 9" in server.wait_for("ended by itself")
    assert eventually(lambda: server.client().get("/hello").status_code == 200)


def test_ctrl_c_ends_both_processes(project: Project) -> None:
    """Ctrl-C, which reaches parent and child alike, ends both and is no failure."""
    hello(project, "you")
    server = project.dev()

    server.send(signal.SIGINT, group=True)

    assert server.wait(timeout=10) == 0
    assert eventually(lambda: server.gone, timeout=10)
    assert "Traceback" not in server.output


def test_the_child_dies_with_its_parent(project: Project) -> None:
    """A parent that is killed leaves nobody behind on the port."""
    hello(project, "you")
    server = project.dev()

    os.kill(server.pid, signal.SIGKILL)

    assert server.wait() == -signal.SIGKILL
    assert eventually(lambda: server.gone, "the child is gone too", timeout=10)
    again = project.dev(port=server.port)
    assert again.http.get("/hello").status_code == 200


def test_with_json_it_prints_one_event_a_line(project: Project) -> None:
    """Programs read the same as people: Steps, problems, URL, reloads."""
    hello(project, "you")
    project.write("src/broken_step.py", "(")

    server = project.dev("--json")
    hello(project, "all")
    server.wait_for('"serving"', count=2)
    server.stop()

    events = [json.loads(line) for line in server.out.splitlines()]
    assert [e["event"] for e in events] == ["steps", "serving", "changed", "steps", "serving", "stopping"]
    first, serving, changed, second, *_ = events
    assert [(s["change"], s["file"], s["on"]) for s in first["changes"]] == [
        ("created", "src/hello_step.py", ["GET /hello"])
    ]
    assert [(p["file"], p["line"]) for p in first["problems"]] == [("src/broken_step.py", 1)]
    assert serving["url"] == server.url
    assert changed["paths"] == ["src/hello_step.py"]
    assert [s["change"] for s in second["changes"]] == ["updated"]


def test_a_module_can_be_named(project: Project) -> None:
    """Steps need no folder: a file with decorated functions is enough, and is reloaded."""
    source = """
        from everstep import on, step


        @step(on.get("/hey"))
        async def hey(ctx, request):
            return {"hey": "you"}
    """
    project.write("main.py", source)
    server = project.dev("main.py")
    assert server.http.get("/hey").json() == {"hey": "you"}

    project.write("main.py", source.replace('"you"', '"all"'))

    assert eventually(partial(answers, server, "/hey", {"hey": "all"}))


def test_nothing_is_reloaded_for_files_that_are_no_code(project: Project) -> None:
    """The store beside the code changes all the time, and so do bytecode and notes."""
    hello(project, "0")
    server = project.dev()

    project.cli("state", "set", "a", "b", "1")
    project.write("notes.txt", "x")
    project.write("src/data.json", "{}")
    project.write("src/__pycache__/x.py", "x")
    hello(project, "1")
    server.wait_for("ready again")

    changed = [line for line in server.out.splitlines() if line.startswith("changed: ")]
    assert changed == ["changed: src/hello_step.py"]
