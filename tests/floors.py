"""The rules of the house, read off the source: who may import whom, and who may read the time.

Each rule looks at one `Module` (a parsed file) and yields a `Fault`.  Imports
under TYPE_CHECKING and inside functions count like any other: a cycle that is
only typed is still a cycle for the reader.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "everstep"
FLOORS: dict[str, float] = {
    **dict.fromkeys(["errors", "durations", "clock", "ids", "codec", "log", "settings"], 0),
    "core": 1,
    "store": 2,
    "engine": 3,
    "runtimes": 4,
    **dict.fromkeys(["workflows", "steps"], 5),
    "http": 6,
    "app": 7,
    "__init__": 7.5,
    **dict.fromkeys(["cli", "console", "testing", "compat", "__main__"], 8),
}
APART = {frozenset({"workflows", "steps"})}  # neighbours that do not meet
NEVER_IMPORTED = ("__init__", "testing", "compat")  # doors for users, not for us
CONCRETE_STORES = ("sqlite", "postgres", "redis")
READS_THE_TIME = "clock"
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
LINES = 500


@dataclass(frozen=True)
class Fault:
    """Where a rule is broken, and how."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Module:
    """One source file under *root*, the folder that holds the package."""

    root: Path
    path: Path

    @cached_property
    def name(self) -> str:
        """`everstep.core.journal`; a package is named without its `__init__`."""
        parts = self.path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """What a relative import in this file starts from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.path.read_text(), str(self.path))))

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """The line and full name of all that this file imports from its own package."""
        found = [pair for node in self.nodes for pair in self._imported(node)]
        return [(line, name) for line, name in found if name.split(".")[0] == PACKAGE]

    def _imported(self, node: ast.AST) -> Iterator[tuple[int, str]]:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = self.package.split(".")[: len(self.package.split(".")) - level + 1] if level else []
                source = ".".join([*base, *([origin] if origin else [])])
                for alias in names:
                    inner = f"{source}.{alias.name}"
                    yield node.lineno, inner if self._is_module(inner) else source
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name

    def _is_module(self, name: str) -> bool:
        path = self.root.joinpath(*name.split("."))
        return path.is_dir() or path.with_suffix(".py").is_file()

    def fault(self, line: int, reason: str) -> Fault:
        return Fault(self.path.relative_to(self.root), line, reason)


def modules(root: Path) -> list[Module]:
    return [Module(root, path) for path in sorted((root / PACKAGE).rglob("*.py"))]


def room(name: str) -> str:
    """The part of the house a module belongs to: `everstep.core.journal` is in `core`."""
    return name.split(".")[1] if "." in name else "__init__"


def upward_imports(module: Module) -> Iterator[Fault]:
    """Nobody imports from a floor above, and neighbours that are kept apart do not meet."""
    here = room(module.name)
    if here not in FLOORS:
        yield module.fault(1, f"{here!r} has no floor: give it one in tests/floors.py and in the design")
        return
    for line, target in module.imports:
        there = room(target)
        if there == here:
            continue
        if there not in FLOORS:
            yield module.fault(line, f"imports {target}, and {there!r} has no floor")
        elif there in NEVER_IMPORTED:
            yield module.fault(line, f"imports {target}: nothing inside imports {there!r}")
        elif FLOORS[there] > FLOORS[here]:
            yield module.fault(
                line, f"{module.name} (floor {FLOORS[here]:g}) imports {target} (floor {FLOORS[there]:g})"
            )
        elif frozenset({here, there}) in APART:
            yield module.fault(line, f"imports {target}: {here} and {there} do not know each other")


def concrete_stores(module: Module) -> Iterator[Fault]:
    """Only app names a concrete store; everyone else knows `store.base`."""
    here = room(module.name)
    if here == "app":
        return
    for line, target in module.imports:
        if room(target) != "store":
            continue
        if here != "store" and not f"{target}.".startswith(f"{PACKAGE}.store.base."):
            yield module.fault(line, f"imports {target}: only app may; others import store.base")
        elif here == "store" and (kind := store_kind(target)) not in (None, store_kind(module.name)):
            yield module.fault(line, f"imports {target}: only app and the {kind} store itself may")


def store_kind(name: str) -> str | None:
    """`sqlite` for everstep.store.sqlite and for its parts, like everstep.store.sqlite_writer."""
    leaf = name.split(".")[2] if name.count(".") > 1 else ""
    return next((kind for kind in CONCRETE_STORES if leaf.startswith(kind)), None)


def read_times(module: Module) -> Iterator[Fault]:
    """Only clock reads the time, so that a test can move all of it."""
    if room(module.name) == READS_THE_TIME:
        return
    dates = {"date", "datetime"} | {
        alias.asname
        for node in module.nodes
        if isinstance(node, ast.ImportFrom) and node.module == "datetime"
        for alias in node.names
        if alias.asname and alias.name in ("date", "datetime")
    }
    for node in module.nodes:
        match node:
            case ast.Import(names=names) if any(alias.name == "time" for alias in names):
                yield module.fault(node.lineno, "imports time: ask the clock")
            case ast.ImportFrom(module="time", level=0):
                yield module.fault(node.lineno, "imports from time: ask the clock")
            case ast.Attribute(
                value=ast.Name(id=kind) | ast.Attribute(attr=kind), attr="now" | "utcnow" | "today" as read
            ) if kind in dates:
                yield module.fault(node.lineno, f"{kind}.{read} reads the time: ask the clock")


def vague_names(module: Module) -> Iterator[Fault]:
    """A module is named after what is in it."""
    for part in VAGUE_NAMES.intersection(module.name.split(".")):
        yield module.fault(1, f"{part!r} says nothing about what is inside")


def long_files(module: Module, allowed: dict[str, str]) -> Iterator[Fault]:
    """A file is read in one sitting; *allowed* names those that may be longer, each with its reason."""
    lines = len(module.path.read_text().splitlines())
    name = module.path.relative_to(module.root).as_posix()
    if lines > LINES and name not in allowed:
        yield module.fault(LINES, f"has {lines} lines; {LINES} is the most")
    elif lines <= LINES and name in allowed:
        yield module.fault(1, "is short enough: take it off the list of long files")
