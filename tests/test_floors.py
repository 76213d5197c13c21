"""The house of everstep: floors, one clock, one place that names stores, files one can read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests import floors
from tests.floors import Fault, Module

SOURCE = Path(__file__).parent.parent / "src"

# Files over 500 lines, relative to src, each with the reason why it stays whole.
LONG_FILES: dict[str, str] = {}

Rule = Callable[[Module], Iterator[Fault]]
RULES: list[Rule] = [floors.upward_imports, floors.concrete_stores, floors.read_times, floors.vague_names]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    """Every module under src keeps each rule of tests/floors.py."""
    faults = [fault for module in floors.modules(SOURCE) for fault in rule(module)]

    assert not faults, "\n" + "\n".join(map(str, faults))


def test_every_file_can_be_read_in_one_sitting() -> None:
    """No file is over 500 lines without a reason, and no reason outlives its file's length."""
    found = floors.modules(SOURCE)
    faults = [fault for module in found for fault in floors.long_files(module, LONG_FILES)]
    gone = LONG_FILES.keys() - {module.path.relative_to(SOURCE).as_posix() for module in found}

    assert not faults, "\n" + "\n".join(map(str, faults))
    assert not gone


# The checker itself, on small made-up trees.


class Tree:
    """A made-up package, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in ("__init__", "core/journal", "store/base", "store/sqlite", "engine/turn", "app"):
            self.write(f"{path}.py", "")

    def write(self, path: str, source: str) -> None:
        file = self.root / "everstep" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))

    def faults(self, rule: Rule) -> list[tuple[str, int]]:
        found = [fault for module in floors.modules(self.root) for fault in rule(module)]
        return [(fault.path.relative_to("everstep").as_posix(), fault.line) for fault in found]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_downward_imports_are_fine(tree: Tree) -> None:
    """A higher floor may import any lower one, and a room itself, in every spelling."""
    tree.write("core/replay.py", "from . import journal\nfrom .journal import x\nimport everstep.core")
    tree.write("app.py", "from everstep.engine import turn\nfrom .core import journal\nimport everstep.log")

    assert tree.faults(floors.upward_imports) == []


@pytest.mark.parametrize(
    "line",
    [
        "import everstep.engine.turn",
        "import os, everstep.engine",
        "from everstep.engine.turn import Turn",
        "from everstep.engine import turn",
        "from everstep import engine",
        "from ..engine import turn",
        "from .. import engine",
        "from ..engine.turn import *",
        "import importlib; importlib.import_module('everstep.engine.turn')",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(tree: Tree, line: str) -> None:
    """Absolute, relative and by-name imports are all seen."""
    tree.write("core/journal.py", f"import os\n{line}\n")

    assert tree.faults(floors.upward_imports) == [("core/journal.py", 2)]


def test_typing_only_and_late_imports_count(tree: Tree) -> None:
    """An import under TYPE_CHECKING or inside a function is an import."""
    tree.write(
        "core/journal.py",
        """\
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from everstep.store.base import Store

        def late():
            from everstep.engine import turn
        """,
    )

    assert tree.faults(floors.upward_imports) == [("core/journal.py", 3), ("core/journal.py", 6)]


def test_a_fault_names_file_line_and_both_floors(tree: Tree) -> None:
    """The message is enough to find the import and to see why it is wrong."""
    tree.write("store/base.py", "\n\nfrom everstep.app import App")
    [fault] = [fault for module in floors.modules(tree.root) for fault in floors.upward_imports(module)]

    assert str(fault) == (
        "everstep/store/base.py:3: everstep.store.base (floor 2) imports everstep.app (floor 7)"
    )


def test_the_package_door_is_for_users(tree: Tree) -> None:
    """`from everstep import App` is written by users; inside, the module itself is named."""
    tree.write("__init__.py", "from everstep.app import App\n")
    tree.write("cli/__init__.py", "from everstep import App\nimport everstep\nfrom everstep import app")

    assert tree.faults(floors.upward_imports) == [("cli/__init__.py", 1), ("cli/__init__.py", 2)]


def test_the_package_door_may_not_import_what_is_above_it(tree: Tree) -> None:
    """Importing everstep does not load the CLI."""
    tree.write("__init__.py", "from everstep.cli import main\n")

    assert tree.faults(floors.upward_imports) == [("__init__.py", 1)]


def test_workflows_and_steps_do_not_know_each_other(tree: Tree) -> None:
    """They share a floor, not a room."""
    tree.write("workflows/body.py", "from everstep.steps.step import Step\nfrom everstep.engine import turn")
    tree.write("steps/step.py", "import everstep.workflows.body")

    assert tree.faults(floors.upward_imports) == [("steps/step.py", 1), ("workflows/body.py", 1)]


def test_nothing_imports_testing(tree: Tree) -> None:
    """What is made for tests is not used in production, not even on the same floor."""
    tree.write("testing/app.py", "from everstep.app import App\nfrom everstep.testing import clock")
    tree.write("cli/dev.py", "from everstep.testing.app import TestApp")

    assert tree.faults(floors.upward_imports) == [("cli/dev.py", 1)]


def test_a_new_room_needs_a_floor(tree: Tree) -> None:
    """A top-level module that nobody placed is a fault, wherever it is seen."""
    tree.write("attic.py", "")
    tree.write("app.py", "import everstep.attic")

    assert tree.faults(floors.upward_imports) == [("app.py", 1), ("attic.py", 1)]


def test_only_app_names_a_concrete_store(tree: Tree) -> None:
    """Everyone else gets a store handed in, and knows store.base."""
    for path in ("app", "engine/turn", "cli/runs"):
        tree.write(f"{path}.py", "from everstep.store.base import Store\nfrom everstep.store import sqlite\n")
    tree.write("http/api.py", "from everstep.store import open_store")

    assert tree.faults(floors.concrete_stores) == [
        ("cli/runs.py", 2),
        ("engine/turn.py", 2),
        ("http/api.py", 1),
    ]


def test_stores_do_not_import_each_other(tree: Tree) -> None:
    """A store knows its own parts and the base; the base knows none of them."""
    tree.write("store/sqlite.py", "from everstep.store import base\nfrom everstep.store import sqlite_writer")
    tree.write("store/sqlite_writer.py", "from everstep.store.sqlite import x")
    tree.write("store/postgres.py", "from everstep.store.sqlite import x")
    tree.write("store/__init__.py", "from .sqlite import SqliteStore")

    assert tree.faults(floors.concrete_stores) == [("store/__init__.py", 1), ("store/postgres.py", 1)]


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "from time import monotonic",
        "import datetime; datetime.datetime.now()",
        "from datetime import datetime; datetime.now(UTC)",
        "from datetime import datetime as moment; moment.utcnow()",
        "from datetime import date; read = date.today",
    ],
)
def test_only_the_clock_reads_the_time(tree: Tree, line: str) -> None:
    """Every way to read the time is seen, except in clock.py."""
    tree.write("clock.py", line)
    tree.write("engine/timers.py", f"\n{line}")

    assert tree.faults(floors.read_times) == [("engine/timers.py", 2)]


def test_times_that_are_handed_in_may_be_used(tree: Tree) -> None:
    """Computing with a datetime is not reading the clock; nor is a method of that name elsewhere."""
    tree.write("core/cron.py", "from datetime import datetime, time\ndatetime.fromtimestamp(1)\nclock.now()")

    assert tree.faults(floors.read_times) == []


def test_vague_names_are_refused(tree: Tree) -> None:
    """A folder counts as a name too."""
    tree.write("core/utils.py", "")
    tree.write("engine/helpers/retry.py", "")

    assert tree.faults(floors.vague_names) == [("core/utils.py", 1), ("engine/helpers/retry.py", 1)]


def test_a_long_file_needs_a_reason(tree: Tree) -> None:
    """A file over the limit is a fault unless listed; a listed one that shrank is a fault as well."""
    tree.write("app.py", "x = 1\n" * 501)
    allowed = {"everstep/app.py": "a table"}

    assert tree.faults(lambda module: floors.long_files(module, {})) == [("app.py", 500)]
    assert tree.faults(lambda module: floors.long_files(module, allowed)) == []
    tree.write("app.py", "x = 1\n" * 500)
    assert tree.faults(lambda module: floors.long_files(module, allowed)) == [("app.py", 1)]
