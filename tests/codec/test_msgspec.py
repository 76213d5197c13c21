"""msgspec.Struct is understood where it is installed, and never asked for where it is not."""

import math
import subprocess
import sys
from typing import Any

import pytest

from everstep.codec import codec_for, fingerprint
from everstep.errors import NotEncodable

msgspec = pytest.importorskip("msgspec")


class Line(msgspec.Struct):  # type: ignore[misc, name-defined]
    sku: str
    raw: bytes = b""
    weights: list[float] = []


class LineWithNote(msgspec.Struct):  # type: ignore[misc, name-defined]
    sku: str
    raw: bytes = b""
    weights: list[float] = []
    note: str | None = None


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (Line, Line("a", b"\xff", [1.5])),
        (list[Line], [Line("a")]),
        (dict[str, Line], {"a": Line("b")}),
        (Line | None, None),
    ],
)
def test_structs_come_back(type: Any, value: Any) -> None:
    """Alone, in containers and in unions."""
    data, back = codec_for(type).roundtrip(value)

    assert back == value == codec_for(type).decode(data)


@pytest.mark.parametrize("value", [Line("a", weights=[math.nan]), {"sku": "a"}, LineWithNote("a")])
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    """msgspec writes nan as null, and takes a dict for a Struct."""
    with pytest.raises(NotEncodable):
        codec_for(Line).encode(value)


def test_a_new_optional_field_keeps_the_fingerprint() -> None:
    """Defaults are left out, as for models."""
    old, new = codec_for(Line), codec_for(LineWithNote)

    assert fingerprint([old], [Line("a")]) == fingerprint([new], [LineWithNote("a")])
    assert fingerprint([old], [Line("a")]) != fingerprint([old], [Line("b")])


def test_msgspec_is_not_loaded_for_other_types() -> None:
    """Who does not use it does not pay for it."""
    program = "import sys; from everstep.codec import codec_for; codec_for(list[int])"
    program += "; print('msgspec' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
