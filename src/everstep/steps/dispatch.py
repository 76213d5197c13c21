"""From a run or a request to the function of a Step, and back to what it did.

`handler_of` makes a Step something the engine can run: each attempt finds the
trigger by the run's topic, reads and checks the message, asks the condition,
and calls the function the way its signature wants.  `respond` does the same
for a request that has no run.

Floor 5.  May import: engine, core, blocking, context, discover, middleware, project, request, step,
validator.
Imported by: http, app.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import isawaitable
from pathlib import Path
from typing import Any

from everstep.core.batch import Mode
from everstep.engine import executors
from everstep.engine.attempt import Attempt
from everstep.engine.effects import Effects
from everstep.engine.registry import Ended, Handler
from everstep.errors import EverstepError, NotEncodable, TerminalError, did_you_mean
from everstep.log import Logger
from everstep.steps.blocking import Portal, SyncStepContext
from everstep.steps.context import NamedTopics, StepContext, TriggerInfo
from everstep.steps.discover import collect
from everstep.steps.middleware import through
from everstep.steps.project import FOLDERS, Project
from everstep.steps.request import (
    Request,
    Response,
    accept,
    comes_in_parts,
    dump_request,
    dump_response,
    json_of,
    load_request,
)
from everstep.steps.step import Argument, Step, arguments, runs_on_loop
from everstep.steps.triggers import AnyTrigger, HttpTrigger, QueueTrigger
from everstep.steps.validator import InvalidInput, load_plain

AnyStep = Step[Any, Any]

_log = Logger("everstep.step")
_ENVELOPE = ("status", "body", "headers")
_ANSWERED = "the request has been answered; await every ctx call before the handler returns"


class BadResponse(EverstepError):
    """A Step answered a request with something that is no response, or not the declared one."""

    def __init__(self, step: str, what: str, *, remedy: str = "") -> None:
        self.step = step
        self.what = what
        super().__init__(f"Step '{step}' answered {what}{remedy and f'; {remedy}'}")


def handler_of(step: AnyStep, *, dev: bool = False) -> Handler:
    """
    The Step as the engine runs it: for its messages, and for requests with an Idempotency-Key.

    Args:
        dev: A response that breaks its declared schema is an error, not only a line in the log.
    """
    triggers: dict[str | None, AnyTrigger] = {t.topic: t for t in step.queues}
    triggers |= {t.route: t for t in step.routes}
    named = _named(step) if dev else None

    async def attempt(attempt: Attempt) -> Ended:
        run = attempt.run
        trigger = triggers.get(run.topic)
        if trigger is None:
            raise TerminalError(
                f"Step '{step.name}' has no trigger for '{run.topic}' (any more); its triggers are "
                f"{', '.join(str(topic) for topic in triggers)}. Give it one, then redrive this"
            )
        if isinstance(trigger, HttpTrigger):
            request = load_request(run.input)
            ctx = _context(step, trigger, request, attempt.effects, named, attempt.number, run.rid)
            response = await _answered(step, trigger, ctx, request, dev)
            try:
                return Ended(dump_response(response))
            except NotEncodable as error:  # another attempt would answer the same
                raise TerminalError(str(error)) from error
        try:
            input = read_input(trigger, run.input)
        except InvalidInput as error:
            raise TerminalError(f"the input of Step '{step.name}' does not fit. {error}") from error
        ctx = _context(step, trigger, input, attempt.effects, named, attempt.number, run.rid)
        if not await _holds(trigger, ctx, input):
            return Ended(skipped=True)
        await _called(step, trigger, ctx, input, run.input)
        return Ended()

    return Handler(
        name=step.name,
        mode=Mode.RETRY,
        call=attempt,
        retry=step.retry,
        timeout=step.longest,
        concurrency=step.concurrency,
        gather=step.gathers,
        subscriptions=step.subscriptions,
        source=step.source,
    )


async def respond(
    step: AnyStep,
    trigger: HttpTrigger,
    request: Request[Any],
    effects: Effects,
    *,
    dev: bool = False,
) -> Response:
    """
    Answer a request that has no run.

    Its effects are committed when this returns; when it raises, those that were
    gathered never happened.  Whoever cancels it at its timeout can be sure that
    a thread left behind has no effect any more.

    Args:
        request: As it came; it is checked behind the middleware.
        effects: Of this request; gathering when `step.gathers`.
        dev: A response that breaks its declared schema is an error, not only a line in the log.

    Raises:
        BadResponse: The Step answered with something that is no response.
    """
    ctx = _context(step, trigger, request, effects, _named(step) if dev else None)
    response = None
    try:
        response = await _answered(step, trigger, ctx, request, dev)
        await effects.flush()
    finally:
        if response is None or not comes_in_parts(response.body):
            effects.close(_ANSWERED)
    return response


def read_input(trigger: AnyTrigger, data: bytes) -> Any:
    """
    What a run's input is for its handler: the checked message, or the accepted request.

    Raises:
        InvalidInput: It does not fit what the trigger declares.
    """
    if isinstance(trigger, HttpTrigger):
        return accept(trigger, load_request(data))
    return trigger.input.load(data) if trigger.input else load_plain(data)


def _context(
    step: AnyStep,
    trigger: AnyTrigger,
    input: Any,
    effects: Effects,
    named: NamedTopics | None,
    number: int = 1,
    rid: str = "",
) -> StepContext:
    if isinstance(trigger, QueueTrigger):
        info = TriggerInfo("queue", topic=trigger.topic, attempt=number)
    else:
        info = _request_info(trigger.method, trigger.path, number)
    about = {"step": step.name, "trace": effects.trace}
    logger = _log.bind(**about, run=rid) if rid else _log.bind(**about)
    return StepContext(
        effects, step=step.name, trigger=info, input=input, logger=logger, run_id=rid, named=named
    )


@lru_cache(maxsize=4096)
def _named(step: AnyStep) -> NamedTopics | None:
    """What its enqueues name; None when they name nothing, and so no flow is drawn of it."""
    listed = (*step.enqueues, *step.virtual_enqueues)
    return NamedTopics(enqueue.topic for enqueue in listed) if listed else None


@lru_cache(maxsize=4096)
def _request_info(method: str, path: str, number: int) -> TriggerInfo:
    return TriggerInfo("http", method=method, path=path, attempt=number)


# ---- calling


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of the user, and how it wants to be called."""

    fn: Callable[..., Any]
    takes: tuple[Argument, ...]
    is_async: bool


