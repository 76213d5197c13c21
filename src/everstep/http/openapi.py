"""The Steps of an application as an OpenAPI 3.1 document.

What a Step declares is written as it is: its models and schemas become
components, each by its name.  What everstep itself may answer (400, 413, 503,
…) is said of every route it applies to, and ``default`` says the rest: a Step
may answer with any status.

Floor 6.  May import: steps.step, steps.triggers, steps.validator, routes.  Imported by: http.site.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from everstep.http.routes import pattern
from everstep.steps.step import Step
from everstep.steps.triggers import HttpTrigger
from everstep.steps.validator import InvalidInput, Validator

Json = dict[str, Any]

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HERE = "#/components/schemas/"
_DEFS = "#/$defs/"
_LITERAL = frozenset({"const", "default", "enum", "example", "examples"})  # data, not schemas
_ERROR: Json = {
    "title": "Error",
    "type": "object",
    "properties": {"error": {"type": "string"}, "trace_id": {"type": "string"}},
    "required": ["error"],
}
_INVALID: Json = {
    "title": "InvalidInput",
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
                "required": ["path", "message"],
            },
        },
    },
    "required": ["error"],
}
_SEGMENT: Json = {"type": "string", "minLength": 1, "pattern": "^[^\\u0000]+$"}
_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request is served once; again it gets the same response.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


def document(steps: Iterable[Step[Any, Any]], *, title: str = "everstep", version: str = "0.1.0") -> Json:
    """The OpenAPI document of all Steps with an http trigger."""
    components = Components()
    paths: dict[str, Json] = {}
    for step in steps:
        for number, trigger in enumerate(step.routes):
            operation = _operation(step, trigger, components)
            operation["operationId"] = step.name if number == 0 else f"{step.name}-{number + 1}"
            paths.setdefault(pattern(trigger.path), {})[trigger.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components.schemas},
    }


class Components:
    """Schemas by name: equal ones are kept once, others of the same name get a number."""

    def __init__(self) -> None:
        self.schemas: dict[str, Json] = {}
        self._texts: dict[str, str] = {}

    def add(self, schema: Mapping[str, Any], name: str) -> Json:
        """Keep a schema and what it defines; answers what to write in its place."""
        whole = dict(schema)
        found = set(_references(whole))
        if "$id" in whole or not (found or "title" in whole):
            return whole  # complete where it stands: its references, if any, are to itself
        defs: Mapping[str, Any] = whole.pop("$defs", {})
        parts = {**defs, "#": whole}
        # A reference to something else than a definition is to a place in this very document.
        alone = all(reference.startswith(_DEFS) for reference in found)
        names = {
            part: self._name(
                str(whole.get("title") or name) if part == "#" else part,
                _text(_reachable(part, parts) if alone else parts),
            )
            for part in parts
        }
        for part, own in names.items():
            self.schemas[own] = _moved(parts[part], names)
        if set(whole) == {"$ref"}:  # a model that holds itself is only named here
            del self.schemas[names["#"]]
            return {"$ref": _moved(whole, names)["$ref"]}
        return {"$ref": _HERE + names["#"]}

    def _name(self, wanted: str, text: str) -> str:
        clean = re.sub(r"[^A-Za-z0-9._-]", "_", wanted)
        own, number = clean, 1
        while self._texts.setdefault(own, text) != text:
            number += 1
            own = f"{clean}{number}"
        return own


def _text(parts: Mapping[str, Any]) -> str:
    # Under its own name or as the root, a schema with the same parts is the same.
    return json.dumps(sorted(json.dumps(part, sort_keys=True, default=str) for part in parts.values()))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str) and value.startswith("#"):
                yield value
            elif key not in _LITERAL:
                yield from _references(value)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _references(item)


def _reachable(part: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = [part]
    while waiting:
        name = waiting.pop()
        if name not in found and name in parts:
            found[name] = parts[name]
            waiting += [reference.removeprefix(_DEFS) for reference in _references(parts[name])]
    return found


def _moved(node: Any, names: Mapping[str, str]) -> Any:
    """A schema whose references lead to where its parts are now."""
    if isinstance(node, Mapping):
        return {
            key: value
            if key in _LITERAL
            else _new_place(value, names)
            if isinstance(value, str) and value.startswith("#") and key not in ("title", "description")
            else _moved(value, names)
            for key, value in node.items()
        }
    return [_moved(item, names) for item in node] if isinstance(node, list | tuple) else node


def _new_place(reference: str, names: Mapping[str, str]) -> str:
    if reference.startswith(_DEFS):
        name, slash, rest = reference.removeprefix(_DEFS).partition("/")
        return f"{_HERE}{names.get(name, name)}{slash}{rest}"
    return f"{_HERE}{names['#']}{reference[1:]}"


# ---- one operation


def _operation(step: Step[Any, Any], trigger: HttpTrigger, components: Components) -> Json:
    operation: Json = {"summary": step.description or step.name}
    if step.flows:
        operation["tags"] = list(step.flows)
    parameters = [*_path_parameters(trigger), *_query_parameters(trigger)]
    if trigger.method in UNSAFE:
        parameters.append(_KEY)
    if parameters:
        operation["parameters"] = parameters
    if trigger.body is not None:
        operation["requestBody"] = _body(trigger.body, f"{step.name}Body", components)
    operation["responses"] = _responses(step, trigger, components)
    return operation


def _path_parameters(trigger: HttpTrigger) -> Iterator[Json]:
    for name in trigger.params:
        yield {"name": name, "in": "path", "required": True, "schema": _SEGMENT}


def _query_parameters(trigger: HttpTrigger) -> Iterator[Json]:
    schema = trigger.query_schema.json_schema() if trigger.query_schema else {}
    properties: Mapping[str, Any] = schema.get("properties", {})
    told = {q.name: q.description for q in trigger.query}
    required = schema.get("required", ())
    for name in dict.fromkeys([*properties, *told]):
        # A parameter stands alone, so what its schema refers to stands in it.
        own = _inlined(properties.get(name, {"type": "string"}), schema.get("$defs", {}))
        parameter: Json = {"name": name, "in": "query", "required": name in required, "schema": own}
        if about := told.get(name) or own.get("description"):
            parameter["description"] = about
        yield parameter


def _inlined(node: Any, defs: Mapping[str, Any], depth: int = 0) -> Any:
    if isinstance(node, Mapping):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith(_DEFS):
            if depth > 20:
                return {}
            inner = _inlined(defs.get(reference.removeprefix(_DEFS), {}), defs, depth + 1)
            return {**inner, **{key: value for key, value in node.items() if key != "$ref"}}
        return {key: _inlined(value, defs, depth) for key, value in node.items()}
    return [_inlined(item, defs, depth) for item in node] if isinstance(node, list | tuple) else node


def _body(validator: Validator, name: str, components: Components) -> Json:
    kind = "application/json"
    if validator.source is bytes:
        return {"content": {"application/octet-stream": {"schema": {}}}}
    if validator.source is str:
        kind = "text/plain"
    schema = components.add(validator.json_schema(), name)
    return {"required": not _takes_none(validator), "content": {kind: {"schema": schema}}}


def _takes_none(validator: Validator) -> bool:
    try:
        validator.validate(None)
    except InvalidInput:
        return False
    return True


def _responses(step: Step[Any, Any], trigger: HttpTrigger, components: Components) -> Json:
    responses: Json = {}
    for status, validator in trigger.responses.items():
        schema = components.add(validator.json_schema(), f"{step.name}{status}")
        responses[str(status)] = _response(status, schema)
    if not any(status < 300 for status in trigger.responses):
        responses["200"] = {"description": "What the Step answers."}
    for status in _ours(trigger):
        components.schemas.setdefault("Error", _ERROR)
        own: Json = {"$ref": _HERE + "Error"}
        if status == 400:
            components.schemas.setdefault("InvalidInput", _INVALID)
            own = {"$ref": _HERE + "InvalidInput"}
        declared = responses.get(str(status))
        # The Step may use the status too; what it then says is its own.
        theirs = declared["content"]["application/json"]["schema"] if declared else {}
        responses[str(status)] = _response(status, {"anyOf": [own, theirs]})
    responses["default"] = {"description": "Any other status the Step answers with."}
    return dict(sorted(responses.items()))


def _ours(trigger: HttpTrigger) -> Iterator[int]:
    """The statuses everstep itself answers a request to this route with."""
    if trigger.body or trigger.query_schema or trigger.method in UNSAFE:
        yield 400
    if trigger.params:
        yield 404
    if trigger.method in UNSAFE:
        yield 409
        yield 413
    if trigger.body:
        yield 415
    if trigger.method in UNSAFE or trigger.condition:
        yield 422
    yield from (500, 503, 504)


def _response(status: int, schema: Json) -> Json:
    return {"description": _phrase(status), "content": {"application/json": {"schema": schema}}}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "What the Step answers."
