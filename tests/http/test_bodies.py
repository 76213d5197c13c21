"""Reading a body, and making of it what its content type says; nothing a client sends is our error."""

from typing import Any

import pytest
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from everstep.http import bodies
from everstep.http.refusals import Refusal
from everstep.steps.validator import validator_of

pytestmark = pytest.mark.anyio

JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=x"


class Order(BaseModel):
    total: int


ORDER = validator_of(Order)


def chunks(*parts: bytes, hang_up: bool = False) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if hang_up:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1:] = [{**message, "more_body": False} for message in messages[-1:]]

    async def receive() -> Message:
        return messages.pop(0)

    return receive


async def value(raw: bytes, content_type: str = JSON, declared: Any = None) -> Any:
    return (await bodies.parse(raw, content_type, declared)).value


async def refused(raw: bytes, content_type: str = JSON, declared: Any = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await bodies.parse(raw, content_type, declared)
    return caught.value


# ---- reading


async def test_a_body_in_parts_is_put_together() -> None:
    """However it came, it is the same bytes."""
    assert await bodies.read(chunks(b"ab", b"", b"cd"), {}, 10) == b"abcd"


async def test_a_declared_length_above_the_limit_is_refused_unread() -> None:
    """Not one byte is taken from the client."""
    with pytest.raises(Refusal) as caught:
        await bodies.read(chunks(), {"content-length": "11"}, 10)

    assert caught.value.status == 413


@pytest.mark.parametrize("length", ["", "-1", "1_0", "ten", "\u0661", "9" * 5000])
async def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    """Also one with five thousand digits."""
    with pytest.raises(Refusal) as caught:
        await bodies.read(chunks(b"x"), {"content-length": length}, 10)

    assert caught.value.status in (400, 413)


async def test_a_body_longer_than_it_said_is_cut_at_the_limit() -> None:
    """What the header says is not trusted."""
    with pytest.raises(Refusal) as caught:
        await bodies.read(chunks(b"12345", b"678901"), {"content-length": "5"}, 10)

    assert caught.value.status == 413


async def test_a_client_that_hangs_up_is_gone() -> None:
    """There is nobody to answer."""
    with pytest.raises(bodies.Gone):
        await bodies.read(chunks(b"ab", hang_up=True), {}, 10)


# ---- what it is


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        (b'{"a": 1}', JSON, {"a": 1}),
        (b'{"a": 1}', "Application/JSON; charset=utf-8", {"a": 1}),
        (b"[1]", "application/vnd.api+json", [1]),
        (b"a=1&b=&a=2", "application/x-www-form-urlencoded", {"a": ["1", "2"], "b": ""}),
        (b"caf\xc3\xa9", "text/plain", "caf\u00e9"),
        (b"caf\xe9", "text/plain; charset=ISO-8859-1", "caf\u00e9"),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
        (b"<a/>", "application/xml", b"<a/>"),
        (b'{"a": 1}', "", {"a": 1}),
        (b"\xff\x00", "", b"\xff\x00"),
        (b"", JSON, None),
        (b"", "", None),
        (b"null", JSON, None),
        (b'"\\u0000"', JSON, "\0"),
    ],
)
async def test_the_content_type_says_what_a_body_is(raw: bytes, content_type: str, expected: Any) -> None:
    """JSON its value, a form a dict, text a str, all else bytes."""
    assert await value(raw, content_type) == expected


async def test_json_that_came_as_a_form_is_told_so() -> None:
    """What curl -d sends without a header: a Step with a declared body says what to send."""
    order = validator_of({"type": "object", "required": ["sku"]})

    with pytest.raises(Refusal) as caught:
        await bodies.parse(b'{"sku": "pen"}', bodies.FORM, order)

    [fault] = caught.value.body["faults"]
    assert caught.value.status == 400
    assert fault["message"].endswith("send it with content-type: application/json")
    assert (await bodies.parse(b"{sku=pen", bodies.FORM, order)).value == {"{sku": "pen"}
    assert (await bodies.parse(b"{}", bodies.FORM)).value == {"{}": ""}


