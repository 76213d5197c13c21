"""Middleware: functions around a Step's requests, ``(req, ctx, next)``, outermost first.

Each may answer itself, hang data onto the request, change what comes back, or
catch what is raised.  The request is checked behind them, so that who is not
let in learns nothing about what is expected.

Floor 5.  May import: engine.executors, blocking, context, request, step, triggers.  Imported by: dispatch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from everstep.engine import executors
from everstep.steps.blocking import Portal, SyncStepContext
from everstep.steps.context import StepContext
from everstep.steps.request import Request, Response
from everstep.steps.step import runs_on_loop
from everstep.steps.triggers import Middleware


class Answer(dict[str, Any]):
    """What ``next()`` gives: the response as a dict of status, body and headers, or by attribute."""

    def __init__(self, response: Response) -> None:
        headers: Mapping[str, Any] = response.headers or {}
        super().__init__(status=response.status, body=response.body, headers=dict(headers))

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"a response has status, body and headers, not {name!r}")
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


async def through(
    layers: Sequence[Middleware],
    ctx: StepContext,
    request: Request[Any],
    inner: Callable[[], Awaitable[Response]],
    read: Callable[[Any], Response],
) -> Response:
    """
    Call the layers around *inner*.

    Args:
        inner: Checks the request and calls the Step.
        read: Makes a response of what a layer returned.
    """
    if not layers:
        return await inner()
    layer, rest = layers[0], layers[1:]

    async def next() -> Answer:
        return Answer(await through(rest, ctx, request, inner, read))

    if runs_on_loop(layer):
        return read(await layer(request, ctx, next))
    portal = Portal()
    # A plain function waits for `next()` in its thread instead of awaiting it.
    answer = await executors.in_thread(
        layer, request, SyncStepContext(ctx, portal), lambda: portal.call(next)
    )
    return read(await answer if isawaitable(answer) else answer)
