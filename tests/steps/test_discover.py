"""Finding Steps in files: how they may import each other, and what happens to broken ones."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from everstep.steps.discover import Found, collect, discover, step_files
from everstep.steps.project import Project

QUEUE = """
config = {{"name": "{name}", "triggers": [{{"type": "queue", "topic": "t"}}]}}

async def handler(input, ctx): ...
"""


class Tree:
    """A made-up project, written file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, source: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))

    def step(self, path: str, name: str, above: str = "") -> None:
        self.write(path, above + QUEUE.format(name=name))

    def found(self, *include: str | ModuleType) -> Found:
        return discover(self.root, include)

    def names(self, *include: str | ModuleType) -> list[str]:
        found = self.found(*include)
        assert found.problems == []
        return [step.name for step in found.steps]

    def problem(self) -> str:
        [problem] = self.found().problems
        return str(problem)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield Tree(tmp_path)
    if Project.current is not None:
        Project.current.close()


# ---- which files


def test_files_are_found_by_their_names_anywhere(tree: Tree) -> None:
    """*_step.py and *.step.py below src/ and steps/, in order, however deep."""
    for path in ("src/b_step.py", "src/deep/er/a_step.py", "src/02-dash_step.py", "steps/d.step.py"):
        tree.step(path, path)
    tree.write("src/other.py", "raise RuntimeError")
    tree.write("elsewhere/x_step.py", "raise RuntimeError")

    assert tree.names() == [
        "src/02-dash_step.py",
        "src/b_step.py",
        "src/deep/er/a_step.py",
        "steps/d.step.py",
    ]


@pytest.mark.parametrize("folder", [".hidden", "__pycache__", ".venv", "node_modules"])
def test_folders_that_are_not_the_users_are_skipped(tree: Tree, folder: str) -> None:
    """What tools put there is not looked into."""
    tree.step(f"src/{folder}/a_step.py", "A")

    assert step_files(tree.root) == []


def test_a_project_without_folders_has_no_steps(tree: Tree) -> None:
    """An empty folder is no error."""
    assert tree.found() == Found()


def test_a_step_says_where_it_is_written(tree: Tree) -> None:
    """File from the project's root, and the line of the handler."""
    tree.step("src/orders/charge_step.py", "Charge")
    [step] = tree.found().steps

    assert step.source == "src/orders/charge_step.py:4"
    assert step.form == "file"


# ---- imports


def test_relative_imports_work_without_init_files(tree: Tree) -> None:
    """Every folder is a package: a sibling, a parent and a cousin can be imported."""
    tree.write("src/orders/risk.py", "from ..shared.money import euro\nscore = euro")
    tree.write("src/shared/money.py", "euro = 'EUR'")
    tree.step(
        "src/orders/charge_step.py",
        "Charge",
        "from .risk import score\nfrom ..shared import money\nassert score == money.euro == 'EUR'\n",
    )
    tree.step("src/top_step.py", "Top", "from .shared.money import euro\n")

    assert tree.names() == ["Charge", "Top"]


def test_absolute_imports_begin_at_src(tree: Tree) -> None:
    """`from shared.thing import x` is the file src/shared/thing.py."""
    tree.write("src/shared/thing.py", "x = 1")
    tree.step("src/a_step.py", "A", "from shared.thing import x\nimport shared.thing\n")

    assert tree.names() == ["A"]


def test_no_file_is_loaded_twice(tree: Tree) -> None:
    """Relative, absolute and full names give one module, so its classes and connections are one."""
    tree.write("src/shared/thing.py", "import builtins\nbuiltins.loads += 1\nx = object()")
    tree.step(
        "src/orders/a_step.py",
        "A",
        """
from ..shared.thing import x as one
from shared.thing import x as two
from src.shared.thing import x as three
import shared.thing
assert one is two is three is shared.thing.x
""",
    )
    import builtins

    builtins.loads = 0  # type: ignore[attr-defined]
    assert tree.names() == ["A"]
    assert builtins.loads == 1  # type: ignore[attr-defined]
    del builtins.loads  # type: ignore[attr-defined]


def test_init_files_may_be_there(tree: Tree) -> None:
    """A folder that is a package already stays what it is."""
    tree.write("src/orders/__init__.py", "LIMIT = 5")
    tree.step("src/orders/a_step.py", "A", "from . import LIMIT\nfrom orders import LIMIT as same\n")

    assert tree.names() == ["A"]


def test_what_is_installed_wins_over_a_folder_of_that_name(tree: Tree) -> None:
    """A folder src/json does not hide the json of the standard library."""
    tree.write("src/json/extra.py")
    tree.step("src/json/a_step.py", "A", "import json\nassert json.dumps\nfrom . import extra\n")

    assert tree.names() == ["A"]


