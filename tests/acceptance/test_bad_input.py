"""Whatever is wrong, the real program says what and where, with the proper status or exit code.

`start` refuses to serve a project with a fault in it (exit code 3); `dev` says
it and serves the rest.
"""

import re
from pathlib import Path

import pytest

from tests.acceptance.project import Project, Server

GOOD = """
    config = {"name": "Good", "triggers": [{"type": "http", "method": "GET", "path": "/good"}]}

    async def handler(request, ctx):
        return {"status": 200, "body": {"good": True}}
"""
TYPED = """
    from pydantic import BaseModel
    from everstep import Request, StepContext, on, step

    class Order(BaseModel):
        total: float
        items: list[str]

    @step(on.post("/orders", body=Order))
    async def submit(ctx: StepContext, request: Request[Order]) -> dict[str, float]:
        await ctx.state.set("orders", "last", request.body)
        return {"total": request.body.total}
"""


# ---- requests


@pytest.fixture
def typed(project: Project) -> Server:
    project.write("src/typed_step.py", TYPED)
    return project.serve(env={"EVERSTEP_BODY_LIMIT": "10KB"})


def post(server: Server, body: bytes, content_type: str | None = "application/json") -> tuple[int, str]:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = server.http.post("/orders", content=body, headers=headers)
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"total": 1, "items": [}', 400, ["body", "line 1"]),
        (b'{"total": 1', 400, ["body"]),
        (b"\xff\xfe\x00", 400, ["body"]),
        (b"", 400, ["body"]),
        (b"null", 400, ["body"]),
        (b'{"total": NaN, "items": []}', 400, ["body", "column 11"]),
        (b'{"total": 1e999, "items": []}', 400, ["body", "out of range"]),
        (b"[" * 5_000, 400, ["body"]),
        (b'{"total": "much", "items": "none"}', 400, ["body.total", "body.items"]),
        (b'{"items": [1, "a", {}]}', 400, ["body.total", "body.items[0]", "body.items[2]"]),
        (b'{"total": 1, "items": ["' + b"x" * 20_000 + b'"]}', 413, ["10000"]),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_every_fault(
    typed: Server, body: bytes, status: int, words: list[str]
) -> None:
    """The Step does not run, the answer names what is wrong, and the server goes on."""
    answered, text = post(typed, body)

    assert answered == status, text
    for word in words:
        assert word in text
    assert typed.project.cli("state", "list") == []
    assert post(typed, b'{"total": 2, "items": []}') == (200, '{"total":2.0}')


@pytest.mark.parametrize(
    "content_type", ["application/xml", "image/png", "application/octet-stream", "nonsense"]
)
def test_a_content_type_that_cannot_carry_the_body_is_415(typed: Server, content_type: str) -> None:
    """And the answer says which can."""
    status, text = post(typed, b'{"total": 2, "items": []}', content_type)

    assert status == 415
    assert "application/json" in text


def test_a_path_and_a_method_nobody_has(typed: Server) -> None:
    """404 and 405, the latter with the methods there are."""
    missing = typed.http.get("/nothing/here")
    wrong = typed.http.delete("/orders")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert wrong.headers["allow"] == "POST"


# ---- Steps


