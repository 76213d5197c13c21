"""How commands fail: one sentence on standard error, nothing on standard output, a code of the table."""

import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.project import Project, Ran


def failed(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, str(ran)
    assert ran.out == ""
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, str(ran)


READING = [
    ("runs", "list"),
    ("runs", "show", "r_1"),
    ("runs", "retry", "r_1"),
    ("runs", "cancel", "r_1"),
    ("dlq", "list"),
    ("dlq", "redrive", "--all"),
    ("dlq", "discard", "r_1"),
    ("state", "list"),
    ("state", "get", "a", "b"),
    ("state", "delete", "a", "b"),
    ("state", "clear", "a"),
]


def test_commands_that_look_do_not_make_a_store(project: Project) -> None:
    """Where there is no file, looking says so (4) and leaves none behind."""
    for args in READING:
        failed(project.run(*args), 4, "there is no store at", str(project.database))
    failed(project.run("runs", "list", "--store", "sqlite://"), 4, "memory of one process")

    assert not project.database.exists()
    assert list(project.root.glob("*.locks")) == []


@pytest.fixture
def stored(project: Project) -> Project:
    """A project with a store that has nothing in it."""
    project.cli("state", "set", "a", "b", "1")
    return project


def test_what_is_not_there_is_refused(stored: Project) -> None:
    """An unknown run, a value that is not there: 1."""
    for args in (
        ("runs", "show", "r_1"),
        ("runs", "retry", "r_1"),
        ("runs", "cancel", "r_1"),
        ("dlq", "show", "r_1"),
        ("dlq", "redrive", "r_1", "--json"),
        ("dlq", "discard", "r_1", "--json"),
    ):
        failed(stored.run(*args), 1, "there is no run 'r_1'")
    failed(stored.run("state", "get", "a", "c"), 1, "there is no 'c' in the group 'a'")


def test_a_command_line_that_is_wrong_is_usage(stored: Project) -> None:
    """Options that do not exist, JSON that is none, words that mean nothing: 2, and what would do."""
    failed(stored.run("enqueue", "work", "{"), 2, "is not JSON")
    failed(stored.run("enqueue", "work", "hello"), 2, '"hello"')
    failed(stored.run("enqueue", "work", "NaN"), 2, "NaN")
    failed(stored.run("enqueue", "work"), 2, "JSON")
    failed(stored.run("enqueue", "--topic", "a", "b", "{}"), 2, "given twice")
    failed(stored.run("enqueue", "work", "{}", "--delay", "soon"), 2, "is not a duration")
    failed(stored.run("state", "set", "a"), 2)
    failed(stored.run("runs", "list", "--status", "dnoe"), 2, "Did you mean 'done'?")
    failed(stored.run("dlq", "redrive"), 2, "--all")
    failed(stored.run("dlq", "redrive", "r_1", "--all"), 2, "--all")
    failed(stored.run("dlq", "redrive", "--all", "--rate", "fast"), 2, "10/s")
    failed(stored.run("dlq", "redrive", "--all", "--input", "1"), 2, "exactly one")
    failed(stored.run("runs", "list", "--dir", "nowhere"), 2, "nowhere")
    failed(stored.run("wat"), 2)


def test_a_setting_that_cannot_be_used_is_configuration(stored: Project) -> None:
    """A store of an unknown kind, a variable that cannot be read: 3, with what would do."""
    failed(stored.run("runs", "list", "--store", "sqlte:///x.db"), 3, "sqlte")
    failed(stored.run("runs", "list", env={"EVERSTEP_PORT": "many"}), 3, "EVERSTEP_PORT is 'many'")


def foreign(file: Path) -> None:
    """A SQLite file of another program."""
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE people (name TEXT)")
    db.close()


def newer(file: Path) -> None:
    """A store of a release to come."""
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()


FOUND = {"text": "no SQLite", "foreign": "another program", "newer": "999", "folder": "folder"}
OPENING = [("runs", "list"), ("enqueue", "a", "1"), ("start", "--port", "0"), ("dev", "--port", "0")]


@pytest.mark.parametrize("command", OPENING)
def test_a_store_that_cannot_be_used_ends_in_4(stored: Project, command: tuple[str, ...]) -> None:
    """Text, another program's file, a newer schema, a folder: 4, and nothing in it is touched."""
    files = {name: stored.root / f"{name}.db" for name in FOUND}
    files["text"].write_text("dear diary " * 100)
    foreign(files["foreign"])
    files["newer"].write_bytes(stored.database.read_bytes())
    newer(files["newer"])
    files["folder"].mkdir()
    before = {name: file.read_bytes() for name, file in files.items() if file.is_file()}

    for name, word in FOUND.items():
        ran = stored.run(*command, "--store", f"sqlite:///{files[name]}")

        assert ran.code == 4, str(ran)
        assert word in ran.err, str(ran)
        assert "Traceback" not in ran.output

    assert {name: files[name].read_bytes() for name in before} == before


def test_a_server_that_cannot_be_reached_ends_in_4(project: Project) -> None:
    """PostgreSQL that is not there: 4, without the password."""
    ran = project.run("runs", "list", "--store", "postgresql://app:secret@127.0.0.1:1/orders")

    assert ran.code == 4, str(ran)
    assert "Traceback" not in ran.err
    assert "secret" not in ran.err


def test_help_and_version_cost_nothing(project: Project) -> None:
    """The version is printed; every command has help; no store is looked for."""
    assert project.run("--version").out.startswith("everstep 0.")
    for args in ((), ("dev",), ("start",), ("enqueue",), ("state", "set"), ("runs",), ("dlq", "redrive")):
        ran = project.run(*args, "--help")
        assert ran.code == 0
        assert "--json" in ran.out


def test_options_stand_before_or_after_the_command(project: Project, tmp_path: Path) -> None:
    """--store, --dir and --json mean the same in both places; --dir is as if started there."""
    other = tmp_path / "other"
    other.mkdir()
    where = ("--dir", str(other), "--store", "sqlite:///mine.db")
    project.run(*where, "state", "set", "a", "b", "1")

    before = project.run("--json", *where, "state", "get", "a", "b")
    after = project.run("state", "get", "a", "b", *where, "--json")

    assert (before.out, after.out) == ("1\n", "1\n")
    assert (other / "mine.db").exists()