def test_files_beside_src_can_be_imported(tree: Tree) -> None:
    """What lies in the project's own folder is importable while the project is open."""
    tree.write("rules_of_the_project.py", "x = 1")
    tree.step("src/a_step.py", "A", "from rules_of_the_project import x\n")

    assert tree.names() == ["A"]
    assert Project.current is not None
    Project.current.close()
    assert str(tree.root) not in sys.path
    del sys.modules["rules_of_the_project"]


def test_a_reload_sees_the_new_code(tree: Tree) -> None:
    """The files and what they import are read anew; nothing of before is left in sys.modules."""
    tree.write("src/shared/names.py", "name = 'Before'")
    tree.write("src/a_step.py", "from shared.names import name\nconfig = {'name': name, 'triggers': []}\n")
    before = tree.names()
    tree.write("src/shared/names.py", "name = 'And after'")

    after = tree.names()

    assert (before, after) == (["Before"], ["And after"])


def test_a_closed_project_leaves_nothing_behind(tree: Tree) -> None:
    """No module, finder or path of it remains."""
    tree.write("src/shared/thing.py", "x = 1")
    tree.step("src/a_step.py", "A", "from shared.thing import x\n")
    modules, finders, path = set(sys.modules), list(sys.meta_path), list(sys.path)

    tree.names()
    assert Project.current is not None
    Project.current.close()

    assert set(sys.modules) - modules == set()
    assert sys.meta_path == finders
    assert sys.path == path


# ---- decorated Steps


DECORATED = """
from everstep.steps.on import on, step

@step(on.queue("a"))
async def first(ctx, data): ...

@step(on.queue("b"))
def second(ctx, data): ...
"""


def test_decorated_steps_may_be_several_in_a_file(tree: Tree) -> None:
    """They come in the order they are written, and know their file and line."""
    tree.write("src/orders_step.py", DECORATED)
    found = tree.found()

    assert [(step.name, step.source) for step in found.steps] == [
        ("first", "src/orders_step.py:4"),
        ("second", "src/orders_step.py:7"),
    ]


def test_a_file_may_hold_both_forms(tree: Tree) -> None:
    """A config with its handler beside decorated functions is one Step more."""
    tree.write("src/orders_step.py", DECORATED + QUEUE.format(name="Third"))

    assert tree.names() == ["Third", "first", "second"]


def test_a_config_of_something_else_beside_decorated_steps_is_left_alone(tree: Tree) -> None:
    """Only what looks like a Step's config is read as one."""
    tree.write("src/orders_step.py", DECORATED + "config = {'host': 'localhost'}")

    assert tree.names() == ["first", "second"]


def test_a_step_that_others_import_is_one_step(tree: Tree) -> None:
    """Importing a Step from its file, to call or to name it, does not make it a second one."""
    tree.write("src/a_step.py", DECORATED)
    tree.write(
        "src/b_step.py",
        "from .a_step import first\nfrom a_step import second\n"
        + DECORATED.replace("first", "third").replace("second(", "fourth("),
    )

    assert tree.names() == ["first", "second", "third", "fourth"]


def test_steps_of_named_modules_are_found(tree: Tree) -> None:
    """include= takes a file, a module's name, or a module."""
    tree.write("main.py", DECORATED)
    tree.write("package_of_steps/more.py", DECORATED.replace("first", "third").replace("second", "fourth"))
    own = ModuleType("own")
    exec(DECORATED.replace("first", "fifth").replace("second", "sixth"), vars(own))

    names = tree.names("main.py", "package_of_steps.more", own)

    assert names == ["first", "second", "third", "fourth", "fifth", "sixth"]
    for name in ("main", "package_of_steps", "package_of_steps.more"):
        del sys.modules[name]


def test_a_file_that_is_not_there_is_said(tree: Tree) -> None:
    """In one plain sentence, and the others are found."""
    [problem] = tree.found("nofile.py").problems

    assert (problem.file, problem.reason) == ("nofile.py", "there is no file nofile.py")


def test_a_module_can_be_asked_for_its_steps() -> None:
    """`collect` reads one module, without a project."""
    own = ModuleType("own")
    exec(DECORATED, vars(own))

    assert [step.name for step in collect(own).steps] == ["first", "second"]


# ---- broken files


