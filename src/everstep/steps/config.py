"""Steps as files: a `config` and a `handler`, read into the same `Step` as a decorated function.

Keys may be written in camelCase or snake_case.  An unknown key is a warning
that names the nearest known one; a wrong value is a `ConfigError` that names
the file, the place, and what would do.  What comes later (cron, state and
stream triggers) is recognised and refused by name.

Floor 5.  May import: core.retry, durations, errors, on, reader, step, topic, triggers, validator.
Imported by: discover, users (http, api, queue, StepConfig).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Required, TypedDict

from everstep.core.retry import STEP_RETRY, Retry
from everstep.durations import show
from everstep.errors import ConfigError, did_you_mean
from everstep.steps.on import Trigger
from everstep.steps.reader import Reader, camel, shown
from everstep.steps.step import STEP_TIMEOUT, Enqueue, Step
from everstep.steps.topic import Topic
from everstep.steps.triggers import AnyTrigger, Condition, HttpTrigger, QueryParam, QueueTrigger
from everstep.steps.validator import Validator, validator_of

TRIGGERS = ("http", "queue", "cron", "state", "stream")
_LATER = ("cron", "state", "stream")
_ALIASES = {"api": "http"}

_STEP_KEYS = (
    *("name", "description", "type", "triggers", "enqueues", "virtual_enqueues", "virtual_subscribes"),
    *("flows", "include_files", "infrastructure", "middleware", "timeout", "effects", "process"),
)
_HTTP_KEYS = (
    *("type", "method", "path", "body_schema", "response_schema", "query_params", "query_schema"),
    *("middleware", "condition", "description"),
)
_QUEUE_KEYS = ("type", "topic", "input", "condition", "infrastructure", "config", "retry", "description")


class StepConfig(TypedDict, total=False):
    """The `config` of a Step file; a plain dict does as well, in camelCase or snake_case."""

    name: Required[str]
    triggers: Sequence[Any]
    type: str
    description: str
    enqueues: Sequence[Any]
    virtualEnqueues: Sequence[Any]
    virtual_enqueues: Sequence[Any]
    virtualSubscribes: Sequence[Any]
    virtual_subscribes: Sequence[Any]
    flows: Sequence[str]
    includeFiles: Sequence[str]
    include_files: Sequence[str]
    infrastructure: Mapping[str, Any]
    middleware: Sequence[Callable[..., Any]]
    timeout: Any
    effects: str
    process: bool


def http(
    method: str,
    path: str,
    options: Mapping[str, Any] | None = None,
    condition: Condition | None = None,
    **more: Any,
) -> dict[str, Any]:
    """
    A request, for the `triggers` of a Step file.

    >>> config = {"name": "CreateOrder", "triggers": [http("POST", "/orders", body_schema=Order)]}
    """
    return _helped({"type": "http", "method": method, "path": path}, options, condition, more)


api = http


def queue(
    topic: str | Topic[Any],
    options: Mapping[str, Any] | None = None,
    condition: Condition | None = None,
    **more: Any,
) -> dict[str, Any]:
    """
    A message on a topic, for the `triggers` of a Step file.

    >>> config = {"name": "AnalyzeOrder", "triggers": [queue("order.submitted", input=Order)]}
    """
    return _helped({"type": "queue", "topic": topic}, options, condition, more)


def _helped(
    trigger: dict[str, Any], options: Mapping[str, Any] | None, condition: Any, more: Mapping[str, Any]
) -> dict[str, Any]:
    given = {"condition": condition} if condition is not None else {}
    return {**trigger, **(options or {}), **more, **given}


def read_config(
    config: Any,
    handler: Callable[..., Any] | None,
    *,
    file: str = "",
    module: str = "",
) -> tuple[Step[Any, Any], list[str]]:
    """
    Read a config and its handler into a Step, and what to warn about.

    Raises:
        ConfigError: Something in it cannot be used.

    >>> step, warnings = read_config({"name": "Hello", "triggers": [http("GET", "/hello")]}, handler)
    """
    reader = _StepReader(file)
    try:
        return reader.step(config, handler, module), reader.warnings
    except ConfigError as error:
        if error.file is not None or not file:
            raise
        raise ConfigError(str(error), file=file) from error


@dataclass(frozen=True, slots=True)
class _Infrastructure:
    """How messages are handled, as far as it was said.  Times in microseconds."""

    timeout: int | None = None
    max_retries: int | None = None
    concurrency: int | None = None
    visibility_timeout: int | None = None
    delay: int | None = None
    fifo: bool | None = None

    def over(self, base: _Infrastructure) -> _Infrastructure:
        """This, and *base* where this says nothing."""
        said = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}
        return replace(base, **said)


class _StepReader(Reader):
    """Reads one config into a Step."""

    # ---- the Step

    def step(self, config: Any, handler: Callable[..., Any] | None, module: str) -> Step[Any, Any]:
        if not isinstance(config, Mapping):
            self.refuse(f"config is {shown(config)}", 'it is a dict such as {"name": …, "triggers": […]}')
        kind = config.get("type")
        if "triggers" not in config and kind in ("api", "event", "cron"):
            self._refuse_old(kind)
        if kind not in (None, "noop"):
            self.warn(f"type {kind!r} says nothing here and is ignored; the triggers say what runs a Step")
        known = self.known(config, _STEP_KEYS, "config")
        name = self.text(known, "name", "config", required=True)
        shared = self.infrastructure(known.get("infrastructure"), "infrastructure")
        triggers = () if kind == "noop" else self.triggers(known, shared, name)
        if not triggers:
            if handler is not None:
                self.warn(f"'{name}' has no trigger, so its handler is never called")
            handler = None
        elif handler is None:
            self.refuse(f"'{name}' has triggers and no handler", "write async def handler(input, ctx): …")
        code = getattr(inspect.unwrap(handler), "__code__", None) if handler else None
        timeout = self.duration(known, "timeout", "config")
        step: Step[Any, Any] = Step(
            name=name,
            description=self.text(known, "description", "config"),
            triggers=tuple(triggers),
            enqueues=self.topics(known, "enqueues"),
            virtual_enqueues=self.topics(known, "virtual_enqueues"),
            virtual_subscribes=tuple(e.topic for e in self.topics(known, "virtual_subscribes")),
            flows=self.texts(known, "flows"),
            include_files=self.texts(known, "include_files"),
            fn=handler,
            form="file",
            effects=self.word(known, "effects", ("live", "on_success"), "live"),
            timeout=timeout or shared.timeout or STEP_TIMEOUT,
            process=self.flag(known, "process"),
            file=self.file,
            line=code.co_firstlineno if code else 0,
            module=module,
        )
        self.warnings += warnings_of(step)
        return step

    def _refuse_old(self, kind: str) -> NoReturn:
        now = {
            "api": '{"type": "http", "method": …, "path": …}',
            "event": '{"type": "queue", "topic": …}',
            "cron": '{"type": "cron", "expression": …}',
        }
        self.refuse(
            f"this config is of an older Motia (type {kind!r}, no triggers)",
            f'write "triggers": [{now[kind]}], and "enqueues" for "emits"',
        )

    def triggers(self, config: Mapping[str, Any], shared: _Infrastructure, name: str) -> list[AnyTrigger]:
        listed = config.get("triggers")
        if listed is None:
            instead = 'write "triggers": [], or "type": "noop", if that is meant'
            self.missing(f"'{name}' has no triggers", "triggers", "config", instead)
        if isinstance(listed, Mapping | str | Trigger) or not isinstance(listed, Iterable):
            self.refuse(f"triggers is {shown(listed)}", "it is a list of triggers")
        around = tuple(config.get("middleware") or ())
        found = []
        for number, trigger in enumerate(listed, 1):
            try:
                found.append(self.trigger(trigger, f"trigger {number}", shared, around))
            except ConfigError as error:
                if error.file is not None:
                    raise
                self.refuse(f"trigger {number}: {error}")
        return found

    def trigger(
        self, trigger: Any, at: str, shared: _Infrastructure, around: tuple[Callable[..., Any], ...]
    ) -> AnyTrigger:
        if isinstance(trigger, Trigger):
            trigger = trigger.spec
        if isinstance(trigger, HttpTrigger):
            return replace(trigger, middleware=around + trigger.middleware)
        if isinstance(trigger, QueueTrigger):
            return trigger
        if not isinstance(trigger, Mapping):
            self.refuse(
                f"{at} is {shown(trigger)}", 'a trigger is a dict such as {"type": "queue", "topic": …}'
            )
        kind = trigger.get("type")
        kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else kind
        if kind == "http":
            return self.http(trigger, at, around)
        if kind == "queue":
            return self.queue(trigger, at, shared)
        if kind in _LATER:
            self.refuse(
                f"{at} is {kind!r}, and {kind} triggers come in a later release",
                "until then a Step runs by http and queue",
            )
        near = " Did you mean 'queue'?" if kind == "event" else ""
        near = near or (did_you_mean(kind, (*TRIGGERS, *_ALIASES)) if isinstance(kind, str) else "")
        what = f"{at} has no type" if kind is None else f"{at} is {shown(kind)}"
        self.refuse(what, "triggers are http and queue", near)

    def http(
        self, trigger: Mapping[str, Any], at: str, around: tuple[Callable[..., Any], ...]
    ) -> HttpTrigger:
        known = self.known(trigger, _HTTP_KEYS, at)
        middleware = known.get("middleware") or ()
        if callable(middleware):
            middleware = (middleware,)
        for layer in (*around, *middleware):
            if not callable(layer):
                self.refuse(f"{at}: middleware holds {shown(layer)}", "each is a function (req, ctx, next)")
        return HttpTrigger(
            method=self.text(known, "method", at, required=True).upper(),
            path=self.text(known, "path", at, required=True),
            body=self.schema(known, "body_schema", at),
            query=self.query(known, at),
            query_schema=self.schema(known, "query_schema", at),
            responses=self.responses(known, at),
            condition=self.function(known, "condition", at),
            middleware=(*around, *middleware),
        )

    def queue(self, trigger: Mapping[str, Any], at: str, shared: _Infrastructure) -> QueueTrigger:
        known = self.known(trigger, _QUEUE_KEYS, at)
        own = self.infrastructure(known.get("infrastructure"), f"{at}: infrastructure")
        flat = self.settings(known.get("config"), f"{at}: config")
        said = flat.over(own).over(shared)
        topic = known.get("topic")
        declared = self.schema(known, "input", at)
        if isinstance(topic, Topic):
            declared = declared or topic.validator
            known["topic"] = topic.name
        return QueueTrigger(
            topic=self.text(known, "topic", at, required=True),
            input=declared,
            condition=self.function(known, "condition", at),
            retry=self.retry(known.get("retry"), said, at),
            timeout=said.timeout,
            concurrency=said.concurrency,
            fifo=bool(said.fifo),
            delay=said.delay or 0,
            visibility_timeout=said.visibility_timeout,
        )

    def retry(self, given: Any, said: _Infrastructure, at: str) -> Retry:
        if given is not None and not isinstance(given, Retry):
            self.refuse(f"{at}: retry is {shown(given)}", "it is a Retry, such as Retry(attempts=5)")
        if given is not None or said.max_retries is None:
            return given or STEP_RETRY
        return replace(STEP_RETRY, attempts=said.max_retries + 1)

    # ---- infrastructure

    def infrastructure(self, given: Any, at: str) -> _Infrastructure:
        """``{"handler": {"timeout": …}, "queue": {"maxRetries": …}}``."""
        if given is None:
            return _Infrastructure()
        parts = self.known(self.mapping(given, at), ("handler", "queue"), at)
        handler = self.mapping(parts.get("handler") or {}, f"{at}.handler")
        known = self.known(handler, ("timeout", "ram", "cpu"), f"{at}.handler")
        timeout = self.duration(known, "timeout", f"{at}.handler")
        return replace(self.settings(parts.get("queue"), f"{at}.queue"), timeout=timeout)

    def settings(self, given: Any, at: str) -> _Infrastructure:
        """The flat form, of ``infrastructure.queue`` and of a trigger's ``config``."""
        if given is None:
            return _Infrastructure()
        keys = ("type", "max_retries", "concurrency", "visibility_timeout", "delay_seconds", "timeout")
        known = self.known(self.mapping(given, at), keys, at)
        kind = self.word(known, "type", ("standard", "fifo"), "")
        return _Infrastructure(
            timeout=self.duration(known, "timeout", at),
            max_retries=self.whole(known, "max_retries", at, least=0),
            concurrency=self.whole(known, "concurrency", at, least=1),
            visibility_timeout=self.duration(known, "visibility_timeout", at),
            delay=self.duration(known, "delay_seconds", at, least=0),
            fifo=kind == "fifo" if kind else None,
        )

    # ---- parts of a trigger

    def topics(self, given: Mapping[str, Any], key: str) -> tuple[Enqueue, ...]:
        value = given.get(key)
        if value is None:
            return ()
        if isinstance(value, str | Mapping | Topic) or not isinstance(value, Iterable):
            self.refuse(f"{camel(key)} is {shown(value)}", "it is a list of topics")
        return tuple(self.topic(topic, camel(key)) for topic in value)

    def topic(self, given: Any, at: str) -> Enqueue:
        if isinstance(given, Topic):
            return Enqueue(given.name)
        if isinstance(given, str) and given:
            return Enqueue(given)
        if isinstance(given, Mapping):
            known = self.known(given, ("topic", "label", "conditional"), at)
            topic = self.text(known, "topic", at, required=True)
            return Enqueue(topic, self.text(known, "label", at), self.flag(known, "conditional"))
        self.refuse(f"{at} holds {shown(given)}", 'a topic is text, or {"topic": …, "label": …}')

    def schema(self, given: Mapping[str, Any], key: str, at: str) -> Validator | None:
        declared = given.get(key)
        if declared is None:
            return None
        try:
            return validator_of(declared)
        except ConfigError as error:
            self.refuse(f"{at}: {camel(key)} {error}")

    def responses(self, given: Mapping[str, Any], at: str) -> dict[int, Validator]:
        declared = given.get("response_schema")
        if declared is None:
            return {}
        if not isinstance(declared, Mapping):
            self.refuse(f"{at}: responseSchema is {shown(declared)}", "it is a dict such as {200: Order}")
        found = {}
        for status, schema in declared.items():
            if not str(status).isdigit():
                self.refuse(f"{at}: responseSchema has the status {shown(status)}", "a status is a number")
            checked = self.schema({"response_schema": schema}, "response_schema", at)
            if checked is not None:
                found[int(status)] = checked
        return found

    def query(self, given: Mapping[str, Any], at: str) -> tuple[QueryParam, ...]:
        declared = given.get("query_params") or ()
        if isinstance(declared, str | Mapping) or not isinstance(declared, Iterable):
            self.refuse(f"{at}: queryParams is {shown(declared)}", 'it is a list such as [{"name": "page"}]')
        found = []
        for param in declared:
            given = {"name": param} if isinstance(param, str) else self.mapping(param, f"{at}: queryParams")
            known = self.known(given, ("name", "description"), at)
            name = self.text(known, "name", f"{at}: queryParams", required=True)
            found.append(QueryParam(name, self.text(known, "description", at)))
        return tuple(found)


def warnings_of(step: Step[Any, Any]) -> list[str]:
    """What is allowed in a Step and is probably not meant."""
    said = []
    for trigger in step.queues:
        hidden, longest = trigger.visibility_timeout, trigger.timeout or step.timeout
        if hidden is not None and hidden < longest:
            said.append(
                f"visibilityTimeout {show(hidden / 1e6)} is shorter than the handler's timeout "
                f"{show(longest / 1e6)}; it changes nothing, for a message is leased while it is handled"
            )
    policies = {t.retry for t in step.queues}
    if len(policies) > 1:
        said.append(f"its triggers retry differently; {step.retry.attempts} attempts hold for all of them")
    return [f"{step.file}: '{step.name}': {text}" for text in said]
