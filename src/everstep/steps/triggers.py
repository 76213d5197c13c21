"""What makes a Step run: a request, or a message.

A trigger is a plain value: what to listen for, what must hold of the input, how
often to try.  `on` (in `steps.on`) and the config of a file both end here.

Floor 5.  May import: core.retry, validator, errors.  Imported by: steps, http.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from everstep.core.retry import STEP_RETRY, Retry
from everstep.errors import ConfigError, did_you_mean
from everstep.steps.validator import Validator

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

Condition = Callable[..., Any]
"""``(input, ctx)`` or ``(input)``, sync or async; what it answers is read as true or false."""

Middleware = Callable[..., Any]

_PARAM = re.compile(r":([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class QueryParam:
    """A query parameter a route declares, for its documentation."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """A request to one method and path."""

    type: ClassVar[str] = "http"

    method: str
    path: str
    body: Validator | None = None
    query: tuple[QueryParam, ...] = ()
    query_schema: Validator | None = None
    responses: Mapping[int, Validator] = field(default_factory=dict)
    condition: Condition | None = None
    middleware: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            near = did_you_mean(self.method, METHODS)
            raise ConfigError(f"method is {self.method!r}; methods are {', '.join(METHODS)}.{near}")
        check_path(self.path)

    @property
    def route(self) -> str:
        """``"POST /orders/:id"``: what people call it, and the topic of a run it made."""
        return f"{self.method} {self.path}"

    @property
    def shape(self) -> tuple[str, str]:
        """Equal for two routes that the same request would match."""
        return self.method, _PARAM.sub(":", self.path.rstrip("/") or "/")

    @property
    def params(self) -> tuple[str, ...]:
        """The names in the path, in order."""
        return tuple(_PARAM.findall(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTrigger:
    """A message on one topic.  Times are in microseconds; `timeout` None: the Step's."""

    type: ClassVar[str] = "queue"

    topic: str
    input: Validator | None = None
    condition: Condition | None = None
    retry: Retry = STEP_RETRY
    timeout: int | None = None
    concurrency: int | None = None
    fifo: bool = False
    delay: int = 0
    visibility_timeout: int | None = None

    def __post_init__(self) -> None:
        if not self.topic:
            raise ConfigError("topic is empty; name what to listen for, such as 'order.submitted'")


AnyTrigger = HttpTrigger | QueueTrigger


def check_path(path: str) -> None:
    """
    Refuse a path no request could match.

    Raises:
        ConfigError: It does not begin with a slash, holds a blank or a query, or names a parameter twice.
    """
    if not path.startswith("/"):
        raise ConfigError(f"path is {path!r}; a path begins with a slash: {'/' + path!r}")
    if re.search(r"[\s?#]", path):
        raise ConfigError(
            f"path is {path!r}; a path holds no blank, '?' or '#'. Declare a query with queryParams"
        )
    if "{" in path:
        instead = re.sub(r"\{(\w+)[^}]*\}", r":\1", path)
        raise ConfigError(f"path is {path!r}; parameters are written with a colon: {instead!r}")
    for part in path.split("/"):
        if ":" in part and not _PARAM.fullmatch(part):
            raise ConfigError(f"path is {path!r}; a parameter is a whole part of it, such as '/orders/:id'")
    names = _PARAM.findall(path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"path is {path!r}; the parameter ':{twice[0]}' is there twice")
