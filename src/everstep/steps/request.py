"""What a request brings to a Step, and what the Step answers.

A `Request` is read by attribute (``req.body``), and just as well in Motia's
words: ``req.get("body")``, ``req["pathParams"]``, ``req.queryParams``.  The
HTTP room fills one with plain data; `accept` makes it what the trigger
declared, or names everything that is wrong with it.

Floor 5.  May import: triggers, validator, errors.  Imported by: steps, http.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypeVar

from everstep.errors import NotEncodable, did_you_mean
from everstep.steps.triggers import HttpTrigger
from everstep.steps.validator import PLAIN, InvalidInput, Validator, plain_json, plain_value

T = TypeVar("T")


class Values(Mapping[str, str]):
    """
    Names and values as a query or headers carry them: a name may come several times.

    ``values["tag"]`` is the last one given, ``values.getlist("tag")`` all of them.
    """

    __slots__ = ("_all", "_folded")

    def __init__(
        self, items: Mapping[str, str] | Iterable[tuple[str, str]] = (), *, fold: bool = False
    ) -> None:
        """
        Args:
            items: Pairs in the order they came.
            fold: Names are the same in upper and lower case, as those of headers are.
        """
        self._folded = fold
        self._all: dict[str, list[str]] = {}
        for name, value in items.items() if isinstance(items, Mapping) else items:
            self._all.setdefault(self._key(name), []).append(value)

    def _key(self, name: str) -> str:
        return name.lower() if self._folded else name

    def __getitem__(self, name: str) -> str:
        return self._all[self._key(name)][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._all

    def __repr__(self) -> str:
        return f"Values({self.multi()!r})"

    def getlist(self, name: str) -> list[str]:
        """Every value of a name, in order; empty when it did not come."""
        return list(self._all.get(self._key(name), ()))

    def multi(self) -> dict[str, str | list[str]]:
        """A plain dict: one value as text, several as a list."""
        return {name: values[0] if len(values) == 1 else values for name, values in self._all.items()}

    def pairs(self) -> list[tuple[str, str]]:
        """All names and values; those of one name stay in order."""
        return [(name, value) for name, values in self._all.items() for value in values]


def _headers() -> Values:
    return Values(fold=True)


@dataclass
class Request(Generic[T]):
    """
    One HTTP request.  `body` is what the trigger declared, or the plain parsed data.

    `query` and `headers` keep repeated names (``req.query.getlist("tag")``);
    `parsed_query` is the query as its declared schema reads it, else None.
    """

    body: T
    path_params: Mapping[str, str] = field(default_factory=dict)
    query: Values = field(default_factory=Values)
    headers: Values = field(default_factory=_headers)
    cookies: Mapping[str, str] = field(default_factory=dict)
    raw_body: bytes = b""
    method: str = "GET"
    path: str = ""
    parsed_query: Any = None

    @property
    def pathParams(self) -> Mapping[str, str]:
        """`path_params`, in Motia's word."""
        return self.path_params

    @property
    def queryParams(self) -> dict[str, str | list[str]]:
        """The query as a dict; a name that came several times has a list."""
        return self.query.multi()

    query_params = queryParams

    @property
    def rawBody(self) -> bytes:
        """`raw_body`, in Motia's word."""
        return self.raw_body

    if not TYPE_CHECKING:  # a checker shall refuse names that are not there

        def __getattr__(self, name: str) -> Any:
            hint = "" if name.startswith("__") else did_you_mean(name, _READABLE)
            raise AttributeError(f"a request has no {name!r}.{hint}", name=name, obj=self)

    def __getitem__(self, name: str) -> Any:
        if name not in _READABLE and name not in self.__dict__:
            raise KeyError(f"a request has no {name!r}.{did_you_mean(name, _READABLE)}")
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        """Hang something onto the request, as a middleware does for the handler."""
        setattr(self, name, value)

    def get(self, name: str, default: Any = None) -> Any:
        """A part by its name; *default* when there is no such part, or nothing in it."""
        known = name in _READABLE or name in self.__dict__
        value = getattr(self, name) if known else None
        return default if value is None else value


_READABLE = (
    *("body", "path_params", "query", "headers", "cookies", "raw_body", "method", "path", "parsed_query"),
    *("pathParams", "queryParams", "query_params", "rawBody"),
)


