"""What all commands share: options, JSON arguments, errors, speed."""

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from everstep.cli.command import Call, command, count, one_json
from everstep.cli.dlq import pace
from everstep.cli.exits import CONFIG, REFUSED, STORE, Refusal, code_of
from everstep.core.status import Status, WrongStatus
from everstep.errors import ConfigError, EverstepError, NotAStore, SchemaTooNew, StoreUnavailable

HEAVY = {"pydantic", "starlette", "uvicorn", "watchfiles", "sqlite3", "everstep.engine", "everstep.app"}


def invoke(fn: Callable[..., Any], *args: str) -> Any:
    app = typer.Typer()
    command(app)(fn)
    return CliRunner().invoke(app, args)


def test_every_command_has_the_three_options() -> None:
    """A command gets them in its Call, beside its own arguments; async ones are run."""
    seen: list[tuple[Call, str]] = []

    async def work(call: Call, name: str) -> None:
        seen.append((call, name))

    assert invoke(work, "x", "--json", "--store", "sqlite:///a.db").exit_code == 0
    ((call, name),) = seen
    assert (call.json, call.store, name) == (True, "sqlite:///a.db", "x")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("no"), REFUSED),
        (Refusal("no", STORE), STORE),
        (EverstepError("no"), REFUSED),
        (WrongStatus("cancel", Status.DONE), REFUSED),
        (ConfigError("no"), CONFIG),
        (NotAStore("x.db", "no"), STORE),
        (SchemaTooNew("x.db", found=2, known=1), STORE),
        (StoreUnavailable("no"), STORE),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error: Exception, code: int) -> None:
    """Errors that speak to users end commands with the code of the table; none shows a traceback."""

    def work(call: Call) -> None:
        raise error

    ran = invoke(work)

    assert code_of(error) == ran.exit_code == code
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"everstep: {error}"[:40])


def test_a_defect_of_ours_is_not_hidden() -> None:
    """An error that is no word to a user keeps its traceback."""

    def work(call: Call) -> None:
        raise ZeroDivisionError

    assert code_of(ZeroDivisionError()) is None
    assert isinstance(invoke(work).exception, ZeroDivisionError)


def test_json_arguments_are_read_or_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads standard input; a bare word is told how a text is written."""
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": 1}'))

    assert one_json("-", "JSON") == {"a": 1}
    assert one_json('"x"', "JSON") == "x"
    with pytest.raises(typer.BadParameter, match="with its quotes"):
        one_json("hello", "JSON")
    with pytest.raises(typer.BadParameter, match="Infinity is no JSON"):
        one_json("[Infinity]", "JSON")


def test_rates_are_so_many_in_a_time() -> None:
    """Written with their unit; anything else is refused."""
    assert [pace("10/s"), pace("30 / m"), pace("0.5/s"), pace("3600/h")] == [0.1, 2.0, 2.0, 1.0]
    for wrong in ("10", "0/s", "-1/s", "10/d", "fast"):
        with pytest.raises(typer.BadParameter):
            pace(wrong)


def test_numbers_of_things_read_well() -> None:
    """One is not many."""
    assert [count(1, "key"), count(0, "key")] == ["1 key", "0 keys"]
    assert count(2, "entry", "entries") == "2 entries"


def test_help_loads_nothing_heavy() -> None:
    """Help and completion answer at once, because what is heavy is imported inside commands."""
    program = f"""
import sys
from everstep.cli.program import program
try:
    program(["--help"])
except SystemExit:
    pass
print("loaded:", *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.rstrip().endswith("loaded:")
