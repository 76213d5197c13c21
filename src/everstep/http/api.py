"""The API for operations: runs, dead letters, state, Steps, messages, below ``/api/v1``.

What the console shows and does, it does through here; so may programs.  Each
operation is one short function from a `Call` to JSON; who may call is asked
before (`guard`), and what can go wrong is turned into a status in one place.

Floor 6.  May import: engine, steps, core, shapes, guard, bodies.  Imported by: http.site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from everstep.core.batch import Run
from everstep.core.status import Status, WrongStatus
from everstep.engine.engine import Engine
from everstep.errors import EverstepError, GroupMissing, NotEncodable, StoreUnavailable, did_you_mean
from everstep.http import bodies, shapes
from everstep.http.answers import json_piece, refusal_piece
from everstep.http.guard import admit
from everstep.http.refusals import Refusal, busy, invalid, misfit, unavailable
from everstep.log import Logger
from everstep.steps.context import Message, read_message
from everstep.steps.step import Step
from everstep.steps.validator import InvalidInput, plain_json

PREFIX = "/api/v1"
MOST = 500  # of anything in one answer
MOST_URGENT = 1_000_000
PAGES = 20  # of the most each, that are gone through for one topic
PATIENCE = 30.0  # seconds a bulk redrive takes at most before it answers how far it got
ACTIONS = ("cancel", "pause", "resume", "redrive", "redrive_new", "discard")
_LABELS = {status.label: int(status) for status in Status}
_log = Logger("everstep.api")


@dataclass(slots=True)
class Call:
    """One request to the API: what it names, asks for, and brings."""

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None

    def number(self, name: str, default: int | None, *, most: int) -> int | None:
        """A whole number of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > most:
            raise _fault(f"query.{name}", f"is a whole number from 0 to {most}")
        return int(text)

    def options(self) -> Mapping[str, Any]:
        """The body as an object; nothing at all is an empty one."""
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise _fault("body", "is a JSON object")
        return self.body


Operation = Callable[["Api", Call], Awaitable[Any]]


@dataclass(slots=True)
class Api:
    """The operations on one engine."""

    engine: Engine
    steps: Sequence[Step[Any, Any]]
    token: str = ""
    limit: int = 1 << 20
    redriving: asyncio.Lock = field(default_factory=asyncio.Lock)

    def endpoints(self) -> Iterator[tuple[str, str, Endpoint]]:
        """Every method and path of the API, and what answers there."""
        for (method, path), (status, operation) in _OPERATIONS.items():
            yield method, PREFIX + path, Endpoint(self, operation, status)


@dataclass(slots=True)
class Endpoint:
    """One operation as something that answers requests."""

    api: Api
    operation: Operation
    status: int
    cross_origin = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send, params: Mapping[str, str]) -> None:
        head = scope["method"] == "HEAD"
        try:
            piece = json_piece(self.status, await self._answer(scope, receive, params), head=head)
        except bodies.Gone:
            return
        except Exception as error:
            piece = refusal_piece(_refusal(error), [], head=head)
        await piece(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, params: Mapping[str, str]) -> Any:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client")
        admit(scope["method"], headers, client[0] if client else None, self.api.token)
        raw = await bodies.read(receive, headers, self.api.limit)
        body = bodies.load_json(raw) if raw else None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        return await self.operation(self.api, Call(params, query, body))


def _refusal(error: Exception) -> Refusal:
    match error:
        case Refusal():
            return error
        case InvalidInput():
            return misfit(error)
        case LookupError():
            return Refusal(404, str(error.args[0]) if error.args else "not found")
        case WrongStatus():
            return Refusal(409, str(error), current=error.status.label)
        case StoreUnavailable():
            return unavailable()
        case GroupMissing() | NotEncodable() | EverstepError():
            return Refusal(400, str(error))
    _log.exception("an operation of the API failed")
    return Refusal(500, "internal error")


def _fault(path: str, message: str) -> Refusal:
    return invalid([{"path": path, "message": message}])


# ---- runs


async def list_runs(api: Api, call: Call) -> Any:
    """Runs, newest first; `next` is where the rest begins."""
    return await _page(api, call, _statuses(call), topics_only=False)


async def show_run(api: Api, call: Call) -> Any:
    """One run with its values, journal and failed attempts."""
    run = await _find(api, call.params["rid"])
    return shapes.run_in_full(run, await api.engine.store.entries(run.id, run.generation))


async def control_run(api: Api, call: Call) -> Any:
    """Cancel, pause, resume, redrive or discard a run; answers it as it is then."""
    action = call.params["action"]
    if action not in ACTIONS:
        raise Refusal(404, f"no action is called '{action}'.{did_you_mean(action, ACTIONS)}", actions=ACTIONS)
    return await _control(api, call.params["rid"], action, call.options())


