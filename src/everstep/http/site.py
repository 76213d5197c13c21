"""The one ASGI callable: Steps, our own pages, and the API, behind one table of routes.

In this order: find the route, say 404 or 405 or answer OPTIONS, let pages of
other origins in where that is allowed, and call what answers.  A Step may take
a path of ours (``/docs``); anything of ours stays where no Step is.

Floor 6.  May import: engine, steps.step, settings, http.  Imported by: app.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from everstep.engine.engine import Engine
from everstep.http.answers import Headers, Piece, refusal_piece
from everstep.http.api import Api
from everstep.http.cors import Cors
from everstep.http.ingress import Ingress
from everstep.http.pages import pages
from everstep.http.refusals import Refusal, not_allowed, not_found
from everstep.http.routes import Found, Router
from everstep.settings import Settings
from everstep.steps.step import Step


class Endpoint(Protocol):
    """What answers at a route."""

    @property
    def cross_origin(self) -> bool:
        """Whether pages of the origins that CORS names may call it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send, params: Mapping[str, str]) -> None:
        """Answer one request."""


class Site:
    """All that answers over HTTP."""

    def __init__(
        self,
        engine: Engine,
        steps: Sequence[Step[Any, Any]],
        settings: Settings,
        *,
        cors: Cors | None = None,
    ) -> None:
        """
        Raises:
            ConfigError: Two Steps have one route.
        """
        self._cors = cors or Cors(settings.cors)
        self._router: Router[Endpoint] = Router()
        self._ingress = ingress = Ingress(engine, settings)
        for step in steps:
            for trigger in step.routes:
                self._router.add(
                    trigger.method, trigger.path, ingress.endpoint(step, trigger), source=step.source
                )
        for page in pages(engine, steps):
            self._router.add(*page, keep=True)
        for operation in Api(engine, steps, settings.token, settings.body_limit).endpoints():
            self._router.add(*operation, keep=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, raw = _below_mount(scope)
        method = scope["method"]
        if "\0" in path:  # PostgreSQL could not keep it as a key
            refusal = refusal_piece(Refusal(400, "a path holds no NUL"), [], head=method == "HEAD")
            return await refusal(scope, receive, send)
        found = self._router.find(method, path, raw)
        if not isinstance(found, Found):
            return await self._without_route(found, path, scope, receive, send)
        endpoint = found.route.target
        if self._cors and endpoint.cross_origin:
            origin = _header(scope, b"origin")
            if origin is not None and self._cors.allows(origin):
                send = self._cors.wrap(send, origin)
        await endpoint(scope, receive, send, found.params)

    async def drained(self, patience: float) -> None:
        """Return when no Step is at work on a request, or after *patience* seconds."""
        ends = asyncio.get_running_loop().time() + patience
        # An event instead would be paid for by every request.
        while self._ingress.active and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _without_route(
        self, allowed: frozenset[str], path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        method = scope["method"]
        if method == "OPTIONS" and allowed:
            piece = Piece(204, b"", self._options(allowed, scope))
        elif allowed:
            piece = refusal_piece(not_allowed(method, allowed), [], head=method == "HEAD")
        else:
            piece = refusal_piece(not_found(path), [], head=method == "HEAD")
        await piece(scope, receive, send)

    def _options(self, allowed: frozenset[str], scope: Scope) -> Headers:
        headers: Headers = [(b"allow", ", ".join(sorted(allowed | {"OPTIONS"})).encode())]
        origin = _header(scope, b"origin")
        wanted = _header(scope, b"access-control-request-method")
        if not self._cors or origin is None or wanted is None or not self._cors.allows(origin):
            return headers
        path, raw = _below_mount(scope)
        found = self._router.find(wanted, path, raw)
        if isinstance(found, Found) and found.route.target.cross_origin:
            headers += self._cors.preflight(
                origin, _header(scope, b"access-control-request-headers"), allowed
            )
        return headers


def _below_mount(scope: Scope) -> tuple[str, bytes]:
    """The path below where this is mounted, decoded and as it came."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path, raw
    if b"%" in raw:
        # What is above may be written in several ways; what is below has as many segments in each.
        depth = root.rstrip("/").count("/")
        raw = b"/" + b"/".join(raw.split(b"?", 1)[0].split(b"/")[depth + 1 :])
    return path[len(root) :] or "/", raw


def _header(scope: Scope, name: bytes) -> str | None:
    found: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return None if found is None else found.decode("latin-1")