@lru_cache(maxsize=4096)
def _known(fn: Callable[..., Any]) -> _Function:
    return _Function(fn, arguments(fn), runs_on_loop(fn))


def _function(fn: Callable[..., Any]) -> _Function:
    try:
        return _known(fn)
    except TypeError:  # an object that is called, and has no hash
        return _known.__wrapped__(fn)


async def _holds(trigger: AnyTrigger, ctx: StepContext, input: Any) -> bool:
    if trigger.condition is None:
        return True
    condition = _function(trigger.condition)
    if not condition.is_async and "ctx" not in condition.takes:
        answer = condition.fn(
            *([input] if condition.takes else [])
        )  # a rule about its input: no thread for it
        return bool(await answer if isawaitable(answer) else answer)
    return bool(await _call(condition, ctx, input))


async def _called(step: AnyStep, trigger: AnyTrigger, ctx: StepContext, input: Any, data: bytes) -> Any:
    assert step.fn is not None
    if step.process:
        topic = trigger.route if isinstance(trigger, HttpTrigger) else trigger.topic
        return await executors.in_process(_in_child, _home(step), step.module, step.name, topic, data)
    return await _call(step, ctx, input)


async def _call(function: _Function | AnyStep, ctx: StepContext, input: Any) -> Any:
    assert function.fn is not None
    if function.is_async:
        return await function.fn(*[ctx if name == "ctx" else input for name in function.takes])
    face = SyncStepContext(ctx, Portal()) if "ctx" in function.takes else None
    answer = await executors.in_thread(
        function.fn, *[face if name == "ctx" else input for name in function.takes]
    )
    # A plain function that hands on a coroutine: functools.partial, a decorator, a lambda.
    return await answer if isawaitable(answer) else answer


# ---- in a process of its own


def _home(step: AnyStep) -> tuple[str, str] | None:
    """The project and file a child must open before it can import the Step; None: an ordinary module."""
    project = Project.current
    if project is None or step.module.split(".")[0] not in FOLDERS:
        return None
    return str(project.root), str(project.root / step.file)


def _in_child(home: tuple[str, str] | None, module: str, name: str, topic: str, data: bytes) -> Any:
    step = _step_in_child(home, module, name)
    trigger = next(t for t in step.triggers if topic == (t.route if isinstance(t, HttpTrigger) else t.topic))
    assert step.fn is not None
    return step.fn(*([read_input(trigger, data)] if step.takes else []))


