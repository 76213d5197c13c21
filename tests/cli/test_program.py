"""All commands, run inside this process: what they refuse, and with which code."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from everstep.cli.program import program

ON_WHAT_IS_THERE = [
    "runs list",
    "runs show r_1",
    "runs retry r_1",
    "runs cancel r_1",
    "dlq list",
    "dlq redrive --all",
    "dlq discard r_1",
    "state list",
    "state get a b",
    "state delete a b",
    "state clear a",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVERSTEP_STORE", "EVERSTEP_TEST_POSTGRES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(line: str, *more: str, input: str | None = None) -> Any:
    return CliRunner().invoke(program, [*line.split(), *more], input=input)


def fails(ran: Any, code: int, word: str) -> None:
    assert ran.exit_code == code, ran.output
    assert ran.stdout == ""
    assert word in " ".join(ran.stderr.replace("│", " ").split()), ran.stderr


@pytest.mark.parametrize("line", ON_WHAT_IS_THERE)
def test_a_store_that_is_not_there_is_not_made(folder: Path, line: str) -> None:
    """Looking, or acting on what is there, makes no store: 4."""
    fails(run(line), 4, "there is no store at")
    fails(run(line, "--store", "sqlite://"), 4, "memory of one process")

    assert list(folder.iterdir()) == []


def test_what_is_not_in_the_store_is_refused(folder: Path) -> None:
    """An unknown run, a value that is not there: 1."""
    assert run("state set a b 1").exit_code == 0

    for line in ("runs show r_1", "runs retry r_1", "runs cancel r_1", "dlq show r_1"):
        fails(run(line), 1, "there is no run 'r_1' in this store")
    for line in ("dlq redrive r_1 --json", "dlq discard r_1 --json"):
        fails(run(line), 1, "there is no run 'r_1' in this store")
    fails(run("state get a c"), 1, "there is no 'c' in the group 'a'")
    assert run("state delete a c").exit_code == 0


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("enqueue work {", "is not JSON"),
        ("enqueue work hello", "with its quotes"),
        ("enqueue work NaN", "NaN is no JSON"),
        ("enqueue work", "is missing"),
        ("enqueue --topic a b {}", "given twice"),
        ("enqueue work {} --delay soon", "is not a duration"),
        ("state set a", "Missing argument"),
        ("runs list --status dnoe", "Did you mean 'done'?"),
        ("dlq redrive", "or say --all"),
        ("dlq redrive r_1 --all", "or say --all"),
        ("dlq redrive r_1 --topic t", "goes with --all"),
        ("dlq redrive --all --rate fast", "10/s"),
        ("dlq redrive --all --input 1", "exactly one RUN"),
        ("runs list --dir nowhere", "nowhere"),
        ("wat", "wat"),
    ],
)
def test_a_wrong_command_line_is_usage(folder: Path, line: str, word: str) -> None:
    """Options that do not exist, JSON that is none, words that mean nothing: 2, and what would do."""
    fails(run(line), 2, word)

    assert list(folder.iterdir()) == []


def test_a_setting_that_cannot_be_used_is_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of an unknown kind, a variable that cannot be read: 3."""
    fails(run("runs list --store sqlte:///x.db"), 3, "Did you mean 'sqlite'?")
    fails(run("state set a b 1 --store everstep.db"), 3, "everstep.db")
    monkeypatch.setenv("EVERSTEP_PORT", "many")
    fails(run("runs list"), 3, "EVERSTEP_PORT is 'many'")


def test_a_folder_that_is_not_there_is_the_stores(folder: Path) -> None:
    """Nobody makes folders on a user's disk: 4, and which one is missing."""
    fails(run("enqueue work 1 --store sqlite:///data/x.db"), 4, "data")


def test_messages_come_from_arguments_options_or_standard_input(folder: Path) -> None:
    """Four ways to say the same."""
    four = [
        run("enqueue work 1 --json"),
        run("enqueue --topic work --message 1 --json"),
        run("enqueue --topic work 1 --json"),
        run("enqueue work - --json", input="1"),
    ]

    assert [ran.exit_code for ran in four] == [0, 0, 0, 0]
    assert all('"topic": "work"' in ran.stdout for ran in four)


def test_help_and_version_look_for_no_store(folder: Path) -> None:
    """Each command has help with the options that all have."""
    assert run("--version").stdout.startswith("everstep 0.")
    for line in ("", "dev", "start", "enqueue", "state set", "runs list", "dlq redrive"):
        ran = run(line, "--help")
        assert ran.exit_code == 0
        assert "--json" in ran.stdout
    assert list(folder.iterdir()) == []


def test_a_delay_that_is_none_is_told_how_delays_are_written(folder: Path) -> None:
    """In the words of a shell: 2."""
    fails(run("enqueue a 1 --delay 5x"), 2, "write 5m, 30s, 2h")
