"""The benchmarks run: each work prints its one object, whatever its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figure import BUDGETS, Budget, Figure, table
from bench.works import works

ROOT = Path(__file__).parents[2]
KEYS = {"work", "store", "value", "unit", "bound", "ratio", "cpu_s_per_1000", "details"}


@pytest.mark.parametrize("work", list(works()))
def test_a_work_prints_one_object(work: str) -> None:
    """``python -m bench WORK --json`` prints one object, with the raw bound of the same run in it."""
    ran = _bench(work, "--quick", "--json")

    assert ran.returncode == 0, ran.stderr
    figure = json.loads(ran.stdout)
    assert set(figure) == KEYS
    assert figure["work"] == work
    assert figure["store"] == "sqlite"
    assert figure["value"] != 0
    assert figure["bound"] > 0


def test_variants_have_names_of_their_own() -> None:
    """W1 with pydantic arguments is another figure than W1."""
    ran = _bench("W1", "--variant", "pydantic", "--quick", "--json")

    assert json.loads(ran.stdout)["work"] == "W1-pydantic"


def test_a_variant_there_is_not_is_said() -> None:
    """A variant that does not exist here prints no figure, and the exit code says so."""
    ran = _bench("W1", "--variant", "otel", "--quick", "--json")

    assert ran.returncode == 3
    assert "plain, pydantic" in ran.stderr
    assert ran.stdout == ""


def test_an_unknown_work_names_those_there_are() -> None:
    """A misspelt work is refused with the list of works."""
    ran = _bench("W99")

    assert ran.returncode == 2
    assert "W6a" in ran.stderr


def test_the_table_says_what_was_reached() -> None:
    """For people, each figure stands beside what it must reach and aims at."""
    figure = Figure("W1", "sqlite", 41_000.0, "calls/s", 82_000.0, 0.02)

    shown = table([figure]).splitlines()[1]

    assert "41,000" in shown
    assert "≥ 30,000" in shown
    assert shown.endswith("must")


@pytest.mark.parametrize(
    ("budget", "value", "verdict"),
    [
        (Budget(10, 20), 25, "goal"),
        (Budget(10, 20), 15, "must"),
        (Budget(10, 20), 5, "MISSED"),
        (Budget(1.2, 0.8, less=True), 0.7, "goal"),
        (Budget(1.2, 0.8, less=True), 1.0, "must"),
        (Budget(1.2, 0.8, less=True), 1.5, "MISSED"),
        (Budget(0.6, 0.8, of="ratio"), 70, "must"),
    ],
)
def test_a_budget_judges(budget: Budget, value: float, verdict: str) -> None:
    """More is better of rates and ratios, less of times."""
    assert budget.verdict(Figure("x", "sqlite", value, "", 100.0, 0.0)) == verdict


def test_every_budget_is_of_a_work() -> None:
    """A budget nobody measures would be forgotten."""
    assert {name.split(" ")[0].split("-")[0] for name in BUDGETS} <= set(works())


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100)
