"""The Steps that W7 serves."""

from __future__ import annotations

from typing import Any

from everstep import Request, StepContext, on, step


@step(on.get("/hello"))
async def hello(ctx: StepContext, request: Request[None]) -> dict[str, bool]:
    """A trivial http Step."""
    return {"ok": True}


@step(on.post("/orders"))
async def submit(ctx: StepContext, request: Request[Any]) -> dict[str, bool]:
    """An http Step with one message, durable before the answer."""
    await ctx.enqueue("bench.submitted", request.body)
    return {"ok": True}


@step(on.queue("bench.submitted"))
async def receive(ctx: StepContext, order: Any) -> None:
    """Takes the message."""