@lru_cache(maxsize=256)
def _step_in_child(home: tuple[str, str] | None, module: str, name: str) -> AnyStep:
    if home is None:
        loaded = importlib.import_module(module)
    else:
        root = Path(home[0])
        if Project.current is None or Project.current.root != root:
            Project(root).open()
        assert Project.current is not None
        loaded = Project.current.load(Path(home[1]))
    return next(step for step in collect(loaded).steps if step.name == name)


# ---- answering


async def _answered(
    step: AnyStep, trigger: HttpTrigger, ctx: StepContext, request: Request[Any], dev: bool
) -> Response:
    if not trigger.middleware:
        return await _checked(step, trigger, ctx, request, dev)

    async def inner() -> Response:
        return await _checked(step, trigger, ctx, request, dev)

    def read(answer: Any) -> Response:
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, Mapping):
            return _envelope(step, answer, ctx, dev)
        raise BadResponse(
            step.name, f"with {_kind(answer)} from a middleware", remedy="return await next(), or a response"
        )

    return await through(trigger.middleware, ctx, request, inner, read)


async def _checked(
    step: AnyStep, trigger: HttpTrigger, ctx: StepContext, request: Request[Any], dev: bool
) -> Response:
    try:
        request = accept(trigger, request)
    except InvalidInput as error:
        return Response(
            {"error": "invalid input", "faults": [fault._asdict() for fault in error.faults]}, 400
        )
    except (RecursionError, ArithmeticError):
        too_far = {"path": "body", "message": "is nested too deeply, or has a number out of range"}
        return Response({"error": "invalid input", "faults": [too_far]}, 400)
    ctx.got(request)
    if trigger.condition is not None and not await _holds(trigger, ctx, request):
        said = f"the condition of {trigger.route} does not hold for this request"
        return Response({"error": said, "skipped": True}, 422)
    data = dump_request(request) if step.process else b""
    answer = await _called(step, trigger, ctx, request, data)
    response = _response(step, answer, ctx, dev)
    _check(step, trigger, response, ctx, dev)
    return response


def _response(step: AnyStep, answer: Any, ctx: StepContext, dev: bool) -> Response:
    if isinstance(answer, Response):
        return answer
    if step.form == "decorated":
        return Response(answer)
    if answer is None:
        return Response()
    if isinstance(answer, Mapping):
        return _envelope(step, answer, ctx, dev)
    raise BadResponse(
        step.name, f"with {_kind(answer)}", remedy='return {"status": 200, "body": …}, or a Response'
    )


def _envelope(step: AnyStep, answer: Mapping[Any, Any], ctx: StepContext, dev: bool) -> Response:
    unknown = [key for key in answer if key not in _ENVELOPE]
    if unknown and (dev or len(unknown) == len(answer)):
        raise BadResponse(
            step.name,
            f"with the key {unknown[0]!r}",
            remedy='a response is {"status": …, "body": …, "headers": …}: put data into "body".'
            + did_you_mean(str(unknown[0]), _ENVELOPE),
        )
    if unknown:
        ctx.logger.warning("the response has keys that say nothing", keys=[str(key) for key in unknown])
    status, headers = answer.get("status", 200), answer.get("headers")
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise BadResponse(step.name, f"with the status {status!r}", remedy="a status is a number, 100 to 599")
    if headers is not None and not isinstance(headers, Mapping):
        raise BadResponse(step.name, f"with {_kind(headers)} as headers", remedy="headers are a dict")
    return Response(answer.get("body"), int(status), headers)


def _check(step: AnyStep, trigger: HttpTrigger, response: Response, ctx: StepContext, dev: bool) -> None:
    """Hold a response against what its trigger declares for its status."""
    declared = trigger.responses.get(response.status)
    if declared is None or isinstance(response.body, bytes) or comes_in_parts(response.body):
        return
    body = response.body
    try:
        declared.validate(body if declared.typed else load_plain(json_of(body)), "body")
    except (InvalidInput, TypeError) as error:
        if dev:
            raise BadResponse(
                step.name, f"{response.status} with a body that is not what {trigger.route} declares. {error}"
            ) from error
        ctx.logger.error("the response is not what is declared", route=trigger.route, faults=str(error))


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
