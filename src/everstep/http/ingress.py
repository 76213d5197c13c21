"""A request to a Step: read it, check it, call, and answer whatever happened.

Everything that can go wrong has one place and one status: what the client did
wrong is a `Refusal` before the Step is called; what the Step did wrong is
logged with its trace and answered without its text, except in dev.

Floor 6.  May import: core.failure, engine, steps, settings, http.  Imported by: http.site.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import Receive, Scope, Send

from everstep.core.failure import cut
from everstep.engine.engine import Engine
from everstep.errors import BadName, StateChanged, StoreUnavailable
from everstep.http import bodies
from everstep.http.answers import Headers, Ready, json_piece, prepare, refusal_piece
from everstep.http.idempotency import HEADER, Repeats
from everstep.http.openapi import UNSAFE
from everstep.http.refusals import Refusal, busy, malformed, misfit, unavailable
from everstep.http.traces import trace_of
from everstep.http.watch import Late, Left, Watch, Watches
from everstep.log import Logger
from everstep.settings import Settings
from everstep.steps.dispatch import respond
from everstep.steps.request import Request, Response, Values, accept
from everstep.steps.step import Step
from everstep.steps.triggers import HttpTrigger
from everstep.steps.validator import InvalidInput

_OURS = frozenset(
    (b"traceparent", b"content-length", b"transfer-encoding", b"content-type", b"cookie", HEADER.encode())
)
UPLOAD_TIME = 60.0  # seconds a client has to send its body
_log = Logger("everstep.http")


class HeaderValues(Values):
    """The headers of a request, put in order when first asked for: most handlers ask for none."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._folded = True

    def __getattr__(self, name: str) -> Any:
        if name != "_all":
            raise AttributeError(name)
        super().__init__(((k.decode("latin-1"), v.decode("latin-1")) for k, v in self._raw), fold=True)
        return self._all


class Ingress:
    """What the endpoints of all Steps share: the engine, the limits, and how many are at work."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.repeats = Repeats(engine, dev=settings.dev)
        self.dev = settings.dev
        self.body_limit = settings.body_limit
        self.limit = settings.requests
        self.active = 0
        self.watches = Watches()

    def endpoint(self, step: Step[Any, Any], trigger: HttpTrigger) -> StepEndpoint:
        """What answers at one trigger of a Step."""
        return StepEndpoint(self, step, trigger)


@dataclass(slots=True)
class StepEndpoint:
    """One http trigger of a Step as something that answers requests."""

    ingress: Ingress
    step: Step[Any, Any]
    trigger: HttpTrigger
    cross_origin = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send, params: Mapping[str, str]) -> None:
        headers = {
            name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _OURS
        }
        trace = trace_of(headers.get("traceparent"))
        extra: Headers = [(b"x-trace-id", trace.encode())]
        head = scope["method"] == "HEAD"
        body = bodies.NOTHING
        try:
            try:
                if bodies.expected(scope["method"], headers, scope["http_version"]):
                    body = await self._body(receive, headers)
                request = self._request(scope, headers, params, body)
                once = HEADER in headers and request.method in UNSAFE
                response = await self._response(request, receive, trace, once=once)
                ready = prepare(response, extra, head=head)
            except (bodies.Gone, Left):
                return
            except Exception as error:
                ready = self._failed(error, trace, extra, head)
            await self._send(ready, scope, receive, send, trace)
        finally:
            for file in body.files:
                await file.close()

    async def _body(self, receive: Receive, headers: Mapping[str, str]) -> bodies.Body:
        try:
            async with asyncio.timeout(UPLOAD_TIME):
                raw = await bodies.read(receive, headers, self.ingress.body_limit)
        except TimeoutError:
            raise Refusal(408, "the body did not come in time", headers={"connection": "close"}) from None
        return await bodies.parse(raw, headers.get("content-type", ""), self.trigger.body)

    def _request(
        self, scope: Scope, headers: Mapping[str, str], params: Mapping[str, str], body: bodies.Body
    ) -> Request[Any]:
        query: bytes = scope["query_string"]
        cookie = headers.get("cookie")
        request: Request[Any] = Request(
            body.value,
            params,
            Values(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else Values(),
            HeaderValues(scope["headers"]),
            cookie_parser(cookie) if cookie else {},
            body.raw,
            scope["method"],
            scope["path"],
        )
        return request

    async def _response(self, request: Request[Any], receive: Receive, trace: str, *, once: bool) -> Response:
        ingress, step = self.ingress, self.step
        if ingress.active >= ingress.limit:
            raise busy("too many requests at once")
        ingress.active += 1
        try:
            if once:
                self._check(request)
                response = await ingress.repeats.serve(step, self.trigger, request, trace)
            else:
                effects = ingress.engine.effects(trace=trace, gather=step.gathers)
                with Watch(ingress.watches, receive, step.timeout / 1e6):
                    response = await respond(step, self.trigger, request, effects, dev=ingress.dev)
        finally:
            ingress.active -= 1
        if response.body is None and response.status == 200 and step.form == "decorated":
            response.status = 204
        return response

    def _check(self, request: Request[Any]) -> None:
        """Refuse what does not fit before a run exists; behind middleware it is for the run to see."""
        if self.trigger.middleware:
            return
        try:
            accept(self.trigger, request)
        except InvalidInput as error:
            raise misfit(error) from None
        except (RecursionError, ArithmeticError):
            raise malformed("is nested too deeply, or has a number out of range") from None

    def _failed(self, error: Exception, trace: str, extra: Headers, head: bool) -> Ready:
        about = {"step": self.step.name, "trace": trace}
        match error:
            case Refusal():
                return refusal_piece(error, extra, head=head)
            case Late():
                _log.error(
                    "a request took longer than its Step allows", about, seconds=self.step.timeout / 1e6
                )
                return json_piece(
                    504, {"error": "the Step took too long", "trace_id": trace}, extra, head=head
                )
            case StoreUnavailable():
                _log.error("the store is not available", about, reason=str(error))
                return refusal_piece(unavailable(), extra, head=head)
            case BadName():
                return refusal_piece(Refusal(400, str(error)), extra, head=head)
            case StateChanged():
                _log.info("two requests wanted the same state at once; one was told to come again", about)
                return refusal_piece(Refusal(409, str(error), headers={"retry-after": "1"}), extra, head=head)
        cut(error)
        _log.exception("a Step failed to answer a request", about)
        told: dict[str, Any] = {"error": "internal error", "trace_id": trace}
        if self.ingress.dev:
            told["type"] = type(error).__name__
            told["message"] = str(error)
            told["traceback"] = "".join(traceback.format_exception(error))
        return json_piece(500, told, extra, head=head)

    async def _send(self, ready: Ready, scope: Scope, receive: Receive, send: Send, trace: str) -> None:
        try:
            await ready(scope, receive, send)
        except (ClientDisconnect, OSError):
            _log.debug("the client hung up before the whole answer was sent", trace=trace)
        except Exception:
            # Half of it is sent: cutting the connection is the only way left to say so.
            _log.exception("an answer broke off", step=self.step.name, trace=trace)
            raise
