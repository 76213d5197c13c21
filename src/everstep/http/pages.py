"""What everstep itself answers beside the Steps: health, readiness, the OpenAPI document, its page.

Floor 6.  May import: engine, steps.step, openapi, answers.  Imported by: http.site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from everstep.engine.engine import Engine
from everstep.http.answers import Headers, Piece, json_piece
from everstep.http.openapi import document
from everstep.steps.step import Step

HTML = b"text/html; charset=utf-8"
# The page loads nothing and runs nothing, whatever a Step's description says.
_LOCKED = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; form-action 'none'")


@dataclass(slots=True)
class Page:
    """One path of our own."""

    make: Callable[[], tuple[int, bytes, bytes]]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    cross_origin = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send, params: Mapping[str, str]) -> None:
        status, data, kind = self.make()
        headers: Headers = [
            *self.headers,
            (b"content-type", kind),
            (b"content-length", b"%d" % len(data)),
            (b"cache-control", b"no-cache"),
        ]
        await Piece(status, data, headers, scope["method"] == "HEAD")(scope, receive, send)


def pages(engine: Engine, steps: Sequence[Step[Any, Any]]) -> Iterator[tuple[str, str, Page]]:
    """Method, path and page of each."""
    spec = document(steps)
    text, html = to_json(spec), render(spec).encode()

    def ready() -> tuple[int, bytes, bytes]:
        why = engine.not_ready
        piece = json_piece(503, {"ready": False, "reason": why}) if why else json_piece(200, {"ready": True})
        return piece.status, piece.data, b"application/json"

    yield "GET", "/health", Page(lambda: (200, b'{"status":"ok"}', b"application/json"))
    yield "GET", "/ready", Page(ready)
    yield "GET", "/openapi.json", Page(lambda: (200, text, b"application/json"))
    yield "GET", "/docs", Page(lambda: (200, html, HTML), (_LOCKED,))


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
body{color:#1b1f24;background:#fff}
details{border:1px solid #d8dee4;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}
summary{cursor:pointer}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f6f8fa;padding:.7rem;overflow:auto;border-radius:6px}
b{display:inline-block;min-width:4.5rem}.about{color:#59636e}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}details{border-color:#30363d}
pre{background:#161b22}.about{color:#9198a1}}
"""


def render(spec: Mapping[str, Any]) -> str:
    """An OpenAPI document as a page that needs nothing from elsewhere."""
    rows = [
        _operation(method, path, operation)
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{spec['info']['title']} {spec['info']['version']}")
    schemas = escape(to_json(spec["components"]["schemas"], indent=2).decode())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style><h1>{title}</h1>"
        "<p class=about>The same as a document for tools: <a href=openapi.json>openapi.json</a></p>"
        f"{''.join(rows) or '<p>No Step has an http trigger yet.</p>'}"
        f"<details><summary>Schemas</summary><pre>{schemas}</pre></details></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    told = {key: operation[key] for key in ("parameters", "requestBody", "responses") if key in operation}
    return (
        f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code>"
        f" <span class=about>{escape(str(operation['summary']))}</span></summary>"
        f"<pre>{escape(to_json(told, indent=2).decode())}</pre></details>"
    )
