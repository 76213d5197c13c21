"""Finding the Steps of a project: files by their names, functions by their decorator.

Each file stands alone: one that cannot be read becomes a `Problem` with file,
line, reason and what to do about it, and all the others are found.

Floor 5.  May import: config, project, step, errors.  Imported by: app, cli, dispatch.
"""

from __future__ import annotations

import ast
import importlib
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from everstep.errors import ConfigError, did_you_mean
from everstep.steps.config import read_config, warnings_of
from everstep.steps.project import Project
from everstep.steps.step import Step

SUFFIXES = ("_step.py", ".step.py")
SKIPPED = {"__pycache__", "node_modules", "venv", "site-packages"}  # and every hidden folder

AnyStep = Step[Any, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """A Step that is not there, and why."""

    file: str
    line: int | None
    reason: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}" + (f". {self.suggestion}" if self.suggestion else "")


@dataclass(slots=True)
class Found:
    """What a project has: Steps, files that cannot be used, and what is probably not meant."""

    steps: list[AnyStep] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def discover(root: Path, include: Sequence[str | ModuleType] = ()) -> Found:
    """
    Find the Steps below ``src/`` and ``steps/`` of a folder, and those of named modules.

    Args:
        root: The project's folder.
        include: Modules that hold Steps, as modules, by name, or by file (``"main.py"``).
    """
    root = root.resolve()
    project = Project(root)
    project.open()
    search = _Search(root)
    for file in step_files(root):
        search.file(project, file)
    for module in include:
        search.included(project, module)
    return search.found


def collect(module: ModuleType) -> Found:
    """The Steps of one module."""
    search = _Search(Path.cwd())
    search.module(module, strict=False)
    return search.found


def step_files(root: Path) -> list[Path]:
    """Every Step file of a project, in the order of their names."""
    found = []
    for folder in Project(root).folders:
        for place, folders, names in os.walk(folder):
            folders[:] = [f for f in folders if not f.startswith(".") and f not in SKIPPED]
            found += [Path(place, name) for name in names if name.endswith(SUFFIXES) and name[0] != "."]
    return sorted(found)


