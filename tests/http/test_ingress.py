"""Requests to Steps: what they bring, what is refused, and what is answered."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse
from starlette.types import Message

from everstep.errors import StoreUnavailable
from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request, Response
from tests.http.serving import app_of, serving

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    sku: str
    price: float = Field(gt=0)


class Order(BaseModel):
    id: str
    items: list[Item]


class Page(BaseModel):
    page: int = Field(1, ge=1)
    tags: list[str] = []


@step(on.post("/orders", body=Order))
async def create(ctx: StepContext, req: Request[Order]) -> Response:
    return Response({"id": req.body.id, "count": len(req.body.items)}, 201, {"x-order": req.body.id})


@step(on.get("/orders", query=Page))
async def listed(ctx: StepContext, req: Request[Any]) -> Any:
    return req.parsed_query


@step(on.post("/echo/:name"))
async def echo(ctx: StepContext, req: Request[Any]) -> Any:
    return {
        "body": repr(req.body) if isinstance(req.body, bytes) else req.body,
        "raw": len(req.raw_body),
        "name": req.path_params["name"],
        "query": req.queryParams,
        "header": req.headers.get("x-thing"),
        "cookies": req.cookies,
        "trace": ctx.trace_id,
    }


@step(on.get("/boom"))
async def boom(ctx: StepContext, req: Request[Any]) -> Any:
    raise RuntimeError("the password is hunter2")


# ---- what a request brings


async def test_a_request_brings_all_its_parts() -> None:
    """Path, repeated query keys, headers in any case, cookies, body and raw body."""
    async with serving(echo) as client:
        answer = await client.post(
            "/echo/a%2Fb?x=1&x=2&y=",
            content=b'{"k": 1}',
            headers={"content-type": "application/json", "X-Thing": "t", "cookie": "sid=7; a=b"},
        )

    told = answer.json()
    assert told["name"] == "a/b"
    assert told["query"] == {"x": ["1", "2"], "y": ""}
    assert told["header"] == "t"
    assert told["cookies"] == {"sid": "7", "a": "b"}
    assert told["body"] == {"k": 1}
    assert told["raw"] == len(b'{"k": 1}')


async def test_a_trace_goes_on_and_comes_back() -> None:
    """The caller's W3C trace id, or a new one, and always in x-trace-id."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with serving(echo) as client:
        theirs = await client.post("/echo/x", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        ours = await client.post("/echo/x", headers={"traceparent": "00-nonsense-01"})

    assert theirs.headers["x-trace-id"] == trace == theirs.json()["trace"]
    assert len(ours.headers["x-trace-id"]) == 32
    assert ours.headers["x-trace-id"] == ours.json()["trace"]


async def test_a_file_is_uploaded() -> None:
    """And closed once it is answered."""
    kept: list[UploadFile] = []

    @step(on.post("/files"))
    async def upload(ctx: StepContext, req: Request[Any]) -> Any:
        file = req.body["doc"]
        kept.append(file)
        return {"name": file.filename, "text": (await file.read()).decode(), "note": req.body["note"]}

    async with serving(upload) as client:
        answer = await client.post("/files", files={"doc": ("a.txt", b"hello")}, data={"note": "n"})

    assert answer.json() == {"name": "a.txt", "text": "hello", "note": "n"}
    assert kept[0].file.closed


# ---- what is refused


async def test_every_fault_of_an_input_is_named_by_its_path() -> None:
    """Not only the first one."""
    async with serving(create) as client:
        answer = await client.post("/orders", json={"items": [{"sku": "a", "price": 1}, {"price": "x"}]})

    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid input"
    assert {fault["path"] for fault in answer.json()["faults"]} == {
        "body.id",
        "body.items[1].sku",
        "body.items[1].price",
    }


async def test_a_query_is_validated_too() -> None:
    """Numbers and lists are read from text; what does not fit is named."""
    async with serving(listed) as client:
        good = await client.get("/orders?page=2&tags=a")
        bad = await client.get("/orders?page=0")

    assert good.json() == {"page": 2, "tags": ["a"]}
    assert bad.status_code == 400
    assert bad.json()["faults"][0]["path"] == "query.page"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 900, "application/json", 400),
        (b"", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"\\u0000"', "application/json", 400),
        (b"id=1", "application/x-www-form-urlencoded", 400),
        (b"<x/>", "application/xml", 415),
        (b"x" * 2_000, "application/json", 413),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
async def test_bad_input_is_the_clients_error(content: bytes, content_type: str, status: int) -> None:
    """Each with a JSON object that says what is wrong; the Step is never called."""
    async with serving(create, body_limit=1_000) as client:
        answer = await client.post("/orders", content=content, headers={"content-type": content_type})

    assert answer.status_code == status
    assert answer.json()["error"]


async def test_a_schema_that_holds_itself_meets_a_deep_body() -> None:
    """As deep as the parser lets in: an answer, not a crash."""
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}}, "additionalProperties": False}

    @step(on.post("/trees", body=tree))
    async def plant(ctx: StepContext, req: Request[Any]) -> Any:
        return {"ok": True}

    deep = b'{"child":' * 190 + b"{}" + b"}" * 190
    async with serving(plant) as client:
        answer = await client.post("/trees", content=deep, headers={"content-type": "application/json"})

    assert answer.status_code in (200, 400)


