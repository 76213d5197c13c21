"""A request with an Idempotency-Key is served once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from everstep.errors import TerminalError
from everstep.http import idempotency
from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request, Response
from everstep.steps.step import Step
from tests.http.serving import app_of, client_of, serving

pytestmark = pytest.mark.anyio

KEY = {"idempotency-key": "k-1"}


class Order(BaseModel):
    id: str


def counting() -> tuple[Step[Any, Any], list[str]]:
    calls: list[str] = []

    @step(on.post("/orders", body=Order))
    async def create(ctx: StepContext, req: Request[Order]) -> Response:
        calls.append(req.body.id)
        return Response(
            {"number": len(calls), "order": req.body}, 201, {"location": f"/orders/{req.body.id}"}
        )

    return create, calls


async def test_the_same_request_twice_is_served_once() -> None:
    """The second gets the very response of the first, and is told so."""
    create, calls = counting()
    async with serving(create) as client:
        first = await client.post("/orders", json={"id": "a"}, headers=KEY)
        second = await client.post("/orders", json={"id": "a"}, headers=KEY)

    assert calls == ["a"]
    assert (first.status_code, first.json()) == (201, {"number": 1, "order": {"id": "a"}})
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["location"] == "/orders/a"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


async def test_two_at_once_are_served_once() -> None:
    """Whoever comes second waits for the first."""
    create, calls = counting()
    async with serving(create) as client:
        answers = await asyncio.gather(
            *(client.post("/orders", json={"id": "a"}, headers=KEY) for _ in range(5))
        )

    assert calls == ["a"]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 4


async def test_another_request_under_the_key_is_refused() -> None:
    """Another body, path parameter or query: 422, and it is not served."""
    create, calls = counting()
    async with serving(create) as client:
        await client.post("/orders", json={"id": "a"}, headers=KEY)
        body = await client.post("/orders", json={"id": "b"}, headers=KEY)
        query = await client.post("/orders?x=1", json={"id": "a"}, headers=KEY)

    assert (body.status_code, query.status_code) == (422, 422)
    assert calls == ["a"]


async def test_keys_of_others_and_of_other_routes_are_other_keys() -> None:
    """Unique on route, key and principal."""
    create, calls = counting()

    @step(on.put("/orders"))
    async def replace(ctx: StepContext, req: Request[Any]) -> Any:
        calls.append("put")
        return {}

    async with serving(create, replace) as client:
        await client.post("/orders", json={"id": "a"}, headers=KEY)
        await client.post("/orders", json={"id": "a"}, headers={**KEY, "authorization": "Bearer other"})
        await client.put("/orders", json={"id": "a"}, headers=KEY)

    assert calls == ["a", "a", "put"]


async def test_while_it_is_at_work_the_client_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """409 and Retry-After; afterwards the response is there."""
    monkeypatch.setattr(idempotency, "PATIENCE", 0.05)
    go = asyncio.Event()

    @step(on.post("/slow"))
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        await go.wait()
        return {"done": True}

    app = app_of(slow)
    async with app, client_of(app) as client:
        first = await client.post("/slow", headers=KEY)
        go.set()
        await app.engine.result(first.json()["run"], timeout=5)
        second = await client.post("/slow", headers=KEY)

    assert first.status_code == 409
    assert int(first.headers["retry-after"]) > 0
    assert (second.status_code, second.json()) == (200, {"done": True})


async def test_a_request_does_not_wait_behind_a_backlog_of_messages() -> None:
    """Somebody waits for its answer: it is next when there is room, and not the last of a thousand."""
    handled: list[int] = []

    @step(on.queue("slow"))
    async def slow(ctx: StepContext, number: int) -> None:
        await asyncio.sleep(0.01)
        handled.append(number)

    @step(on.post("/now"))
    async def now(ctx: StepContext, req: Request[Any]) -> int:
        return len(handled)

    app = app_of(slow, now, concurrency=2)
    async with app, client_of(app) as client:
        for number in range(100):
            await app.enqueue("slow", number)
        before = len(handled)
        answer = await client.post("/now", headers=KEY)

    assert answer.status_code == 200
    assert answer.json() - before < 20


async def test_another_process_finishes_what_this_one_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes again, to whoever serves now, and gets the response."""
    monkeypatch.setattr(idempotency, "PATIENCE", 0.05)
    calls: list[str] = []

    def place(process: str) -> Step[Any, Any]:
        @step(on.post("/orders"), name="Place")
        async def place(ctx: StepContext, req: Request[Any]) -> Any:
            calls.append(process)
            if process == "first":
                await asyncio.sleep(60)
            return {"by": process, "order": req.body}

        return place

    store = f"sqlite:///{tmp_path}/a.db"
    first, second = (app_of(place(p), store=store, drain=0.0) for p in ("first", "second"))
    async with first, client_of(first) as client:
        began = await client.post("/orders", json={"id": "a"}, headers=KEY)
    async with second, client_of(second) as client:
        await second.engine.result(began.json()["run"], timeout=5)
        again = await client.post("/orders", json={"id": "a"}, headers=KEY)

    assert began.status_code == 409
    assert again.json() == {"by": "second", "order": {"id": "a"}}
    assert again.headers["idempotency-replayed"] == "true"
    assert calls == ["first", "second"]