class _Search:
    """Collects Steps and refuses a second one of the same name or route."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found = Found()
        # A Step may be imported by other modules. Refused ones are kept too, or a later one might
        # be made in the same place in memory, and pass for one that was seen.
        self._seen: dict[int, AnyStep] = {}
        self._names: dict[str, AnyStep] = {}
        self._routes: dict[tuple[str, str], AnyStep] = {}

    def file(self, project: Project, file: Path) -> None:
        try:
            module = project.load(file)
        except (Exception, SystemExit) as error:
            self.failed(file, error)
        else:
            self.module(module, strict=True)

    def included(self, project: Project, given: str | ModuleType) -> None:
        if isinstance(given, ModuleType):
            self.module(given, strict=False)
            return
        file = self.root / given
        if given.endswith(".py") and not file.exists():
            self.problem(file, None, f"there is no file {given}", suggestion="Is its name right?")
            return
        try:
            module = project.load(file) if given.endswith(".py") else importlib.import_module(given)
        except (Exception, SystemExit) as error:
            self.failed(file if given.endswith(".py") else Path(given), error)
        else:
            self.module(module, strict=False)

    def module(self, module: ModuleType, *, strict: bool) -> None:
        file = Path(getattr(module, "__file__", None) or module.__name__)
        try:
            for step, warnings in _steps_of(module, self.shown(file), strict=strict):
                self.found.warnings += warnings
                self.take(step)
        except ConfigError as error:
            line = error.line or _line_of(file, "config")
            self.problem(file, line, error.what, error.expected, error.suggestion)

    def take(self, step: AnyStep) -> None:
        if id(step) in self._seen:
            return
        self._seen[id(step)] = step
        step.file = self.shown(Path(step.file)) if step.file else ""
        if twin := self._names.get(step.name):
            self.refuse(
                step,
                f"'{step.name}' is the name of another Step, in {twin.source}",
                "A run finds its code by name, so give one of them another",
            )
            return
        for route in step.routes:
            if twin := self._routes.get(route.shape):
                which = next(r.route for r in twin.routes if r.shape == route.shape)
                both = f"{route.route}, and so does '{twin.name}' ({which}) in {twin.source}"
                self.refuse(step, f"'{step.name}' answers {both}", "Give one of them another path or method")
                return
        self._names[step.name] = step
        self._routes |= {route.shape: step for route in step.routes}
        self.found.steps.append(step)

    def refuse(self, step: AnyStep, reason: str, suggestion: str) -> None:
        self.found.problems.append(Problem(step.file, step.line or None, reason, suggestion))

    def failed(self, file: Path, error: BaseException) -> None:
        """A file that could not be imported."""
        if isinstance(error, SyntaxError) and error.filename:
            own = Path(error.filename).resolve() == file.resolve()
            at = "" if own else f" in {self.shown(Path(error.filename))}:{error.lineno}"
            line = error.lineno if own else _raised_in(file, error)
            self.problem(file, line, f"{type(error).__name__}{at}: {error.msg}")
        elif isinstance(error, ConfigError):
            line = error.line or _raised_in(file, error)
            self.problem(file, line, error.what, error.expected, error.suggestion)
        elif isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "motia":
            self.problem(
                file, _raised_in(file, error), str(error), "", "Write from everstep import … instead"
            )
        else:
            told = str(error).strip() or "without a message"
            self.problem(
                file, _raised_in(file, error), f"{type(error).__name__} when it was imported: {told}"
            )

    def problem(
        self, file: Path, line: int | None, what: str, expected: str = "", suggestion: str = ""
    ) -> None:
        reason = f"{what}; {expected}" if expected else what
        self.found.problems.append(Problem(self.shown(file), line, reason.rstrip("."), suggestion.strip()))

    def shown(self, file: Path) -> str:
        """A path as people in the project say it: from its root, with slashes."""
        try:
            return file.resolve().relative_to(self.root).as_posix()
        except ValueError:
            return str(file)


def _steps_of(module: ModuleType, file: str, *, strict: bool) -> Iterator[tuple[AnyStep, list[str]]]:
    names = vars(module)
    decorated = [value for value in names.values() if isinstance(value, Step)]
    config, handler = names.get("config"), names.get("handler")
    if isinstance(handler, Step) and config is not None:
        raise ConfigError(
            "there is a config, and the handler has @step",
            file=file,
            expected="a Step is written one way or the other",
        )
    # Where other Steps are, or in a module somebody named, `config` may be anything.
    if "config" in names and ((strict and not decorated) or _looks_like_config(config)):
        if handler is not None and not callable(handler):
            raise ConfigError(f"handler is {handler!r}", file=file, expected="it is a function (input, ctx)")
        near = _near("handler", names) if handler is None else ""
        try:
            yield read_config(config, handler, file=file, module=module.__name__)
        except ConfigError as error:
            if handler is None and near and "no handler" in error.what:
                error.suggestion = near
            raise
    elif strict and not decorated:
        raise ConfigError(
            "there is no Step in this file",
            file=file,
            expected='write config = {"name": …, "triggers": […]} and a handler, or use @step',
            suggestion=_near("config", names),
        )
    for step in sorted(decorated, key=lambda step: (step.file, step.line)):
        yield step, warnings_of(step)


def _looks_like_config(config: object) -> bool:
    return isinstance(config, Mapping) and "name" in config and ("triggers" in config or "type" in config)


def _near(name: str, names: Mapping[str, Any]) -> str:
    own = [other for other in names if not other.startswith("_")]
    near = did_you_mean(name, own).strip().removeprefix("Did you mean ").rstrip("?")
    return f"There is {near}; call it {name!r}" if near else ""


def _raised_in(file: Path, error: BaseException) -> int | None:
    """The line of a file that was being run when something was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return lines[-1] if lines else None


def _line_of(file: Path, name: str) -> int | None:
    """Where a name is assigned at the top of a file."""
    try:
        body = ast.parse(file.read_text()).body
    except (OSError, SyntaxError, ValueError):
        return None
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.lineno
    return None
