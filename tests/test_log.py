"""Logs say what happened, to people or machines, and never fail the code that writes them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everstep.log import Logger, configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the logging of the other tests as it was."""
    root = logging.getLogger("everstep")
    kept = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = kept


def written(format: Literal["pretty", "json"], level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    configure(format=format, level=level, stream=stream)
    return stream


def test_a_json_line_has_time_level_message_and_fields() -> None:
    """What the logger is bound to, what the mapping holds, what the keywords say."""
    stream = written("json")

    Logger(step="AnalyzeRisk", run="r_1").bind(trace="t").info("analysed", {"order": {"id": 1}}, level="high")

    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "everstep",
        "message": "analysed",
        "step": "AnalyzeRisk",
        "run": "r_1",
        "trace": "t",
        "order": {"id": 1},
        "level_": "high",
    }


def test_a_pretty_line_is_read_at_a_glance() -> None:
    """Time, level, Step, message, fields; without colours when it is no terminal."""
    stream = written("pretty")

    Logger(step="AnalyzeRisk").warn("risky", order="o 1", score=0.5)

    assert stream.getvalue()[11:] == 'WARN  AnalyzeRisk  risky  order="o 1" score=0.5\n'
    assert stream.getvalue()[0] == "["


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless NO_COLOR is set."""
    coloured, plain = Terminal(), Terminal()

    monkeypatch.delenv("NO_COLOR", raising=False)
    configure(stream=coloured)
    Logger().error("broken")
    monkeypatch.setenv("NO_COLOR", "1")
    configure(stream=plain)
    Logger().error("broken")

    assert "\x1b[31mERROR" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


@pytest.mark.parametrize("format", ["pretty", "json"])
def test_an_exception_brings_its_traceback(format: Literal["pretty", "json"]) -> None:
    """Of the error being handled."""
    stream = written(format)
    try:
        raise ValueError("no such card")
    except ValueError:
        Logger().exception("charge failed", order=1)

    assert "ValueError: no such card" in stream.getvalue()
    assert "charge failed" in stream.getvalue()


def test_levels_that_are_off_write_nothing() -> None:
    """And do not look at their fields."""
    stream = written("json", level="warn")
    to = Logger()

    to.debug("d")
    to.info("i", {"a": 1})
    to.warning("w")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["w"]


def test_lines_of_the_standard_library_are_written_too() -> None:
    """A module of ours may use logging as it is; a call that does not fit its message is shown too."""
    stream = written("json")

    logging.getLogger("everstep.worker").warning("took %d runs", 3)
    logging.getLogger("everstep.worker").warning("took %d runs", "three")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["logger"]) == ("took 3 runs", "everstep.worker")
    assert "three" in second["message"]


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("has no text")


class Odder(Odd):
    __repr__ = Odd.__str__


RING: list[Any] = []
RING.append(RING)
VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(Odd())
    | st.just(RING)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.tuples(), inner)
    ),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.text() | st.integers() | st.none(), VALUES, max_size=4)


@pytest.mark.parametrize("format", ["pretty", "json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.text(), data=FIELDS)
def test_a_log_never_fails(format: Literal["pretty", "json"], message: str, data: dict[Any, Any]) -> None:
    """Odd values and odd keys, half characters: one line each, which reads as JSON where it should."""
    stream = written(format)
    logging.raiseExceptions = True

    Logger().info(message, data)

    text = stream.getvalue()
    text.encode()
    assert text.endswith("\n")
    if format == "json":
        assert text.count("\n") == 1
        assert json.loads(text)["level"] == "info"


@pytest.mark.parametrize("format", ["pretty", "json"])
def test_what_cannot_be_shown_is_named(format: Literal["pretty", "json"]) -> None:
    """An object whose own text raises shows as its class."""
    stream = written(format)

    Logger().info("odd", thing=Odder(), things=[Odder()])

    assert "<Odder>" in stream.getvalue()
