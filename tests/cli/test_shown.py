"""Runs, values and journals, as documents and for people."""

import io
import json

import pytest
from rich.console import Console

from everstep.cli.shown import (
    brief,
    plain,
    reason,
    run_document,
    status_named,
    whole_document,
)
from everstep.cli.timeline import print_run, runs_table
from everstep.core import journal
from everstep.core.batch import Mode, Run
from everstep.core.failure import encode_error
from everstep.core.journal import Entry
from everstep.core.status import Status

START = 1_700_000_000_000_000


def run(status: Status = Status.DONE, **given: object) -> Run:
    made = Run(1, "r_1", "Order", Mode.REPLAY, status, b'{"total": 12}', START, started_at=START)
    for name, value in given.items():
        setattr(made, name, value)
    return made


def printed(made: Run, entries: list[Entry]) -> str:
    out = io.StringIO()
    print_run(Console(file=out, width=200, markup=False, highlight=False), made, entries, [])
    return out.getvalue()


def test_values_are_shown_whatever_they_are() -> None:
    """JSON as JSON, a user's bytes as base64, nothing as null; long ones are cut for people."""
    assert plain(b'{"a": [1, "\xc3\xbc"]}') == {"a": [1, "ü"]}
    assert plain(b"\0\xff\xfe") == {"base64": "//4="}
    assert plain(None) is None
    assert brief(json.dumps("x" * 200).encode(), 10) == '"xxxxxxxx…'


def test_the_documents_of_a_run_are_json() -> None:
    """Times in ISO, statuses by name, the error without its traceback in lists and with it in full."""
    try:
        raise ValueError("no luck\nat all")
    except ValueError as error:
        failed = run(
            Status.FAILED, error=encode_error(error), finished_at=START + 5, mode=Mode.RETRY, attempt=1
        )
    entries = [
        Entry("0", 1, "run", "charge", 0, 1, START + 10, journal.OK, b'"ok"'),
        Entry("!", 1, "attempt", "ValueError", 0, None, START + 20, journal.ERROR, b'{"type": "ValueError"}'),
    ]

    row, whole = run_document(failed), whole_document(failed, entries, [])

    assert (row["status"], row["created_at"]) == ("failed", "2023-11-14T22:13:20.000000Z")
    assert row["error"] == {"type": "builtins:ValueError", "message": "no luck\nat all"}
    assert "Traceback" in whole["error"]["traceback"]
    assert [e["address"] for e in whole["journal"]] == ["0.1"]
    assert [a["number"] for a in whole["attempts_failed"]] == [1]
    assert reason(failed.error) == "ValueError: no luck"
    assert row["attempts"] == 1
    json.dumps(whole)


def test_the_timeline_shows_lanes_in_the_order_of_delivery() -> None:
    """Parallel lanes are indented; a failed entry and one that only began have marks of their own."""
    entries = [
        Entry("0/1", 1, "run", "pack", 0, 2, START + 2_000_000, journal.ERROR, b"{}"),
        Entry("0/@Build:1", 1, "run", "build", 0, 1, START + 1_000_000, journal.OK, b'"built"'),
        Entry("0", 1, "run", "late", 0, None, START + 3_000_000, journal.MARK, None),
        Entry("~set/orders/o-1/ff", 1, "set", "orders/o-1", 0, 3, START + 4_000_000, journal.OK, None),
    ]

    lines = [line.rstrip() for line in printed(run(), entries).splitlines()]

    at = lines.index("Journal (4 entries)")
    assert lines[at + 1].split() == ["seq", "at", "lane", "what", "result"]
    assert [line.split() for line in lines[at + 2 : at + 6]] == [
        ["1", "+1s", "│", "Build:1.1", "●", "run", "build", '"built"'],
        ["2", "+2s", "│", "1.1", "✗", "run", "pack", "{}"],
        ["+3s", "0.1", "○", "run", "late"],
        ["3", "+4s", "~", "●", "set", "orders/o-1"],
    ]


def test_what_users_write_is_no_markup() -> None:
    """Brackets in messages and names are shown as they are."""
    out = io.StringIO()
    made = run(Status.FAILED, error=encode_error(ValueError("[bold]x[/bold] :smile:")))
    Console(file=out, width=200, markup=False, emoji=False).print(runs_table([made]))

    assert "[bold]x[/bold] :smile:" in out.getvalue()


def test_a_status_is_named_as_it_is_shown() -> None:
    """Dashes and capitals do not matter; a word that is none names the nearest."""
    assert status_named("needs-attention") is Status.NEEDS_ATTENTION
    assert status_named("DONE") is Status.DONE
    with pytest.raises(ValueError, match="Did you mean 'cancelled'"):
        status_named("canceled")
