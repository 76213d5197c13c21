"""Read a request's body, and make of it what its content type says.

Nothing a client sends may end in anything but a value or a `Refusal`: a body
that is too long, cut short, not UTF-8, nested without end, or no JSON at all.

Floor 6.  May import: steps.validator, refusals.  Imported by: http.ingress, http.api.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from math import isinf
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from everstep.http.refusals import Refusal, malformed, too_large, unsupported
from everstep.steps.validator import Validator

MOST_FIELDS = 1_000
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

# Others either hide lone surrogates (utf-7) or are no text at all (base64, zlib).
_CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252", "utf-16"}
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]+)', re.IGNORECASE)
_WITHOUT = {"GET", "HEAD", "OPTIONS"}
# Only such an exponent can make a float that is infinite, which JSON could not say again.
_HUGE_EXPONENT = re.compile(rb"\d[eE]\+?\d{3}")


class Gone(Exception):
    """The client hung up before its body was here."""


@dataclass(slots=True)
class Body:
    """A body as it came and as it is to be read; `files` are to be closed."""

    value: Any = None
    raw: bytes = b""
    files: list[UploadFile] = field(default_factory=list)


NOTHING = Body()


def expected(method: str, headers: Mapping[str, str], http_version: str) -> bool:
    """Whether a request may have a body; HTTP/1 says so in its headers, later versions need not."""
    if "content-length" in headers:
        return headers["content-length"] != "0"
    return "transfer-encoding" in headers or (http_version > "1.1" and method not in _WITHOUT)


async def read(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """
    All bytes of a body, never more than *limit* of them in memory.

    Raises:
        Refusal: 413 when it is longer, 400 when its length is no number.
        Gone: The client hung up.
    """
    length = headers.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit()):
            raise malformed(f"content-length is '{length[:40]}', which is no number")
        if len(length) > 18 or int(length) > limit:
            raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def parse(raw: bytes, content_type: str, declared: Validator | None = None) -> Body:
    """
    A body as its content type says; whether it fits is asked later (`steps.request.accept`).

    JSON becomes its value, a form a dict (a key that is repeated has a list),
    text a str, and anything else bytes. What names no type is read as JSON.

    Args:
        raw: All of it.
        content_type: The header, or "".
        declared: What the Step wants; one that wants bytes gets them whatever they are.

    Raises:
        Refusal: 400 when it is not what it says, 415 when the declared body cannot come in this type.
    """
    media = content_type.split(";", 1)[0].strip().lower()
    if declared is not None and declared.source is bytes:
        return Body(raw, raw)
    if media == MULTIPART:
        return await _multipart(raw, content_type)
    return Body(_value(raw, media, content_type, declared), raw)


def _value(raw: bytes, media: str, content_type: str, declared: Validator | None) -> Any:
    if media == FORM:
        if declared is not None:
            _refuse_json(raw)
        return _form(raw)
    if not raw:
        return None
    if _is_json(media):
        return load_json(raw)
    if media.startswith("text/") and (declared is None or _wants_text(declared)):
        return _text(raw, content_type)
    if declared is not None and media:
        raise unsupported(media, "text/plain" if _wants_text(declared) else "application/json")
    if declared is not None:
        return load_json(raw)
    return raw if media else _guess(raw)


def load_json(raw: bytes) -> Any:
    """
    The value of JSON text.

    Raises:
        Refusal: 400: it is none, by line and column.
    """
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise malformed(f"is not valid JSON: {error}") from None
    if _HUGE_EXPONENT.search(raw) and _holds_infinity(value):
        raise malformed("is not valid JSON: a number is out of range")
    return value


def fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """
    A dict of pairs, in which a key that is repeated has the list of its values.

    >>> fields([("a", "1"), ("b", "2"), ("a", "3")])
    {'a': ['1', '3'], 'b': '2'}
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in found:
            found[key] = value
        elif isinstance(found[key], list):
            found[key].append(value)
        else:
            found[key] = [found[key], value]
    return found


def _is_json(media: str) -> bool:
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def _wants_text(declared: Validator) -> bool:
    source = declared.source
    return source is str or (isinstance(source, Mapping) and source.get("type") == "string")


def _guess(raw: bytes) -> Any:
    try:
        return load_json(raw)
    except Refusal:
        return raw


def _text(raw: bytes, content_type: str) -> str:
    found = _CHARSET.search(content_type)
    charset = found[1].lower() if found else "utf-8"
    if charset not in _CHARSETS:
        raise unsupported(content_type[:100], "text in utf-8")
    try:
        return raw.decode(charset)
    except UnicodeDecodeError as error:
        raise malformed(f"is not valid {charset} at byte {error.start}") from None


def _refuse_json(raw: bytes) -> None:
    """A form that is JSON lost its content type: curl -d says "form" unless told otherwise."""
    if raw[:1] in (b"{", b"["):
        try:
            from_json(raw)
        except ValueError:
            return
        raise malformed(f"is JSON, and came as {FORM}; send it with content-type: application/json")


def _form(raw: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except UnicodeDecodeError as error:
        raise malformed(f"is not valid utf-8 at byte {error.start}") from None
    except ValueError as error:
        raise malformed(f"is not a form: {error}") from None
    return fields(pairs)


async def _multipart(raw: bytes, content_type: str) -> Body:
    async def stream() -> AsyncGenerator[bytes]:
        yield raw

    # The parser takes what was cut short for whole.
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if b"--" + boundary + b"--" not in raw:
        raise malformed("is not multipart: its closing boundary is missing")
    parser = MultiPartParser(
        Headers({"content-type": content_type}),
        stream(),
        max_files=MOST_FIELDS,
        max_fields=MOST_FIELDS,
        max_part_size=max(len(raw), 1),
    )
    try:
        form = await parser.parse()
    except (MultiPartException, LookupError, ValueError) as error:
        raise malformed(f"is not multipart: {getattr(error, 'message', None) or error}") from None
    pairs = form.multi_items()
    return Body(fields(pairs), raw, [value for _, value in pairs if isinstance(value, UploadFile)])


def _holds_infinity(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and isinf(item):
            return True
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False
