"""Functions around a Step's requests."""

from typing import Any

import pytest

from everstep.steps.config import http, read_config
from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.request import Request, Response
from everstep.steps.step import Step
from tests.http.serving import serving

pytestmark = pytest.mark.anyio


async def auth(req: Any, ctx: Any, next: Any) -> Any:
    if req.get("headers", {}).get("authorization") is None:
        return {"status": 401, "body": {"error": "Unauthorized"}}
    req["user"] = {"id": "123"}
    return await next()


async def stamped(req: Any, context: Any, next_fn: Any) -> Any:
    response = await next_fn()
    return {**response, "headers": {**response.get("headers", {}), "X-Request-Id": context.trace_id}}


def plain(req: Any, ctx: Any, next: Any) -> Any:
    response = next()
    response.body["plain"] = ctx.state.list_groups()
    return response


async def caught(req: Any, ctx: Any, next: Any) -> Any:
    try:
        return await next()
    except ZeroDivisionError:
        return {"status": 409, "body": {"error": "not by zero"}}


def file_form(*layers: Any, **trigger: Any) -> Step[Any, Any]:
    async def handler(req: Any, ctx: Any) -> Any:
        return {"status": 201, "body": {"user": req.get("user"), "got": ctx.get_data()}}

    config = {"name": "Protected", "triggers": [http("POST", "/x", **trigger)], "middleware": list(layers)}
    return read_config(config, handler)[0]


async def test_a_layer_may_answer_itself() -> None:
    """The handler is not called, and nothing is told of what it expects."""
    async with serving(file_form(auth, bodySchema={"type": "object", "required": ["id"]})) as client:
        outside = await client.post("/x", json={})
        inside = await client.post("/x", json={}, headers={"authorization": "x"})

    assert (outside.status_code, outside.json()) == (401, {"error": "Unauthorized"})
    assert inside.status_code == 400
    assert inside.json()["faults"] == [{"path": "body.id", "message": "is required"}]


async def test_layers_hang_data_onto_the_request_and_change_the_response() -> None:
    """In the order they are written, in Motia's words; plain functions run in threads."""
    async with serving(file_form(stamped, auth, plain)) as client:
        answer = await client.post("/x", json={"id": 1}, headers={"authorization": "x"})

    assert (answer.status_code, answer.json()) == (
        201,
        {"user": {"id": "123"}, "got": {"id": 1}, "plain": []},
    )
    assert answer.headers["x-request-id"] == answer.headers["x-trace-id"]


async def test_a_layer_catches_what_is_raised() -> None:
    """And makes an answer of it."""

    @step(on.get("/x", middleware=[caught]))
    async def divide(ctx: StepContext, req: Request[Any]) -> Any:
        return 1 / 0

    async with serving(divide) as client:
        answer = await client.get("/x")

    assert (answer.status_code, answer.json()) == (409, {"error": "not by zero"})


async def test_a_layer_that_returns_nothing_is_an_error_of_the_step() -> None:
    """It forgot `return await next()`: a 500, not an empty answer."""

    async def forgetful(req: Any, ctx: Any, next: Any) -> None:
        await next()

    async with serving(file_form(forgetful)) as client:
        answer = await client.post("/x", json={})

    assert answer.status_code == 500


async def test_an_idempotent_request_goes_through_its_layers() -> None:
    """They guard a run as they guard a request."""
    async with serving(file_form(auth)) as client:
        outside = await client.post("/x", json={}, headers={"idempotency-key": "k"})
        inside = await client.post("/x", json={}, headers={"idempotency-key": "k", "authorization": "x"})

    assert (outside.status_code, inside.status_code) == (401, 201)


async def test_a_layer_may_answer_with_a_response() -> None:
    """In our own form."""

    async def closed(req: Any, ctx: Any, next: Any) -> Any:
        return Response("closed", 503)

    async with serving(file_form(closed)) as client:
        answer = await client.post("/x", json={})

    assert (answer.status_code, answer.text) == (503, "closed")
