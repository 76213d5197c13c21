"""All that answers over HTTP: our own pages beside the Steps, CORS, mounts."""

from typing import Any

import pytest

from everstep.errors import ConfigError
from everstep.http.cors import Cors
from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request
from tests.http.serving import app_of, client_of, serving

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


@step(on.get("/hello"))
async def hello(ctx: StepContext, req: Request[Any]) -> Any:
    return {"path": req.path}


@step(on.post("/hello"))
async def say(ctx: StepContext, req: Request[Any]) -> Any:
    return {}


@step(on.get("/docs"))
async def docs(ctx: StepContext, req: Request[Any]) -> Any:
    return "my own"


async def test_health_readiness_and_documents() -> None:
    """Without a single Step."""
    async with serving() as client:
        answers = {path: await client.get(path) for path in ("/health", "/ready", "/openapi.json", "/docs")}

    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert answers["/ready"].json() == {"ready": True}
    assert answers["/openapi.json"].json()["openapi"] == "3.1.0"
    assert "default-src 'none'" in answers["/docs"].headers["content-security-policy"]


async def test_not_ready_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 and the reason, while the process is healthy."""
    app = app_of(hello)
    async with app, client_of(app) as client:
        monkeypatch.setattr(type(app.engine), "not_ready", property(lambda _: "draining"))
        ready = await client.get("/ready")
        health = await client.get("/health")

    assert (ready.status_code, ready.json()) == (503, {"ready": False, "reason": "draining"})
    assert health.status_code == 200


async def test_a_step_may_take_a_page_of_ours() -> None:
    """The project's own documentation is where its author puts it."""
    async with serving(docs) as client:
        assert (await client.get("/docs")).text == "my own"


async def test_without_cors_no_page_of_another_site_is_let_in() -> None:
    """Off by default: a preflight gets what is allowed, and no permission."""
    async with serving(hello) as client:
        asked = await client.options(
            "/hello", headers={"origin": SHOP, "access-control-request-method": "GET"}
        )
        got = await client.get("/hello", headers={"origin": SHOP})

    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in got.headers


async def test_cors_lets_named_origins_in() -> None:
    """They may ask first, read the answer and our headers; others may not."""
    async with serving(hello, say, cors=(SHOP,)) as client:
        asked = await client.options(
            "/hello",
            headers={
                "origin": SHOP,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type, x-a",
            },
        )
        got = await client.get("/hello", headers={"origin": SHOP})
        other = await client.get("/hello", headers={"origin": "https://evil.example"})

    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == SHOP
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "content-type, x-a"
    assert got.headers["access-control-allow-origin"] == SHOP
    assert "x-trace-id" in got.headers["access-control-expose-headers"]
    assert got.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in other.headers


async def test_any_origin_never_gets_cookies() -> None:
    """`*` opens what needs no credentials."""
    async with serving(hello, cors=("*",)) as client:
        got = await client.get("/hello", headers={"origin": SHOP})

    assert got.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in got.headers


async def test_cors_never_opens_the_api() -> None:
    """What operates the system is not for pages of others."""
    async with serving(hello, cors=(SHOP,)) as client:
        asked = await client.options(
            "/api/v1/enqueue", headers={"origin": SHOP, "access-control-request-method": "POST"}
        )
        sent = await client.post("/api/v1/enqueue", json={"topic": "x"}, headers={"origin": SHOP})

    assert "access-control-allow-origin" not in asked.headers
    assert sent.status_code == 403


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/path", ""])
def test_an_origin_that_is_none_is_refused_at_start(origin: str) -> None:
    """With what one looks like."""
    with pytest.raises(ConfigError, match=r"https://shop\.example"):
        Cors([origin])


@pytest.mark.parametrize(
    ("root", "path", "raw", "status"),
    [
        ("", "/hello", b"/hello", 200),
        ("/flows", "/flows/hello", b"/flows/hello", 200),
        ("/flows", "/flows/hello/", b"/flows/hello/", 200),
        ("/a b", "/a b/hello", b"/a%20b/hello", 200),
        ("/flows", "/flows", b"/flows", 404),
        ("/flows", "/other", b"/other", 404),
    ],
)
async def test_below_a_mount_the_rest_of_the_path_counts(
    root: str, path: str, raw: bytes, status: int
) -> None:
    """However what is above was written."""
    app = app_of(hello)
    told: list[int] = []

    async def send(message: Any) -> None:
        told.append(message.get("status", 0))

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": raw,
        "root_path": root,
        "query_string": b"",
        "headers": [],
    }
    async with app:
        await app(scope, receive, send)

    assert told[0] == status