def test_a_broken_file_does_not_stop_the_others(tree: Tree) -> None:
    """Each broken file is a problem, and every good one is found."""
    tree.write("src/a_step.py", "def (:")
    tree.write("src/b_step.py", "raise ValueError('no')")
    tree.step("src/c_step.py", "C")
    tree.write("src/d_step.py", "import sys\nsys.exit(3)")
    found = tree.found()

    assert [step.name for step in found.steps] == ["C"]
    assert [problem.file for problem in found.problems] == ["src/a_step.py", "src/b_step.py", "src/d_step.py"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ndef (:", "src/a_step.py:2: SyntaxError: "),
        ("x = 1\n\n1 / 0", "src/a_step.py:3: ZeroDivisionError when it was imported: division by zero"),
        ("import nowhere_at_all", "src/a_step.py:1: ModuleNotFoundError when it was imported: No module"),
        ("from motia import queue", "src/a_step.py:1: No module named 'motia'. Write from everstep import"),
        ("import sys\nsys.exit(3)", "src/a_step.py:2: SystemExit when it was imported: 3"),
        ("x = 1", "src/a_step.py: there is no Step in this file; write config"),
        ("conifg = {}", "There is 'conifg'; call it 'config'"),
        ("config = {'name': 'A', 'triggers': ['x']}", "src/a_step.py:1: trigger 1 is 'x'; a trigger is"),
        ("x = 1\nconfig = 5\ndef handler(): ...", "src/a_step.py:2: config is 5; it is a dict"),
        (QUEUE.format(name="A").replace("handler", "handle"), "There is 'handle'; call it 'handler'"),
        (QUEUE.format(name="A") + "handler = 5", "handler is 5; it is a function (input, ctx)"),
        (
            DECORATED.replace('"a"', '"a", concurrency=0'),
            "src/a_step.py:4: concurrency is 0; it is 1 or more",
        ),
        (
            DECORATED + "config = {'name': 'A'}\nhandler = first",
            "there is a config, and the handler has @step; a Step is written one way or the other",
        ),
    ],
)
def test_a_problem_names_file_line_reason_and_remedy(tree: Tree, source: str, said: str) -> None:
    """What is wrong can be found and mended from the one line that is printed."""
    tree.write("src/a_step.py", source)

    assert said in tree.problem()


def test_a_syntax_error_in_an_imported_file_names_both(tree: Tree) -> None:
    """The Step that cannot be loaded, and the file that is to blame."""
    tree.write("src/shared.py", "x = 1\ndef (:")
    tree.step("src/a_step.py", "A", "from .shared import x\n")

    assert tree.problem().startswith("src/a_step.py:1: SyntaxError in src/shared.py:2: ")


def test_an_error_inside_an_imported_file_names_the_import(tree: Tree) -> None:
    """The line in the Step's own file is the one that is shown."""
    tree.write("src/shared.py", "1 / 0")
    tree.step("src/a_step.py", "A", "\n\nfrom shared import x\n")

    assert tree.problem().startswith("src/a_step.py:3: ZeroDivisionError")


def test_a_file_that_failed_is_tried_again(tree: Tree) -> None:
    """A reload after the mistake is mended finds the Step."""
    tree.write("src/a_step.py", "1 / 0")
    assert tree.problem()
    tree.step("src/a_step.py", "A")

    assert tree.names() == ["A"]


def test_two_steps_of_one_name_are_a_problem_that_names_both(tree: Tree) -> None:
    """The first is kept, the second is refused, and both files are named."""
    tree.step("src/a_step.py", "Charge")
    tree.step("src/b_step.py", "Charge")
    found = tree.found()

    assert [step.file for step in found.steps] == ["src/a_step.py"]
    assert str(found.problems[0]).startswith(
        "src/b_step.py:4: 'Charge' is the name of another Step, in src/a_step.py:4. "
    )


def test_two_steps_on_one_route_are_a_problem_that_names_both(tree: Tree) -> None:
    """Also when their parameters are called differently."""
    for name, param in (("a", "id"), ("b", "key")):
        tree.write(
            f"src/{name}_step.py",
            f"""
            config = {{"name": "{name}", "triggers": [
                {{"type": "http", "method": "GET", "path": "/orders/:{param}"}}]}}
            async def handler(req): ...
            """,
        )
    found = tree.found()

    assert [step.name for step in found.steps] == ["a"]
    assert "'b' answers GET /orders/:key, and so does 'a' (GET /orders/:id) in src/a_step.py" in str(
        found.problems[0]
    )


def test_no_step_is_lost_after_one_that_was_refused(tree: Tree) -> None:
    """Each Step is either there or named as a problem, however many are refused before it."""
    tree.step("src/a_step.py", "A")
    for number in range(20):
        tree.step(f"src/b{number:02}_step.py", "A")  # the name is taken
        tree.step(f"src/b{number:02}x_step.py", f"B{number}")

    found = tree.found()

    assert len(found.problems) == 20
    assert [step.name for step in found.steps] == ["A", *(f"B{number}" for number in range(20))]


def test_warnings_are_collected(tree: Tree) -> None:
    """A misspelt key is told with its file, and the Step is there."""
    tree.write("src/a_step.py", "config = {'name': 'A', 'triggers': [], 'flwos': []}")
    found = tree.found()

    assert [step.name for step in found.steps] == ["A"]
    assert found.warnings == ["src/a_step.py: config: unknown key 'flwos' is ignored. Did you mean 'flows'?"]
