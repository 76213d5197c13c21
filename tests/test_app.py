"""One application: put together, started, served, mounted, stopped."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

import everstep
from everstep import App, ConfigError, EverstepError, Request, Settings, StepContext, Topic, on, step
from everstep.app import open_store, shown
from everstep.core.status import Status
from everstep.steps.project import Project
from tests.http.serving import app_of, client_of

pytestmark = pytest.mark.anyio

submitted = Topic("order.submitted", dict[str, int])


@step(on.get("/hello"))
async def hello(ctx: StepContext, req: Request[Any]) -> Any:
    return {"hello": "world"}


@step(on.queue(submitted))
async def keep(ctx: StepContext, order: dict[str, int]) -> None:
    await ctx.state.set("orders", str(order["id"]), order)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder for Step files, forgotten afterwards."""
    (tmp_path / "src").mkdir()
    yield tmp_path
    if Project.current is not None:
        Project.current.close()


def write(project: Path, name: str, text: str) -> None:
    (project / "src" / name).write_text(text)


# ---- stores


def test_a_store_is_named_by_its_url() -> None:
    """What is not one is refused with what would be."""
    assert open_store("sqlite:///a.db").url == "sqlite:///a.db"
    assert open_store(":memory:").url == ":memory:"
    with pytest.raises(ConfigError, match="Did you mean 'sqlite'"):
        open_store("sqllite:///a.db")
    with pytest.raises(ConfigError, match="mysql"):
        open_store("mysql://db/orders")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://app:p%40ss@db:5432/orders?x=1", "postgresql://app:***@db:5432/orders?x=1"),
        ("postgresql://app@db/orders", "postgresql://app@db/orders"),
        ("postgresql:///orders", "postgresql:///orders"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
    ],
)
def test_a_password_is_not_shown(url: str, text: str) -> None:
    """Neither in logs nor in errors."""
    assert shown(url) == text


# ---- life


async def test_an_app_is_its_steps_and_verbs() -> None:
    """A message is durable when enqueue returns, and its Step gets it."""
    app = app_of(keep)
    async with app:
        mid = await app.enqueue(submitted, {"id": 7})
        await app.enqueue({"topic": "order.submitted", "data": {"id": 8}})
        await app.engine.result("r" + mid[1:], timeout=5)

        assert await app.state.get("orders", "7") == {"id": 7}


async def test_what_it_sends_begins_a_trace() -> None:
    """In the form of a traceparent, as a request's trace is, and Steps get it with the message."""
    async with app_of(keep) as app:
        await app.enqueue(submitted, {"id": 1})
        [run] = await app.engine.store.runs()

    assert re.fullmatch("[0-9a-f]{32}", run.trace)


async def test_what_it_does_before_it_is_started_and_after() -> None:
    """Each says what to do; it may be started again."""
    app = app_of(hello)
    async with client_of(app) as client:
        before = await client.get("/hello")
        with pytest.raises(EverstepError, match="async with app"):
            await app.enqueue("x", 1)
        async with app:
            with pytest.raises(EverstepError, match="started already"):
                await app.start()
            during = await client.get("/hello")
        after = await client.get("/hello")
        async with app:
            again = await client.get("/hello")

    assert (before.status_code, before.headers["retry-after"]) == (503, "1")
    assert "FastAPI(lifespan=app.lifespan)" in before.json()["error"]
    assert (during.status_code, after.status_code, again.status_code) == (200, 503, 200)


async def test_a_process_without_work_only_answers(tmp_path: Path) -> None:
    """EVERSTEP_WORK=off: messages wait for a process that works."""
    settings = Settings(store=f"sqlite:///{tmp_path}/a.db", work=False, drain=1.0)
    module = sys.modules[__name__]
    async with App(settings.store, include=[module]):
        pass  # its subscriptions stay
    async with App(include=[module], settings=settings) as web, client_of(web) as client:
        answer = await client.get("/hello")
        await web.enqueue(submitted, {"id": 7})
        await asyncio.sleep(0.1)
        waiting = (await web.engine.store.runs())[0]
    async with App(settings.store, include=[module]) as worker:
        run = await worker.engine.result(waiting.rid, timeout=5)

    assert answer.status_code == 200
    assert waiting.status == Status.READY
    assert run.status == Status.DONE


