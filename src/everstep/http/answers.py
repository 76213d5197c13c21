"""Send what a Step answered: data, text, bytes, a file, or a stream of parts.

Most answers are one small JSON object, so that way is short: two messages.
An answer is prepared before anything is sent, so that one that cannot be sent
becomes a 500 instead of half a response.  Streams and files are left to Starlette's responses, and a
Step may answer with one of those itself.

Floor 6.  May import: steps.request, refusals.  Imported by: http.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import NoneType
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import FileResponse, StreamingResponse
from starlette.responses import Response as StarletteResponse
from starlette.types import Receive, Scope, Send

from everstep.http.refusals import Refusal
from everstep.steps.request import Response, comes_in_parts, json_of

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"
BYTES = b"application/octet-stream"
EVENTS = b"text/event-stream"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLAIN = frozenset({dict, list, str, bytes, NoneType})
_WITHOUT_BODY = frozenset({204, 205, 304})


def prepare(response: Response, extra: Headers, *, head: bool = False) -> Ready:
    """
    What a Step answered, ready to be sent, with *extra* headers beside its own.

    Raises:
        ValueError: Its status or a header cannot be sent.
        NotEncodable: Its body holds what JSON cannot.
        OSError: It is a file that is not there.
    """
    body = response.body
    if isinstance(body, StarletteResponse):
        body.raw_headers = [*body.raw_headers, *headers_of(response.headers), *extra]
        return Whole(body)
    headers = [*headers_of(response.headers), *extra] if response.headers else extra
    status = response.status if response.status == 200 else _status(response.status)
    if type(body) not in _PLAIN and (isinstance(body, Path) or comes_in_parts(body)):
        return Whole(_streamed(body, status, headers))
    data, kind = written(body)
    return Piece(status, *_with_length(status, data, kind, headers), head)


@dataclass(slots=True)
class Piece:
    """An answer that is sent in one piece."""

    status: int
    data: bytes
    headers: Headers
    head: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"" if self.head else self.data})


@dataclass(slots=True)
class Whole:
    """An answer that sends itself: a stream, a file, or a response of Starlette's."""

    response: StarletteResponse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.response(scope, receive, send)


Ready = Piece | Whole


def json_piece(status: int, value: Any, extra: Headers | None = None, *, head: bool = False) -> Piece:
    """Any data as JSON."""
    return Piece(status, *_with_length(status, json_of(value), JSON, extra or []), head)


def refusal_piece(refusal: Refusal, extra: Headers, *, head: bool = False) -> Piece:
    """Why a request is not served."""
    return json_piece(refusal.status, refusal.body, headers_of(refusal.headers) + extra, head=head)


def _with_length(status: int, data: bytes, kind: bytes, headers: Headers) -> tuple[bytes, Headers]:
    if status in _WITHOUT_BODY:
        return b"", headers
    length = (b"content-length", b"%d" % len(data))
    for name, _ in headers:
        if name == b"content-type":
            return data, [*headers, length]
    return data, [*headers, (b"content-type", kind), length] if data else [*headers, length]


def written(body: Any) -> tuple[bytes, bytes]:
    """A body as bytes, and the content type it has when nobody says another."""
    if type(body) is dict:  # nearly always
        return json_of(body), JSON
    if body is None:
        return b"", JSON
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), BYTES
    if isinstance(body, str):
        return body.encode(), TEXT
    return json_of(body), JSON


def headers_of(given: Mapping[str, Any] | None) -> Headers:
    """
    Headers as they are sent; a list of values is a header each (``Set-Cookie``).

    Raises:
        ValueError: A name or value cannot stand in a header, such as one with a line break.
    """
    headers: Headers = []
    for name, values in (given or {}).items():
        lower = str(name).lower()
        if lower == "content-length":
            continue
        for value in values if isinstance(values, list | tuple) else (values,):
            text = str(value)
            if not _NAME.fullmatch(lower) or "\r" in text or "\n" in text or "\0" in text:
                raise ValueError(f"{name!r}: {text[:80]!r} cannot be sent as a header")
            headers.append((lower.encode(), _latin(name, text)))
    return headers


def _latin(name: str, text: str) -> bytes:
    try:
        return text.strip().encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(
            f"header {name!r} holds a character that headers cannot carry: {text[:80]!r}"
        ) from None


def _status(status: Any) -> int:
    if isinstance(status, HTTPStatus):
        return int(status)
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise ValueError(f"status is {status!r}; a status is a number from 200 to 599")
    return status


# ---- in parts


def _streamed(body: Any, status: int, headers: Headers) -> StarletteResponse:
    kind = next((value for name, value in headers if name == b"content-type"), None)
    if isinstance(body, Path):
        # Said now, while the status can still be 500.
        response: StarletteResponse = FileResponse(body, status, stat_result=body.stat())
    else:
        response = StreamingResponse(_parts(body, events=bool(kind and kind.startswith(EVENTS))), status)
    own = {name for name, _ in headers}
    response.raw_headers = [pair for pair in response.raw_headers if pair[0] not in own] + headers
    return response


async def _parts(body: Any, *, events: bool) -> AsyncIterator[bytes]:
    """Bytes and text as they are; data as an event of its own, or as a line of JSON."""
    source = body if isinstance(body, AsyncIterable) else iterate_in_threadpool(body)
    try:
        async for part in source:
            if isinstance(part, bytes | str):
                yield part.encode() if isinstance(part, str) else part
            else:
                line = json_of(part, "a part of the answer")
                yield b"data: %b\n\n" % line if events else line + b"\n"
    finally:
        # What the generator holds is let go when the client leaves, not when memory is swept.
        close: Any = getattr(body, "aclose", None)
        if close is not None:
            await close()