async def test_an_unknown_path_and_a_wrong_method() -> None:
    """404, and 405 with what is allowed, both as JSON."""
    async with serving(create, listed) as client:
        unknown = await client.get("/nothing")
        wrong = await client.delete("/orders")
        asked = await client.options("/orders")

    assert (unknown.status_code, unknown.json()["error"]) == (404, "not found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (asked.status_code, asked.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


async def test_a_nul_in_a_path_is_refused() -> None:
    """No store could keep it as a key."""
    async with serving(echo) as client:
        assert (await client.post("/echo/a%00b")).status_code == 400
        assert (await client.get("/api/v1/state/a%00b")).status_code == 400


# ---- what goes wrong in a Step


async def test_an_error_is_hidden_and_its_trace_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the trace id; the log has the rest."""
    async with serving(boom) as client:
        answer = await client.get("/boom")

    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error", "trace_id": answer.headers["x-trace-id"]}
    assert "hunter2" in caplog.text


async def test_in_dev_an_error_is_shown() -> None:
    """With its text and traceback."""
    async with serving(boom, dev=True) as client:
        told = (await client.get("/boom")).json()

    assert (told["type"], told["message"]) == ("RuntimeError", "the password is hunter2")
    assert "test_ingress.py" in told["traceback"].splitlines()[1], "it begins in the Step"


async def test_a_response_that_breaks_its_schema() -> None:
    """A logged 500 in dev; passed on, and logged, otherwise."""

    @step(on.get("/orders/:id", responses={200: Order}))
    async def show(ctx: StepContext, req: Request[Any]) -> Any:
        return {"id": 7}

    async with serving(show, dev=True) as client:
        in_dev = await client.get("/orders/1")
    async with serving(show) as client:
        otherwise = await client.get("/orders/1")

    assert in_dev.status_code == 500
    assert (otherwise.status_code, otherwise.json()) == (200, {"id": 7})


@pytest.mark.parametrize(
    "response",
    [
        Response(object()),
        Response({"a": object()}),
        Response("x", 99),
        Response("x", 700),
        Response("x", True),
        Response("x", 200, {"x-a": "b\r\nset-cookie: evil=1"}),
        Response("x", 200, {"bad name": "b"}),
        Response("x", 200, {"x-a": "\u2713"}),
        Response("\ud800"),
        Response(Path("/no/such/file")),
    ],
)
async def test_a_response_that_cannot_be_sent_is_a_500(response: Response) -> None:
    """Nothing of it is sent, least of all a header that was smuggled in."""

    @step(on.get("/x"))
    async def odd(ctx: StepContext, req: Request[Any]) -> Any:
        return response

    async with serving(odd) as client:
        answer = await client.get("/x")

    assert answer.status_code == 500
    assert answer.json()["error"] == "internal error"
    assert "set-cookie" not in answer.headers


async def test_a_store_that_is_not_there_is_503() -> None:
    """The client may come again; the fault is not the Step's."""

    @step(on.get("/x"))
    async def lost(ctx: StepContext, req: Request[Any]) -> Any:
        raise StoreUnavailable("disk full")

    async with serving(lost) as client:
        answer = await client.get("/x")

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "disk full" not in answer.text


# ---- limits


async def test_too_many_requests_at_once_are_turned_away() -> None:
    """With Retry-After; those at work are not disturbed."""
    go, entered = asyncio.Event(), asyncio.Event()

    @step(on.get("/slow"))
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        entered.set()
        await go.wait()
        return {"done": True}

    async with serving(slow, requests=1) as client:
        first = asyncio.create_task(client.get("/slow"))
        await entered.wait()
        second = await client.get("/slow")
        go.set()
        third = await first

    assert (second.status_code, second.headers["retry-after"]) == (503, "1")
    assert third.json() == {"done": True}


async def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    """504, and it knows: its finally runs."""
    ended: list[str] = []

    @step(on.get("/slow"), timeout=0.05)
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async with serving(slow) as client:
        answer = await client.get("/slow")

    assert answer.status_code == 504
    assert ended == ["cancelled"]


async def test_a_thread_that_takes_too_long_has_no_effect_any_more() -> None:
    """It cannot be stopped, but what it then asks of ctx is refused."""
    refused, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @step(on.get("/slow"), timeout=0.05)
    def slow(ctx: Any, req: Any) -> Any:
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
        try:
            ctx.state.set("late", "k", 1)
        finally:
            loop.call_soon_threadsafe(refused.set)

    app = app_of(slow)
    async with (
        app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        answer = await client.get("/slow")
        go.set()
        await refused.wait()
        kept = await app.state.get("late", "k")

    assert answer.status_code == 504
    assert kept is None


async def test_a_client_that_hangs_up_cancels_its_handler() -> None:
    """Nobody would read the answer."""
    ended = asyncio.Event()

    @step(on.get("/slow"))
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = app_of(slow)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/slow",
        "raw_path": b"/slow",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
    }
    async with app:
        async with asyncio.timeout(5):
            await app(scope, receive, send)

    assert ended.is_set()
    assert sent == []


# ---- what is answered


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ({"a": 1}, "application/json", '{"a":1}'),
        ([1, None], "application/json", "[1,null]"),
        (Item(sku="a", price=2), "application/json", '{"sku":"a","price":2.0}'),
        ({"item": Item(sku="a", price=2)}, "application/json", '{"item":{"sku":"a","price":2.0}}'),
        ("caf\u00e9", "text/plain; charset=utf-8", "caf\u00e9"),
        (b"\x00", "application/octet-stream", "\x00"),
        (7, "application/json", "7"),
        (float("nan"), "application/json", "null"),
    ],
)
async def test_a_body_says_its_own_content_type(body: Any, content_type: str, text: str) -> None:
    """Data and models are JSON, text is text, bytes are bytes."""

    @step(on.get("/x"))
    async def answered(ctx: StepContext, req: Request[Any]) -> Any:
        return body

    async with serving(answered) as client:
        answer = await client.get("/x")

    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, content_type, text)