@pytest.mark.parametrize(
    ("raw", "position"),
    [
        (b'{"a":', "line 1 column 5"),
        (b'{\n "a" 1}', "line 2 column 6"),
        (b"[1,]", "line 1 column 4"),
        (b'"\xff"', "line 1 column"),
        (b'"\\ud800"', "line 1 column"),
        (b"NaN", "line 1 column 1"),
        (b"[" * 100_000, "recursion limit"),
        (b"1e999", "out of range"),
        (b'{"deep": [1, {"x": -1e4000}]}', "out of range"),
        (b"9" * 5_000, "out of range"),
    ],
)
async def test_malformed_json_is_refused_with_its_position(raw: bytes, position: str) -> None:
    """Syntax, encoding, half surrogates, endless nesting, numbers JSON cannot say again: 400."""
    refusal = await refused(raw)

    assert refusal.status == 400
    assert refusal.body["faults"][0]["path"] == "body"
    assert position in refusal.body["faults"][0]["message"]


@pytest.mark.parametrize(
    ("raw", "content_type", "status"),
    [
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"a=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a=1"] * 2_000), "application/x-www-form-urlencoded", 400),
        (b"\xff", "text/plain", 400),
        (b"x", "text/plain; charset=base64", 415),
        (b"x", "text/plain; charset=utf-7", 415),
        (b"--x\r\nnonsense", MULTIPART, 400),
        (b"--y--", "multipart/form-data", 400),
        (b"--x\r\n\r\n\r\n--x--", MULTIPART, 400),
        (b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\ncut sh', MULTIPART, 400),
    ],
)
async def test_other_bodies_that_are_not_what_they_say(raw: bytes, content_type: str, status: int) -> None:
    """Each is the client's error, never ours."""
    assert (await refused(raw, content_type)).status == status


async def test_multipart_brings_fields_and_files() -> None:
    """A file is an UploadFile, whatever its size; a repeated field is a list."""
    raw = (
        b'--x\r\ncontent-disposition: form-data; name="tag"\r\n\r\na\r\n'
        b'--x\r\ncontent-disposition: form-data; name="tag"\r\n\r\nb\r\n'
        b'--x\r\ncontent-disposition: form-data; name="doc"; filename="a.txt"\r\n'
        b"content-type: text/plain\r\n\r\nhello\r\n--x--\r\n"
    )
    body = await bodies.parse(raw, MULTIPART)
    doc = body.value["doc"]

    assert body.value["tag"] == ["a", "b"]
    assert isinstance(doc, UploadFile)
    assert (doc.filename, doc.content_type, await doc.read()) == ("a.txt", "text/plain", b"hello")
    assert body.files == [doc]
    assert body.raw == raw
    await doc.close()


# ---- what it may be


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/octet-stream", "x"])
async def test_a_declared_body_comes_in_a_type_that_can_carry_it(content_type: str) -> None:
    """Another is refused with 415, naming what would do."""
    refusal = await refused(b"{}", content_type, ORDER)

    assert refusal.status == 415
    assert refusal.body["expected"] == "application/json"


async def test_a_declared_body_without_a_type_is_read_as_json() -> None:
    """Many clients name none."""
    assert await value(b'{"total": 1}', "", ORDER) == {"total": 1}
    assert (await refused(b"total=1", "", ORDER)).status == 400


async def test_a_step_that_declares_bytes_or_text_gets_them() -> None:
    """Bytes whatever the type says; text from any text type."""
    assert await value(b"{}", JSON, validator_of(bytes)) == b"{}"
    assert await value(b"hi", "text/markdown", validator_of(str)) == "hi"
    assert await value(b"hi", "text/plain", validator_of({"type": "string"})) == "hi"
    assert (await refused(b"hi", "image/png", validator_of(str))).body["expected"] == "text/plain"