async def test_a_stop_waits_for_requests_at_work() -> None:
    """Within the drain time; new ones are told to come again."""
    entered, go = asyncio.Event(), asyncio.Event()

    @step(on.get("/slow"))
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        entered.set()
        await go.wait()
        await ctx.state.set("g", "k", 1)
        return {"done": True}

    app = app_of(slow, drain=5.0)
    async with client_of(app) as client:
        await app.start()
        request = asyncio.create_task(client.get("/slow"))
        await entered.wait()
        stopping = asyncio.create_task(app.stop())
        await asyncio.sleep(0.05)
        late = await client.get("/slow")
        go.set()
        answer = await request
        await stopping

    assert answer.json() == {"done": True}
    assert late.status_code == 503


# ---- Steps of a project


async def test_a_folder_is_a_project(project: Path) -> None:
    """Its Step files are found by their names."""
    write(
        project,
        "hello_step.py",
        'config = {"name": "Hello", "triggers": [{"type": "http", "method": "GET", "path": "/hi"}]}\n'
        'async def handler(req, ctx):\n    return {"status": 200, "body": {"hi": True}}\n',
    )
    app = App(":memory:", root=project, settings=Settings())
    async with app, client_of(app) as client:
        answer = await client.get("/hi")

    assert answer.json() == {"hi": True}


BROKEN = "config = {\n"


async def test_a_broken_step_stops_production(project: Path) -> None:
    """All that are broken are named; nothing was opened."""
    write(project, "a_step.py", BROKEN)
    write(project, "b_step.py", "x = 1\n")
    app = App(":memory:", root=project, settings=Settings())

    with pytest.raises(ConfigError) as refused:
        await app.start()

    assert "2 Steps cannot be used" in str(refused.value)
    assert "src/a_step.py" in str(refused.value)
    assert "src/b_step.py" in str(refused.value)