async def test_a_failure_is_tried_again_by_the_next_request_with_its_key() -> None:
    """500 at once, not after retries; coming again tries again, and repeats no effect."""
    calls: list[int] = []

    @step(on.post("/shaky"))
    async def shaky(ctx: StepContext, req: Request[Any]) -> Any:
        calls.append(1)
        await ctx.state.update("count", "calls", [{"type": "increment", "path": "n", "by": 1}])
        if len(calls) == 1:
            raise RuntimeError("once")
        return await ctx.state.get("count", "calls")

    async with serving(shaky) as client:
        first = await client.post("/shaky", headers=KEY)
        second = await client.post("/shaky", headers=KEY)
        third = await client.post("/shaky", headers=KEY)

    assert first.status_code == 500
    assert (second.status_code, second.json()) == (200, {"n": 1})
    assert (third.json(), third.headers["idempotency-replayed"], len(calls)) == ({"n": 1}, "true", 2)


async def test_a_failure_for_good_is_the_answer_each_time() -> None:
    """500 without its text, and the Step is not called again."""
    calls: list[int] = []

    @step(on.post("/broken"))
    async def broken(ctx: StepContext, req: Request[Any]) -> Any:
        calls.append(1)
        raise TerminalError("the password is hunter2")

    async with serving(broken) as client:
        first = await client.post("/broken", headers=KEY)
        second = await client.post("/broken", headers=KEY)

    assert (first.status_code, second.status_code, len(calls)) == (500, 500, 1)
    assert "hunter2" not in first.text + second.text
    assert second.headers["idempotency-replayed"] == "true"


async def test_in_dev_a_failure_says_what_it_was() -> None:
    """As without a key: type, text and traceback, and the run to look at."""

    @step(on.post("/broken"))
    async def broken(ctx: StepContext, req: Request[Any]) -> Any:
        raise KeyError("sku")

    async with serving(broken, dev=True) as client:
        told = (await client.post("/broken", headers=KEY)).json()

    assert (told["error"], told["type"], told["message"]) == ("internal error", "KeyError", "'sku'")
    assert 'raise KeyError("sku")' in told["traceback"]
    assert told["run"].startswith("i_")


async def test_a_step_that_takes_too_long_is_told_apart() -> None:
    """504, as without a key."""

    @step(on.post("/slow"), timeout="50ms")
    async def slow(ctx: StepContext, req: Request[Any]) -> Any:
        await asyncio.sleep(60)

    async with serving(slow) as client:
        answer = await client.post("/slow", headers=KEY)

    assert (answer.status_code, answer.json()["error"]) == (504, "the Step took too long")


async def test_an_invalid_request_makes_no_run() -> None:
    """400 with its faults, and the key is free for a better one."""
    create, calls = counting()
    app = app_of(create)
    async with app, client_of(app) as client:
        bad = await client.post("/orders", json={}, headers=KEY)
        runs = await app.engine.store.runs()
        good = await client.post("/orders", json={"id": "a"}, headers=KEY)

    assert (bad.status_code, bad.json()["faults"][0]["path"]) == (400, "body.id")
    assert runs == []
    assert good.status_code == 201
    assert calls == ["a"]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "two words", "caf\u00e9"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    """Before anything happens."""
    create, calls = counting()
    async with serving(create) as client:
        headers = [(b"idempotency-key", key.encode("latin-1"))]
        answer = await client.post("/orders", json={"id": "a"}, headers=headers)

    assert answer.status_code == 400
    assert calls == []


async def test_a_safe_method_ignores_the_key() -> None:
    """A GET has no effect to repeat."""
    calls: list[int] = []

    @step(on.get("/x"))
    async def read(ctx: StepContext, req: Request[Any]) -> Any:
        calls.append(1)
        return {}

    async with serving(read) as client:
        await client.get("/x", headers=KEY)
        await client.get("/x", headers=KEY)

    assert len(calls) == 2


async def test_text_bytes_and_nothing_are_replayed_as_they_were() -> None:
    """With the content type they had."""
    bodies: dict[str, Any] = {"text": "caf\u00e9", "bytes": b"\x00\xff", "none": None, "list": [1]}

    @step(on.post("/x/:kind"))
    async def answered(ctx: StepContext, req: Request[Any]) -> Any:
        return bodies[req.path_params["kind"]]

    async with serving(answered) as client:
        for kind in bodies:
            headers = {"idempotency-key": kind}
            plain = await client.post(f"/x/{kind}")
            first = await client.post(f"/x/{kind}", headers=headers)
            second = await client.post(f"/x/{kind}", headers=headers)

            facts = [
                (answer.status_code, answer.headers.get("content-type"), answer.content)
                for answer in (plain, first, second)
            ]
            assert facts == [facts[0]] * 3


async def test_uploaded_files_cannot_be_kept() -> None:
    """They are refused with the key, by name."""

    @step(on.post("/files"))
    async def upload(ctx: StepContext, req: Request[Any]) -> Any:
        return {}

    async with serving(upload) as client:
        answer = await client.post("/files", files={"doc": b"x"}, headers=KEY)

    assert answer.status_code == 400
    assert "files" in answer.json()["error"]


def test_an_id_keeps_its_parts_apart() -> None:
    """No two ways to put them together are one id."""
    ids = {
        idempotency.run_id("POST /a", "b", ""),
        idempotency.run_id("POST /a", "", "b"),
        idempotency.run_id("POST /ab", "", ""),
    }

    assert len(ids) == 3
