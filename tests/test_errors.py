"""Errors keep their evidence, and say what to do."""

import asyncio
import pickle

import pytest

from everstep import errors
from everstep.core.batch import KvSet, Publish
from everstep.errors import (
    Asked,
    BadName,
    ConfigError,
    JournalMismatch,
    RetryableError,
    StepFailed,
    did_you_mean,
)

MISMATCH = JournalMismatch(
    run_id="r_7f3a",
    address="0.3",
    recorded=Asked("run", "charge", 7, "orders_workflow.py:41"),
    attempted=Asked("sleep", line="orders_workflow.py:44"),
)


def test_a_mismatch_shows_both_sides_and_the_line_to_write() -> None:
    """The message has the evidence side by side, the cause, the remedy and where to look."""
    text = str(MISMATCH)

    assert "entry 0.3 in the journal: run 'charge'   (orders_workflow.py:41)" in text
    assert "entry 0.3 asked for now:  sleep          (orders_workflow.py:44)" in text
    assert "due = await ctx.run(date.today)" in text
    assert "everstep runs show r_7f3a" in text
    assert not MISMATCH.only_arguments


def test_a_mismatch_of_arguments_alone_can_be_resumed() -> None:
    """Same call, other arguments: the message names --accept-args."""
    then, now = Asked("run", "charge", 7), Asked("run", "charge", 8)

    error = JournalMismatch(run_id="r_1", address="0.0", recorded=then, attempted=now)

    assert error.only_arguments
    assert "--accept-args" in str(error)


def test_a_handler_that_ended_early_is_a_mismatch_too() -> None:
    """The journal remembers more than the handler asked for."""
    error = JournalMismatch(run_id="r_1", address="0.0", recorded=Asked("run", "charge"), attempted=None)

    assert "nothing, the handler ended" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        MISMATCH,
        StepFailed(error_type="ValueError", attempts=4, cause="no such card"),
        RetryableError("later", retry_after="3s"),
        ConfigError("trigger 2 is 'quue'", file="a_step.py", line=3),
        errors.GroupMissing("orders"),
        errors.UpdateError(op=1, type="append", path="a", expected="a list", found="int 1"),
        errors.SchemaTooNew("sqlite:///a.db", found=3, known=1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_come_back_whole_from_a_process_pool(error: errors.EverstepError) -> None:
    """Pickled and read back, an error has its class, its text and its evidence."""
    back = pickle.loads(pickle.dumps(error))

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__


def test_an_error_of_the_user_with_arguments_of_its_own_survives_too() -> None:
    """A TerminalError subclass may have any constructor."""
    back = pickle.loads(pickle.dumps(CardRefused("o-1", reason="expired")))

    assert (back.order, back.reason) == ("o-1", "expired")


class CardRefused(errors.TerminalError):
    def __init__(self, order: str, *, reason: str) -> None:
        super().__init__(f"{order}: {reason}")
        self.order = order
        self.reason = reason


def test_what_the_runtime_must_not_swallow_is_no_exception() -> None:
    """`except Exception` catches neither eviction nor cancellation."""
    assert not issubclass(errors.Evicted, Exception)
    assert issubclass(errors.Cancelled, asyncio.CancelledError)
    assert issubclass(errors.WaitTimeout, TimeoutError)


def test_a_config_error_names_file_line_and_suggestion() -> None:
    """One line that a person can act on."""
    error = ConfigError(
        "trigger 2 is 'quue'",
        file="src/charge_step.py",
        expected="triggers are http, queue",
        suggestion=did_you_mean("quue", ["http", "queue"]),
    )

    assert str(error) == (
        "src/charge_step.py: trigger 2 is 'quue'; triggers are http, queue. Did you mean 'queue'?"
    )


def test_suggestions_are_near_or_none() -> None:
    """A word that is near nothing gets no suggestion; case does not count."""
    assert did_you_mean("zzz", ["http", "queue"]) == ""
    assert did_you_mean("HTTP", ["http"]) == " Did you mean 'http'?"


def test_a_retry_after_in_the_past_is_now() -> None:
    """A reset time that has just passed must not hide the error itself."""
    assert RetryableError("busy", retry_after=-0.2).retry_after == 0


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_no_store_can_keep_are_refused_before_anything_is_changed(name: str) -> None:
    """A NUL or half a surrogate pair in a group, key or topic never reaches a store."""
    with pytest.raises(BadName):
        KvSet("orders", name, b"1")
    with pytest.raises(BadName):
        Publish("m_1", name, b"1")

    assert KvSet("bestellungen", "müller-☃", b"1").key == "müller-☃"