@dataclass
class Response:
    """What a Step answers a request with.  `body` may be data, a model, text, bytes or an async iterator."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] | None = None


def accept(trigger: HttpTrigger, request: Request[Any]) -> Request[Any]:
    """
    The request with body and query as the trigger declares them.

    Raises:
        InvalidInput: Body or query do not fit; the faults of both are named.
    """
    if trigger.body is None and trigger.query_schema is None:
        return request
    accepted = copy(request)  # with whatever a middleware hung onto it
    faults: list[tuple[str, str]] = []
    if trigger.body:
        try:
            accepted.body = trigger.body.validate(request.body, "body")
        except InvalidInput as error:
            faults += error.faults
    if trigger.query_schema:
        try:
            given = _by_schema(trigger.query_schema, request.query)
            accepted.parsed_query = trigger.query_schema.validate(given, "query")
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    return accepted


def _by_schema(validator: Validator, query: Values) -> dict[str, Any]:
    """A query says everything in text; a schema may want lists, and a JSON Schema numbers."""
    properties: Mapping[str, Any] = validator.json_schema().get("properties", {})
    return {
        name: _read(query.getlist(name), properties.get(name) or {}, plain=not validator.typed)
        for name in query
    }


def _read(values: list[str], schema: Mapping[str, Any], *, plain: bool) -> Any:
    if schema.get("type") == "array":
        items = schema.get("items") or {}
        return [_read([value], items, plain=plain) for value in values]
    text = values[-1]
    if plain and schema.get("type") in ("integer", "number", "boolean"):
        try:
            return PLAIN.decode(text.encode())
        except ValueError:
            return text  # the schema will say what it is not
    return text


# ---- as bytes: an idempotent request is the input of a run, and its response the output


def dump_request(request: Request[Any]) -> bytes:
    """
    A request as it came (before `accept`), for the input of a run.

    Raises:
        NotEncodable: Its body holds what JSON cannot, such as an uploaded file.
    """
    facts = {
        "method": request.method,
        "path": request.path,
        "path_params": dict(request.path_params),
        "query": [list(pair) for pair in request.query.pairs()],
        "headers": [list(pair) for pair in request.headers.pairs()],
        "cookies": dict(request.cookies),
        "raw": b64encode(request.raw_body).decode(),
    }
    if not isinstance(request.body, bytes):
        facts["body"] = plain_value(request.body, "the body of an idempotent request")
    return plain_json(facts)


def load_request(data: bytes) -> Request[Any]:
    """The request `dump_request` wrote."""
    facts: dict[str, Any] = PLAIN.decode(data)
    raw = b64decode(facts["raw"])
    return Request(
        body=facts.get("body", raw),
        path_params=facts["path_params"],
        query=Values((name, value) for name, value in facts["query"]),
        headers=Values(((name, value) for name, value in facts["headers"]), fold=True),
        cookies=facts["cookies"],
        raw_body=raw,
        method=facts["method"],
        path=facts["path"],
    )


def json_of(body: Any, where: str = "the response") -> bytes:
    """
    The JSON of a response's body, in which models may stand anywhere; nan is null.

    Raises:
        NotEncodable: It holds what JSON cannot, or comes in parts.
    """
    try:
        return to_json(body, inf_nan_mode="null", fallback=_fallback)
    except (PydanticSerializationError, TypeError) as error:
        raise NotEncodable(where, found=f"a {type(body).__name__}", why=str(error)) from error


def _fallback(value: Any) -> Any:
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def comes_in_parts(body: Any) -> bool:
    """Whether a body is a stream, which can be sent only once."""
    return isinstance(body, AsyncIterable) or hasattr(body, "__next__") or hasattr(body, "body_iterator")


def dump_response(response: Response) -> bytes:
    """
    A response as the output of a run, so that it can be given again.

    Raises:
        NotEncodable: Its body is a stream or a file, which can be sent only once.
    """
    body, where = response.body, "the response of an idempotent request"
    facts: dict[str, Any] = {"status": response.status, "headers": dict(response.headers or {})}
    if isinstance(body, bytes):
        facts["raw"] = b64encode(body).decode()
    elif isinstance(body, Path) or comes_in_parts(body) or hasattr(body, "raw_headers"):
        raise NotEncodable(where, found=f"a {type(body).__name__}", why="it can be sent only once")
    else:
        facts["body"] = from_json(json_of(body, where))
    return plain_json(facts)


def load_response(data: bytes) -> Response:
    """The response `dump_response` wrote."""
    facts: dict[str, Any] = PLAIN.decode(data)
    body = b64decode(facts["raw"]) if "raw" in facts else facts["body"]
    return Response(body, facts["status"], facts["headers"] or None)
