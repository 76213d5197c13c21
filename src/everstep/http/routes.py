"""Find what answers a method and a path.

A path is a list of segments; `:name` matches any one that is not empty.  A
fixed segment comes before a parameter, whoever was added first, and a route
whose method does not fit does not hide one behind it that does.

Floor 6.  May import: errors.  Imported by: http.site, http.openapi.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote, unquote

from everstep.errors import ConfigError

T = TypeVar("T")

_NOTHING: Mapping[str, str] = {}


@dataclass(slots=True, frozen=True)
class Route(Generic[T]):
    """One method and path, and what answers there."""

    method: str
    path: str
    target: T
    source: str = ""
    names: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Found(Generic[T]):
    """A route that answers a request, with the values of its parameters."""

    route: Route[T]
    params: Mapping[str, str]


@dataclass(slots=True)
class _Node(Generic[T]):
    fixed: dict[str, _Node[T]] = field(default_factory=dict)
    parameter: _Node[T] | None = None
    routes: dict[str, Route[T]] = field(default_factory=dict)


class Router(Generic[T]):
    """All routes of an application."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._plain: dict[str, dict[str, Found[T]]] = {}

    def add(self, method: str, path: str, target: T, *, source: str = "", keep: bool = False) -> None:
        """
        Enter a route.

        Args:
            method: In capitals; HEAD is answered by GET when nobody takes it.
            path: Such as ``/orders/:orderId``; other parameter names do not make another route,
                and a slash at its end makes no difference.
            target: What answers.
            source: Where it was written, for messages.
            keep: Leave a route that is already there, instead of refusing this one.

        Raises:
            ConfigError: The route is taken.
        """
        segments = segments_of(path)
        names = tuple(s[1:] for s in segments if s.startswith(":"))
        node = self._root
        for segment in segments:
            node = self._below(node, segment)
        other = node.routes.get(method)
        if other is not None and keep:
            return
        if other is not None:
            raise ConfigError(
                f"{method} {path} is taken by {other.source or 'another Step'} ({method} {other.path})",
                file=source or None,
                suggestion="One route has one Step: give this one another path or method.",
            )
        route = Route(method, path, target, source, names)
        node.routes[method] = route
        if not names:
            self._plain.setdefault("/" + "/".join(segments), {})[method] = Found(route, _NOTHING)

    @staticmethod
    def _below(node: _Node[T], segment: str) -> _Node[T]:
        if not segment.startswith(":"):
            return node.fixed.setdefault(segment, _Node())
        if node.parameter is None:
            node.parameter = _Node()
        return node.parameter

    def find(self, method: str, path: str, raw_path: bytes = b"") -> Found[T] | frozenset[str]:
        """
        What answers, or the methods this path has (none: there is no such path).

        Args:
            method: As the request says.
            path: The decoded path, below where the application is mounted.
            raw_path: The same before decoding, so that ``%2F`` stays inside its segment.
        """
        if b"%" in raw_path:
            segments = _decoded(raw_path)
        else:
            plain = self._plain.get(path)
            if plain is not None and (found := plain.get(method)) is not None:
                return found
            segments = segments_of(path)
        allowed: set[str] = set()
        for node, values in _walk(self._root, segments, 0, ()):
            route = node.routes.get(method) or (node.routes.get("GET") if method == "HEAD" else None)
            if route is not None:
                return Found(route, dict(zip(route.names, values, strict=True)))
            allowed.update(node.routes)
        if "GET" in allowed:
            allowed.add("HEAD")
        return frozenset(allowed)

    def __iter__(self) -> Iterator[Route[T]]:
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            yield from node.routes.values()
            waiting.extend(reversed([*node.fixed.values(), *([node.parameter] if node.parameter else [])]))


def segments_of(path: str) -> list[str]:
    """
    The segments of a path, as a Step declares it or a request has it.

    >>> segments_of("/orders/:orderId/")
    ['orders', ':orderId']
    """
    return path.strip("/").split("/")


def pattern(path: str) -> str:
    """
    The path as OpenAPI writes it.

    >>> pattern("/orders/:orderId")
    '/orders/{orderId}'
    """
    return "/" + "/".join(
        "{" + s[1:] + "}" if s.startswith(":") else quote(s, safe=_SAFE) for s in segments_of(path)
    )


_SAFE = "-._~!$&'()*+,;=:@"


def _decoded(raw_path: bytes) -> Sequence[str]:
    return [unquote(segment) for segment in segments_of(raw_path.decode("latin-1"))]


def _walk(
    node: _Node[T], segments: Sequence[str], depth: int, values: tuple[str, ...]
) -> Iterator[tuple[_Node[T], tuple[str, ...]]]:
    if depth == len(segments):
        if node.routes:
            yield node, values
        return
    segment = segments[depth]
    below = node.fixed.get(segment)
    if below is not None:
        yield from _walk(below, segments, depth + 1, values)
    if node.parameter is not None and segment:
        yield from _walk(node.parameter, segments, depth + 1, (*values, segment))