async def test_a_broken_step_is_logged_in_dev(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And all the others are served."""
    write(project, "a_step.py", BROKEN)
    app = App(":memory:", root=project, settings=Settings(dev=True))
    async with app, client_of(app) as client:
        health = await client.get("/health")

    assert health.status_code == 200
    assert "src/a_step.py" in caplog.text


def test_nothing_is_imported_before_it_is_needed(project: Path) -> None:
    """Making an App has no effect: a program may name its modules before they are complete."""
    write(project, "a_step.py", "raise RuntimeError('imported')\n")

    App(":memory:", root=project, include=["no.such.module"], settings=Settings())


# ---- served and mounted


async def test_it_speaks_the_lifespan_protocol() -> None:
    """As uvicorn does."""
    app = app_of(hello)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, heard.get, said.put))
    await heard.put({"type": "lifespan.startup"})
    started = await said.get()
    ready = app.engine.ready
    await heard.put({"type": "lifespan.shutdown"})
    stopped = await said.get()
    await task

    assert started == {"type": "lifespan.startup.complete"}
    assert ready
    assert stopped == {"type": "lifespan.shutdown.complete"}


async def test_a_failed_start_tells_the_server_why(tmp_path: Path) -> None:
    """Its message ends in the server's log."""
    (tmp_path / "a.db").write_text("this is no database, but it is long enough to be looked at as one")
    app = App(f"sqlite:///{tmp_path}/a.db", include=[sys.modules[__name__]], settings=Settings())
    heard: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    await heard.put({"type": "lifespan.startup"})
    await app({"type": "lifespan"}, heard.get, said.put)
    failed = await said.get()

    assert failed["type"] == "lifespan.startup.failed"
    assert "a.db" in failed["message"]


async def test_it_is_mounted_in_fastapi() -> None:
    """FastAPI(lifespan=app.lifespan) starts it; FastAPI's routes and ours answer side by side."""
    app = app_of(hello, keep)
    api = FastAPI(lifespan=app.lifespan)

    @api.post("/orders/{number}")
    async def submit(number: int) -> dict[str, str]:
        return {"id": await app.enqueue(submitted, {"id": number})}

    api.mount("/flows", app)
    async with api.router.lifespan_context(api), client_of(api) as client:
        ours = await client.get("/flows/hello")
        theirs = await client.post("/orders/7")
        unknown = await client.get("/flows/nothing")
        await app.engine.result("r" + theirs.json()["id"][1:], timeout=5)

        assert await app.state.get("orders", "7") == {"id": 7}
    assert ours.json() == {"hello": "world"}
    assert (unknown.status_code, unknown.json()["error"]) == (404, "not found")


async def test_mounted_and_not_started_it_says_the_line_to_write() -> None:
    """A mounted application's lifespan is not run by its host."""
    api = FastAPI()
    api.mount("/flows", app_of(hello))
    async with client_of(api) as client:
        answer = await client.get("/flows/hello")

    assert answer.status_code == 503
    assert "FastAPI(lifespan=app.lifespan)" in answer.json()["error"]


async def test_it_stands_beside_django() -> None:
    """In Django's asgi.py: two mounts, and the lifespan."""
    from django.conf import settings  # type: ignore[import-untyped]  # no stubs
    from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]  # no stubs
    from django.http import HttpRequest, JsonResponse  # type: ignore[import-untyped]  # no stubs
    from django.urls import path  # type: ignore[import-untyped]  # no stubs

    def view(request: HttpRequest, number: int) -> JsonResponse:
        return JsonResponse({"django": number, "path": request.path})

    settings.configure(
        SECRET_KEY="x",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=(path("orders/<int:number>", view),),
        LOGGING_CONFIG=None,
    )
    app = app_of(hello)
    application = Starlette(
        routes=[Mount("/flows", app), Mount("/", get_asgi_application())], lifespan=app.lifespan
    )
    async with application.router.lifespan_context(application), client_of(application) as client:
        ours = await client.get("/flows/hello")
        theirs = await client.get("/orders/7")

    assert ours.json() == {"hello": "world"}
    assert theirs.json() == {"django": 7, "path": "/orders/7"}


async def test_a_websocket_is_refused_politely() -> None:
    """There is none yet; the server must not log a traceback for it."""
    app = app_of(hello)
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message["type"])

    async with app:
        await app({"type": "websocket", "path": "/"}, receive, send)

    assert said == ["websocket.close"]


# ---- the package


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_loads_next_to_nothing() -> None:
    """No server, no validator, no store: they come when they are used."""
    heavy = "('starlette', 'uvicorn', 'typer', 'pydantic', 'jsonschema', 'sqlite3', 'asyncpg')"
    loaded = python(f"import sys, everstep; print([m for m in sys.modules if m.split('.')[0] in {heavy}])")

    assert loaded == "[]"


def test_every_public_name_is_there() -> None:
    """And nothing else answers."""
    for name in everstep.__all__:
        assert getattr(everstep, name) is not None
    assert set(everstep.__all__) <= set(dir(everstep))
    with pytest.raises(AttributeError, match="steps_"):
        everstep.steps_  # noqa: B018  # asked for on purpose


def test_the_helper_http_is_there_before_and_after_the_room_of_that_name() -> None:
    """`from everstep import http` makes a trigger whichever was imported first."""
    use = "from everstep import http; print(http('GET', '/x')['path'])"

    assert python(use) == "/x"
    assert python(f"import everstep.http.site\n{use}") == "/x"
    assert python(f"{use}\nimport everstep.http.site\n{use}") == "/x\n/x"