BROKEN = {
    "a syntax error": (
        {"src/bad_step.py": "config = {'name': 'Bad'\n\ndef handler(:\n"},
        ["src/bad_step.py", "syntax"],
    ),
    "an import that fails": (
        {"src/bad_step.py": "import no_such_module\n"},
        ["src/bad_step.py", "no_such_module"],
    ),
    "a missing handler": (
        {"src/bad_step.py": 'config = {"name": "Bad", "triggers": [{"type": "queue", "topic": "t"}]}\n'},
        ["src/bad_step.py", "handler"],
    ),
    "no config": (
        {"src/bad_step.py": "async def handler(input, ctx): ...\n"},
        ["src/bad_step.py", "config"],
    ),
    "a misspelt trigger": (
        {
            "src/bad_step.py": """
                config = {"name": "Bad", "triggers": [{"type": "quue", "topic": "t"}]}
                async def handler(input, ctx): ...
            """
        },
        ["src/bad_step.py", "trigger 1", "'quue'", "Did you mean 'queue'?"],
    ),
    "a duplicate name": (
        {
            f"src/{name}_step.py": f"""
                config = {{"name": "Twin", "triggers": [{{"type": "queue", "topic": "{name}"}}]}}
                async def handler(input, ctx): ...
            """
            for name in ("one", "two")
        },
        ["src/two_step.py", "src/one_step.py", "'Twin'"],
    ),
    "two Steps on one route": (
        {
            f"src/{name}_step.py": f"""
                config = {{
                    "name": "{name}",
                    "triggers": [{{"type": "http", "method": "GET", "path": "/same/:{name}"}}],
                }}
                async def handler(request, ctx): ...
            """
            for name in ("one", "two")
        },
        ["src/two_step.py", "src/one_step.py", "GET /same/:"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_dev_names_a_broken_step_and_serves_the_rest(project: Project, fault: str) -> None:
    """File, line, reason and what to do; the other Steps answer."""
    files, words = BROKEN[fault]
    project.write("src/good_step.py", GOOD)
    for path, text in files.items():
        project.write(path, text)

    server = project.dev()

    assert server.http.get("/good").json() == {"good": True}
    assert_says(server.output, words)
    assert "Traceback" not in server.output


@pytest.mark.parametrize("fault", BROKEN)
def test_start_refuses_a_broken_step(project: Project, fault: str) -> None:
    """Production serves all or nothing: exit code 3, with the same words."""
    files, words = BROKEN[fault]
    project.write("src/good_step.py", GOOD)
    for path, text in files.items():
        project.write(path, text)

    ran = project.run("start", "--port", "0")

    assert ran.code == 3, str(ran)
    assert_says(ran.out + ran.err, words)


def assert_says(output: str, words: list[str]) -> None:
    flat = re.sub(r"\s+", " ", output)
    for word in words:
        assert word.lower() in flat.lower(), f"{word!r} is not said in:\n{output}"


@pytest.mark.parametrize("command", ["dev", "start"])
def test_a_misspelt_config_key_is_warned_about_and_the_step_served(project: Project, command: str) -> None:
    """A key nobody knows may be one word away from one that matters."""
    project.write(
        "src/greet_step.py",
        """
        config = {
            "name": "Greet",
            "triggers": [{"type": "http", "method": "GET", "path": "/greet", "bodyShema": {}}],
            "enqeues": ["greeted"],
        }
        async def handler(request, ctx):
            return {"body": "hello"}
        """,
    )

    server = project.start(command).wait_ready()

    assert server.http.get("/greet").status_code == 200
    assert_says(server.output, ["'enqeues'", "enqueues", "'bodyShema'", "bodySchema"])


# ---- settings, ports and stores


@pytest.mark.parametrize("command", ["dev", "start"])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EVERSTEP_CONCURRENCY", "lots", ["EVERSTEP_CONCURRENCY", "'lots'", "whole number"]),
        ("EVERSTEP_DRAIN", "soon", ["EVERSTEP_DRAIN", "'soon'", "duration"]),
        ("EVERSTEP_STORE", "orders.db", ["EVERSTEP_STORE", "'orders.db'", "sqlite:///"]),
        ("EVERSTEP_STORE", "sqlight:///orders.db", ["sqlight", "Did you mean 'sqlite'?"]),
        ("EVERSTEP_LOG", "jsn", ["EVERSTEP_LOG", "'jsn'", "Did you mean 'json'?"]),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(
    project: Project, command: str, name: str, value: str, words: list[str]
) -> None:
    """Exit code 3; the variable, its value and what would do."""
    project.write("src/good_step.py", GOOD)

    ran = project.run(command, "--port", "0", env={name: value})

    assert ran.code == 3, str(ran)
    assert_says(ran.err, words)
    assert "Traceback" not in ran.err


def test_a_setting_nobody_knows_is_warned_about(project: Project) -> None:
    """It is mostly a misspelt one."""
    project.write("src/good_step.py", GOOD)

    server = project.serve(env={"EVERSTEP_CONCURENCY": "5"})

    assert_says(server.output, ["EVERSTEP_CONCURENCY", "EVERSTEP_CONCURRENCY"])


@pytest.mark.parametrize("command", ["dev", "start"])
def test_a_port_that_is_taken_is_refused(project: Project, command: str) -> None:
    """Exit code 1, and another port to take."""
    project.write("src/good_step.py", GOOD)
    port = project.serve().port

    ran = project.run(command, "--port", str(port))

    assert ran.code == 1, str(ran)
    assert_says(ran.err, [f"port {port}", "in use", f"--port {port + 1}"])


@pytest.mark.parametrize("command", ["dev", "start"])
@pytest.mark.parametrize(
    "content", [b"this is no database, it is a diary" * 100, b"SQLite format 3\0" + b"\xff" * 5_000]
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(
    project: Project, command: str, content: bytes
) -> None:
    """Exit code 4; not a byte of it is changed."""
    project.write("src/good_step.py", GOOD)
    project.database.write_bytes(content)

    ran = project.run(command, "--port", "0")

    assert ran.code == 4, str(ran)
    assert_says(ran.err, ["everstep.db"])
    assert "Traceback" not in ran.err
    assert project.database.read_bytes() == content


def test_a_folder_that_is_not_there_is_refused(project: Project) -> None:
    """A store's folder is not made by guessing."""
    project.write("src/good_step.py", GOOD)

    ran = project.run("start", "--port", "0", env={"EVERSTEP_STORE": f"sqlite:///{Path('/no/such')}/everstep.db"})

    assert ran.code == 4, str(ran)
    assert_says(ran.err, ["/no/such"])