async def _find(api: Api, rid: str) -> Run:
    run = await api.engine.store.run(rid)
    if run is None:
        raise LookupError(f"no run has the id '{rid}'")
    return run


async def _control(api: Api, rid: str, action: str, options: Mapping[str, Any]) -> Any:
    if action == "redrive" and options.get("new"):
        action = "redrive_new"
    changed = plain_json(options["input"], "input") if "input" in options else None
    if changed is not None and not action.startswith("redrive"):
        raise _fault("body.input", "can only be changed by a redrive")
    return shapes.run_shape(await api.engine.control(rid, action, input=changed))


async def _page(api: Api, call: Call, statuses: Sequence[int], *, topics_only: bool) -> Any:
    found, further = await _runs(
        api,
        topic=call.query.get("topic"),
        handler=call.query.get("handler"),
        statuses=statuses,
        topics_only=topics_only,
        before=call.number("before", None, most=(1 << 63) - 1),
        limit=call.number("limit", 50, most=MOST) or 50,
    )
    return {"runs": [shapes.run_shape(run) for run in found], "next": further}


async def _runs(
    api: Api, *, topic: str | None, limit: int, before: int | None = None, **which: Any
) -> tuple[list[Run], int | None]:
    """
    Some runs, and where the rest begins; None: that is all.

    Stores do not look for a topic: of one topic, a bounded number of runs is
    gone through, so that there may be fewer than *limit* and still a rest.
    """
    found: list[Run] = []
    for _ in range(PAGES):
        size = limit if topic is None else MOST
        page = await api.engine.store.runs(before=before, limit=size, **which)
        for run in page:
            if topic is None or run.topic == topic:
                found.append(run)
                if len(found) == limit:
                    return found, run.id
        if len(page) < size:
            return found, None
        before = page[-1].id
    return found, before


def _statuses(call: Call) -> list[int]:
    given = [text for text in call.query.get("status", "").split(",") if text]
    for text in given:
        if text not in _LABELS:
            raise _fault("query.status", f"is one of {', '.join(_LABELS)}.{did_you_mean(text, _LABELS)}")
    return [_LABELS[text] for text in given]


# ---- dead letters


async def list_dead(api: Api, call: Call) -> Any:
    """Messages whose attempts are used up, newest first."""
    return await _page(api, call, [Status.FAILED], topics_only=True)


async def show_dead(api: Api, call: Call) -> Any:
    """One dead letter with its input and history."""
    await _dead(api, call.params["rid"])
    return await show_run(api, call)


async def redrive_dead(api: Api, call: Call) -> Any:
    """Try one again; with `input` an edited one, with `new` without what it remembers."""
    run = await _dead(api, call.params["rid"])
    return await _control(api, run.rid, "redrive", call.options())


async def discard_dead(api: Api, call: Call) -> Any:
    """Forget one."""
    run = await _dead(api, call.params["rid"])
    return await _control(api, run.rid, "discard", {})


async def redrive_all(api: Api, call: Call) -> Any:
    """Try many again, oldest of a page first, at `rate` a second."""
    return await _bulk(api, call, "redrive")


async def discard_all(api: Api, call: Call) -> Any:
    """Forget many."""
    return await _bulk(api, call, "discard")


async def _dead(api: Api, rid: str) -> Run:
    run = await _find(api, rid)
    if run.status != Status.FAILED or not run.topic:
        raise WrongStatus("redrive", run.state) if run.topic else LookupError(f"'{rid}' is no dead letter")
    return run


async def _bulk(api: Api, call: Call, action: str) -> Any:
    options = call.options()
    handler, topic = options.get("handler"), options.get("topic")
    rate, limit = options.get("rate"), options.get("limit", 100)
    if handler is not None and not isinstance(handler, str):
        raise _fault("body.handler", "is the name of a Step")
    if topic is not None and not isinstance(topic, str):
        raise _fault("body.topic", "is the name of a topic")
    if rate is not None and (
        isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e6
    ):
        raise _fault("body.rate", "is how many a second, more than 0")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise _fault("body.limit", f"is a whole number from 1 to {MOST}")
    if api.redriving.locked():
        raise busy("another bulk operation is still going on")
    async with api.redriving:
        dead, _ = await _runs(
            api, topic=topic, handler=handler, statuses=[Status.FAILED], topics_only=True, limit=limit
        )
        return await _each(api, [run.rid for run in reversed(dead)], action, rate)


async def _each(api: Api, rids: Sequence[str], action: str, rate: float | None) -> Any:
    done: list[str] = []
    ends = asyncio.get_running_loop().time() + PATIENCE
    for number, rid in enumerate(rids):
        pause = 0.0 if rate is None or number == 0 else 1 / rate
        if asyncio.get_running_loop().time() + pause > ends:
            break
        await asyncio.sleep(pause)
        try:
            await api.engine.control(rid, action)
        except (LookupError, WrongStatus):
            continue  # somebody else was faster
        done.append(rid)
    return {"done": done, "left": len(rids) - len(done)}


