"""What a request is told when it is not served: a status and a small JSON object.

Every refusal has the form ``{"error": "what happened", ...}``; one that names
faults of the input lists them all as ``{"path", "message"}``.

Floor 6.  May import: steps.validator.  Imported by: http.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from everstep.steps.validator import InvalidInput


class Refusal(Exception):
    """A request that ends here, with this status, body and headers."""

    def __init__(
        self, status: int, error: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(error)
        self.status = status
        self.body: dict[str, Any] = {"error": error, **more}
        self.headers = dict(headers or {})


def not_found(path: str) -> Refusal:
    """No Step has this path."""
    return Refusal(404, "not found", path=path)


def not_allowed(method: str, allowed: Iterable[str]) -> Refusal:
    """The path is there, the method is not."""
    methods = ", ".join(sorted(allowed))
    return Refusal(405, f"{method} is not allowed here", headers={"allow": methods}, allow=methods)


def invalid(faults: Iterable[Mapping[str, str]]) -> Refusal:
    """The input breaks its schema, at each of these paths."""
    return Refusal(400, "invalid input", faults=list(faults))


def misfit(error: InvalidInput) -> Refusal:
    """The input is not what the Step declares."""
    return invalid({"path": fault.path, "message": fault.message} for fault in error.faults)


def malformed(message: str) -> Refusal:
    """The body cannot be read as what its content type says."""
    return invalid([{"path": "body", "message": message}])


def too_large(limit: int) -> Refusal:
    """The body is longer than settings.body_limit."""
    return Refusal(413, f"the body is longer than {limit} bytes", limit=limit)


def unsupported(content_type: str, expected: str) -> Refusal:
    """The Step declares a body and this content type cannot carry it."""
    return Refusal(415, f"content type '{content_type}' is not supported here", expected=expected)


def busy(error: str, *, after: int = 1) -> Refusal:
    """Not now; the client may come again after so many seconds."""
    return Refusal(503, error, headers={"retry-after": str(after)})


def unavailable() -> Refusal:
    """The store takes no writes now; nothing was changed."""
    return busy("the store is not available; nothing was changed, try again", after=2)
