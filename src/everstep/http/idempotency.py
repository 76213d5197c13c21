"""A request with an Idempotency-Key is served once, however often it comes.

It is a run of its Step, under an id made of the route, the key and who asks:
begun before the Step is called, its response kept by the commit that ends it.
A second request finds that run and gets the same response; a process that dies
in between leaves it to another.  One that failed is tried again by the next
request that comes with the key, and what it did before is not repeated; a
TerminalError is final.

Floor 6.  May import: engine, core, steps, refusals, shapes.  Imported by: http.ingress.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

from everstep.core.batch import Run
from everstep.core.failure import decode_error
from everstep.core.status import Status, WrongStatus
from everstep.engine.attempt import HandlerTimeout
from everstep.engine.engine import Engine
from everstep.errors import NotEncodable, StepFailed
from everstep.http.refusals import Refusal
from everstep.http.shapes import error_shape
from everstep.steps.request import Request, Response, dump_request, load_response
from everstep.steps.step import Step
from everstep.steps.triggers import HttpTrigger

HEADER = "idempotency-key"
REPLAYED = "idempotency-replayed"
PATIENCE = 5.0  # seconds a request waits for its run before the client is told to come again
URGENT = 1 << 30  # somebody waits for it: before every message, however many there are
_KEY = re.compile(r"[!-~]{1,255}")


class Repeats:
    """Serves requests that may come more than once."""

    def __init__(self, engine: Engine, *, dev: bool = False) -> None:
        self._engine = engine
        self._dev = dev

    async def serve(
        self, step: Step[Any, Any], trigger: HttpTrigger, request: Request[Any], trace: str
    ) -> Response:
        """
        The response to a request, now or from the first time.

        Args:
            request: As it came; whoever finishes it checks it again.

        Raises:
            Refusal: 400 for a key that is none, 409 while it is still at work,
                422 for another request under the same key.
        """
        begun = await self._engine.begin(
            step.name,
            _input(request),
            rid=run_id(trigger.route, _key(request), request.headers.get("authorization", "")),
            topic=trigger.route,
            fp=fingerprint(request),
            trace=trace,
            priority=URGENT,
        )
        if not begun.created and begun.run.fp != fingerprint(request):
            raise Refusal(422, "this Idempotency-Key was used with another request", run=begun.run.rid)
        again = _may_pass(begun.run)
        if again:
            await self._again(begun.run.rid)
        try:
            run = await self._engine.result(begun.run.rid, timeout=PATIENCE)
        except TimeoutError:
            raise Refusal(
                409,
                "a request with this Idempotency-Key is still at work; come again for its response",
                headers={"retry-after": "2"},
                run=begun.run.rid,
            ) from None
        return _stored(run, replayed=not (begun.created or again), dev=self._dev)

    async def _again(self, rid: str) -> None:
        """Try what failed once more; what it did the first time is remembered, and not done twice."""
        try:
            await self._engine.control(rid, "redrive")
        except WrongStatus:
            pass  # another request was quicker: its attempt is ours too


def _may_pass(run: Run) -> bool:
    """True for a failure that another attempt may mend; a TerminalError is an answer."""
    return run.status == Status.FAILED and isinstance(decode_error(run.error or b""), StepFailed)


def _late(run: Run) -> bool:
    error = decode_error(run.error or b"")
    timeout = f"{HandlerTimeout.__module__}:{HandlerTimeout.__qualname__}"
    return isinstance(error, StepFailed) and error.error_type == timeout


def run_id(route: str, key: str, principal: str) -> str:
    """The id of the run that serves a route's key for whoever asks; two users may use the same key."""
    facts = "\0".join((route, key, principal))
    return "i_" + blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def fingerprint(request: Request[Any]) -> int:
    """What must be the same for a request to count as the same."""
    digest = blake2b(digest_size=8)
    for part in (request.method, request.path, repr(sorted(request.query.pairs()))):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(request.raw_body)
    return int.from_bytes(digest.digest()) >> 1  # fits a signed column


def _key(request: Request[Any]) -> str:
    key = request.headers[HEADER]
    if not _KEY.fullmatch(key):
        raise Refusal(400, "an Idempotency-Key is 1 to 255 printable ASCII characters without blanks")
    return key


def _input(request: Request[Any]) -> bytes:
    try:
        return dump_request(request)
    except NotEncodable:
        raise Refusal(400, "an Idempotency-Key cannot be used with uploaded files") from None


def _stored(run: Run, *, replayed: bool, dev: bool) -> Response:
    if run.status == Status.DONE and run.output is not None:
        response = load_response(run.output)
    elif run.status == Status.FAILED:
        late = _late(run)
        error = "the Step took too long" if late else "internal error"
        told = {"error": error, "run": run.rid, "trace_id": run.trace}
        why = error_shape(run.error) if dev else None
        response = Response(told | (why or {}), 504 if late else 500)
    else:
        response = Response({"error": f"this request was {run.state.label}", "run": run.rid}, 409)
    if replayed:
        response.headers = {**(response.headers or {}), REPLAYED: "true"}
    return response