# ---- state


async def list_groups(api: Api, call: Call) -> Any:
    """Every group of state and how many keys it has."""
    return {"groups": [{"group": g, "count": n} for g, n in await api.engine.store.kv_groups()]}


async def list_keys(api: Api, call: Call) -> Any:
    """All of one group."""
    group = call.params["group"]
    return {"group": group, "items": [shapes.state_shape(r) for r in await api.engine.store.kv_list(group)]}


async def get_key(api: Api, call: Call) -> Any:
    """One value."""
    group, key = call.params["group"], call.params["key"]
    row = await api.engine.store.kv_get(group, key)
    if row is None:
        raise LookupError(f"group '{group}' has no key '{key}'")
    return {"group": group, **shapes.state_shape(row)}


async def put_key(api: Api, call: Call) -> Any:
    """Write one value: the body of the request."""
    group, key = call.params["group"], call.params["key"]
    old = await api.engine.kv_set(group, key, plain_json(call.body, f"state {group}/{key}"))
    return {"group": group, "key": key, "new_value": call.body, "old_value": shapes.shown(old)}


async def delete_key(api: Api, call: Call) -> Any:
    """Remove one value."""
    group, key = call.params["group"], call.params["key"]
    return {"group": group, "key": key, "old_value": shapes.shown(await api.engine.kv_delete(group, key))}


async def clear_group(api: Api, call: Call) -> Any:
    """Remove a whole group."""
    group = call.params["group"]
    return {"group": group, "removed": await api.engine.kv_clear(group)}


# ---- Steps and messages


async def list_steps(api: Api, call: Call) -> Any:
    """All Steps with their flows and edges: what the console draws."""
    return shapes.steps_shape(api.steps, await api.engine.store.subscriptions())


async def enqueue(api: Api, call: Call) -> Any:
    """Send a message; answers its id and who got a copy."""
    message = _message(call.options())
    for step in api.steps:
        for trigger in step.queues:
            if trigger.topic == message.topic and trigger.input is not None:
                trigger.input.load(message.data, "data")
    try:
        sent = await api.engine.publish(
            message.topic, message.data, group=message.group, delay=message.delay, priority=message.priority
        )
    except GroupMissing as error:
        of = f", which {error.step} reads in order" if error.step else ""
        raise _fault(
            "body.group",
            f"is missing: topic {error.topic!r} is FIFO{of}. Messages of one group are handled in order, "
            'groups in parallel: give "group", such as "group": "o-1"',
        ) from None
    return {"id": sent.mid, "handlers": list(sent.handlers)}


def _message(options: Mapping[str, Any]) -> Message:
    priority = options.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MOST_URGENT:
        raise _fault("body.priority", f"is a whole number from -{MOST_URGENT} to {MOST_URGENT}")
    try:
        return read_message(options)
    except (TypeError, ValueError) as error:
        raise _fault("body", str(error)) from None


async def list_unrouted(api: Api, call: Call) -> Any:
    """Messages nobody subscribed to, newest first."""
    limit = call.number("limit", 50, most=MOST) or 50
    return {"messages": [shapes.unrouted_shape(m) for m in await api.engine.store.unrouted(limit)]}


async def list_counts(api: Api, call: Call) -> Any:
    """How many runs each handler has in each status."""
    return shapes.counts_shape(await api.engine.store.counts())


async def list_workers(api: Api, call: Call) -> Any:
    """The processes that work on this store."""
    return {"workers": [shapes.worker_shape(worker) for worker in await api.engine.store.workers()]}


_OPERATIONS: dict[tuple[str, str], tuple[int, Operation]] = {
    ("GET", "/runs"): (200, list_runs),
    ("GET", "/runs/:rid"): (200, show_run),
    ("POST", "/runs/:rid/:action"): (200, control_run),
    ("GET", "/dlq"): (200, list_dead),
    ("POST", "/dlq/redrive"): (200, redrive_all),
    ("POST", "/dlq/discard"): (200, discard_all),
    ("GET", "/dlq/:rid"): (200, show_dead),
    ("POST", "/dlq/:rid/redrive"): (200, redrive_dead),
    ("POST", "/dlq/:rid/discard"): (200, discard_dead),
    ("GET", "/state"): (200, list_groups),
    ("GET", "/state/:group"): (200, list_keys),
    ("DELETE", "/state/:group"): (200, clear_group),
    ("GET", "/state/:group/:key"): (200, get_key),
    ("PUT", "/state/:group/:key"): (200, put_key),
    ("DELETE", "/state/:group/:key"): (200, delete_key),
    ("GET", "/steps"): (200, list_steps),
    ("POST", "/enqueue"): (202, enqueue),
    ("GET", "/unrouted"): (200, list_unrouted),
    ("GET", "/counts"): (200, list_counts),
    ("GET", "/workers"): (200, list_workers),
}
