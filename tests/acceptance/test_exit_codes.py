"""How commands fail: one sentence on standard error, nothing on standard output, a code of the table."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.project import Project, Ran


def failed(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, str(ran)
    assert ran.out == ""
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, str(ran)


def test_commands_that_look_do_not_make_a_store(project: Project) -> None:
    """Where there is no file, looking says so (4) and leaves none behind."""
    failed(project.run("runs", "list"), 4, "there is no store at", str(project.database))

    assert not project.database.exists()
    assert list(project.root.glob("*.locks")) == []


@pytest.fixture
def stored(project: Project) -> Project:
    """A project with a store that has nothing in it."""
    project.cli("state", "set", "a", "b", "1")
    return project


def test_each_kind_of_failure_has_its_code(stored: Project) -> None:
    """Refused 1, usage 2, configuration 3 (tests/cli goes through all the ways to get there)."""
    failed(stored.run("runs", "show", "r_1"), 1, "there is no run 'r_1'")
    failed(stored.run("enqueue", "work", "{"), 2, "is not JSON")
    failed(stored.run("runs", "list", env={"EVERSTEP_PORT": "many"}), 3, "EVERSTEP_PORT is 'many'")


def foreign(file: Path) -> None:
    """A SQLite file of another program."""
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE people (name TEXT)")


def newer(file: Path) -> None:
    """A store of a release to come."""
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 999")


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
