"""Errors as bytes: what comes back is what was raised, or says what it was."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.core.failure import decode_error, encode_error
from everstep.errors import EverstepError, Rejected, RetryableError, StepFailed, TerminalError


class OutOfStock(TerminalError):
    """An error of a user, with evidence."""

    def __init__(self, item: str, *, left: int) -> None:
        super().__init__(f"only {left} of {item} left")
        self.item = item
        self.left = left


class Outer:
    """Holds a class."""

    class Inner(TerminalError):
        """Found by its qualified name."""


class Picky(TerminalError):
    """Asks for more than its arguments when it is made."""

    def __new__(cls, *args: Any) -> "Picky":
        if len(args) != 2:
            raise TypeError("two, please")
        return super().__new__(cls, *args)

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Silent(TerminalError):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def back(error: BaseException) -> TerminalError:
    return decode_error(encode_error(error))


def test_a_terminal_error_comes_back_as_its_own_class() -> None:
    """With its text, arguments and attributes, without its __init__ being called again."""
    error = back(OutOfStock("pens", left=2))

    assert type(error) is OutOfStock
    assert str(error) == "only 2 of pens left"
    assert (error.item, error.left, error.args) == ("pens", 2, ("only 2 of pens left",))


@pytest.mark.parametrize(
    "error",
    [
        TerminalError("a", 1),
        Rejected("no"),
        Outer.Inner("x"),
        StepFailed("m", error_type="E", attempts=3, cause="c"),
    ],
)
def test_ours_and_nested_ones_too(error: TerminalError) -> None:
    """Each equals itself in class, arguments and attributes."""
    other = back(error)

    assert (type(other), other.args, vars(other), str(other)) == (
        type(error),
        error.args,
        vars(error),
        str(error),
    )


@pytest.mark.parametrize(
    "error", [ValueError("bad"), RetryableError("busy"), EverstepError("x"), KeyboardInterrupt()]
)
def test_any_other_comes_back_as_step_failed(error: BaseException) -> None:
    """It says what it was; nothing else is ever made from a journal."""
    other = back(error)

    assert type(other) is StepFailed
    assert other.error_type == f"{type(error).__module__}:{type(error).__qualname__}"
    assert other.cause == str(error)
    assert type(error).__qualname__ in str(other)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:SystemExit",
        "nowhere:Gone",
        "everstep.errors:Nobody",
        "everstep.errors:Cancelled",
        "",
        ":",
        "a:b:c",
        "subprocess:Popen",
    ],
)
def test_what_is_no_terminal_error_is_never_made(name: str) -> None:
    """Whatever a journal names, only a subclass of TerminalError is made."""
    data = json.dumps({"type": name, "message": "m", "args": ["true"]}).encode()

    assert type(decode_error(data)) is StepFailed


def test_a_class_inside_a_function_comes_back_as_step_failed() -> None:
    """It cannot be found again, in this process no more than in another."""

    class Local(TerminalError):
        """Gone when the function is."""

    assert type(back(Local("x"))) is StepFailed


def test_an_error_that_cannot_be_made_again_still_says_what_it_was() -> None:
    """Its __new__ may ask for what nobody kept."""
    error = back(Picky("a", "b"))

    assert type(error) is StepFailed
    assert "Picky: ab" in str(error)


def test_an_error_that_cannot_be_shown_is_kept() -> None:
    """Its __str__ fails, and takes nothing with it."""
    data = json.loads(encode_error(Silent("x")))

    assert "cannot be shown" in data["message"]
    assert type(back(Silent("x"))) is Silent


def test_what_json_cannot_say_is_kept_as_text() -> None:
    """Arguments and attributes of any kind."""
    error = TerminalError(Decimal("1.5"), object)
    error.extra = {1, 2}  # type: ignore[attr-defined]
    other = back(error)

    assert other.args == ("1.5", "<class 'object'>")
    assert other.extra == "{1, 2}"  # type: ignore[attr-defined]


def test_the_traceback_is_kept_for_people() -> None:
    """That of the cause, when there is one; it plays no part in what comes back."""
    try:
        raise ValueError("deep")
    except ValueError as cause:
        error = StepFailed("gave up")
        error.__cause__ = cause
    kept = json.loads(encode_error(error))

    assert "test_failure.py" in kept["traceback"]
    assert "ValueError: deep" in kept["traceback"]
    assert "traceback" not in json.loads(encode_error(TerminalError("never raised")))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]", b"null", b'{"type": 1}', b'{"type":"x:Y"}'])
def test_what_is_no_error_is_one_that_says_so(data: bytes) -> None:
    """Damage in a store is shown, not raised."""
    assert type(decode_error(data)) is StepFailed


@given(st.text(), st.lists(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.none())))
def test_any_text_and_arguments_survive(text: str, args: list[Any]) -> None:
    """Surrogates, nulls, quotes, numbers."""
    error = back(TerminalError(text, *args))

    assert error.args == (text, *args)


@pytest.mark.parametrize("text", ["\ud800", "a\udc80b", "\udfff\ud800"])
def test_half_a_surrogate_pair_survives(text: str) -> None:
    """What cannot be UTF-8 is an escape, and comes back as it was."""
    assert back(TerminalError(text)).args == (text,)


def test_a_traceback_begins_where_the_step_does() -> None:
    """Frames of everstep before the user's are left out; later ones stay, and all if there is no other."""
    names: dict[str, Any] = {"__name__": "everstep.engine.somewhere"}
    exec("def ours(then):\n    then()\ndef fails():\n    raise ValueError('ours alone')\n", names)

    def users() -> None:
        names["ours"](deeper)

    def deeper() -> None:
        raise ValueError("of the Step")

    def kept(fn: Any) -> str:
        inside: dict[str, Any] = {"__name__": "everstep.engine.elsewhere", "encode": encode_error, "fn": fn}
        exec("try:\n    fn()\nexcept ValueError as error:\n    kept = encode(error)\n", inside)
        text: str = json.loads(inside["kept"])["traceback"]
        return text

    frames = [line.rpartition(" in ")[2] for line in kept(users).splitlines() if "  File" in line]
    assert frames == ["users", "ours", "deeper"]
    assert "in fails" in kept(names["fails"])