async def test_nothing_is_204() -> None:
    """A decorated Step that returns nothing has no body to send."""

    @step(on.delete("/x"))
    async def gone(ctx: StepContext, req: Request[Any]) -> None: ...

    async with serving(gone) as client:
        answer = await client.delete("/x")

    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


async def test_headers_may_be_repeated_and_override_ours() -> None:
    """A list is a header each, as cookies need; a content type of one's own stays."""

    @step(on.get("/x"))
    async def answered(ctx: StepContext, req: Request[Any]) -> Any:
        headers: Any = {"set-cookie": ["a=1", "b=2"], "Content-Type": "text/csv", "content-length": "999"}
        return Response("a,b", 200, headers)

    async with serving(answered) as client:
        answer = await client.get("/x")

    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (answer.headers["content-type"], answer.headers["content-length"]) == ("text/csv", "3")


async def test_head_has_the_headers_of_get() -> None:
    """And no body."""
    async with serving(listed) as client:
        answer = await client.head("/orders")

    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 0
    assert answer.content == b""


async def test_a_stream_is_passed_on_as_it_comes() -> None:
    """Async, plain, a response of Starlette's, and events, each with its effects while it lasts."""

    @step(on.get("/lines"))
    async def lines(ctx: StepContext, req: Request[Any]) -> Any:
        async def parts() -> AsyncIterator[Any]:
            yield {"n": 1}
            await ctx.state.set("streamed", "k", 1)
            yield "two\n"

        return parts()

    @step(on.get("/events"))
    async def events(ctx: StepContext, req: Request[Any]) -> Any:
        def parts() -> Iterator[Any]:
            yield ": hello\n\n"
            yield {"n": 1}

        return Response(parts(), headers={"content-type": "text/event-stream"})

    @step(on.get("/theirs"))
    async def theirs(ctx: StepContext, req: Request[Any]) -> Any:
        async def parts() -> AsyncIterator[str]:
            yield "x"

        return StreamingResponse(parts(), 201, media_type="text/csv")

    async with serving(lines, events, theirs) as client:
        one, two, three = [await client.get(path) for path in ("/lines", "/events", "/theirs")]

    assert one.text == '{"n":1}\ntwo\n'
    assert (two.text, two.headers["content-type"]) == (': hello\n\ndata: {"n":1}\n\n', "text/event-stream")
    assert (three.status_code, three.text) == (201, "x")
    assert all("x-trace-id" in answer.headers for answer in (one, two, three))


async def test_a_file_is_sent(tmp_path: Path) -> None:
    """With its type, and parts of it where they are asked for."""
    file = tmp_path / "a.txt"
    file.write_text("hello")

    @step(on.get("/file"))
    async def download(ctx: StepContext, req: Request[Any]) -> Any:
        return file

    async with serving(download) as client:
        whole = await client.get("/file")
        part = await client.get("/file", headers={"range": "bytes=1-2"})

    assert (whole.text, whole.headers["content-type"]) == ("hello", "text/plain; charset=utf-8")
    assert (part.status_code, part.text) == (206, "el")
