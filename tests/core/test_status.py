"""The life of a run is one table, and it makes sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.core.status import HOLDS_KEY, TABLE, Status, WrongStatus, advance, can

statuses = st.sampled_from(list(Status))
events = st.sampled_from(sorted(TABLE))


@given(statuses, events)
def test_advance_is_the_table(status: Status, event: str) -> None:
    """An event leads where the table says, and nowhere else."""
    if can(status, event):
        assert advance(status, event) == TABLE[event][status]
    else:
        with pytest.raises(WrongStatus) as caught:
            advance(status, event)
        assert (caught.value.event, caught.value.status) == (event, status)
        assert status.label in str(caught.value)


def test_a_wrong_event_names_what_would_do() -> None:
    """The error says what the run is, and what it would have to be."""
    with pytest.raises(WrongStatus, match="cannot redrive a run that is done; it must be failed, cancelled"):
        advance(Status.DONE, "redrive")


def test_numbers_of_statuses_never_change() -> None:
    """They are in the files of our users."""
    assert [status.label for status in sorted(Status)] == [
        "scheduled", "queued", "ready", "running", "parked", "paused",
        "needs_attention", "done", "failed", "cancelled", "skipped",
    ]  # fmt: skip


def test_an_ended_run_is_only_redriven_or_discarded() -> None:
    """No other event knows an ended status; done and skipped stay what they are."""
    for event, steps in TABLE.items():
        for before in steps:
            if before.ended:
                assert event in ("redrive", "discard")
                assert before in (Status.FAILED, Status.CANCELLED)


def test_every_status_can_be_reached_and_left() -> None:
    """There is a way to each from the first, and from each that has not ended to an end."""
    steps = {(before, after) for event in TABLE.values() for before, after in event.items()}

    def reach(start: Status) -> set[Status]:
        seen = {start}
        for _ in Status:
            seen |= {after for before, after in steps if before in seen}
        return seen

    assert reach(Status.SCHEDULED) == set(Status)
    for status in Status:
        assert status.ended or Status.DONE in reach(status)


def test_who_holds_a_key_has_not_ended_and_is_not_queued() -> None:
    """Every status that has a place in a key either holds it or waits for it."""
    assert {s for s in Status if not s.ended} - HOLDS_KEY == {Status.QUEUED}
    assert not any(status.ended for status in HOLDS_KEY)
