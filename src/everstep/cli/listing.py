"""What a project has, as plain data: to print, to send between processes, and to compare.

A `Listing` is what the server found.  The child of `everstep dev` sends it to
its parent, which prints it, and after a reload only what became different.

Floor 8.  May import: command, steps.  Imported by: child, dev, start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everstep.cli.command import count

if TYPE_CHECKING:
    from rich.text import Text

    from everstep.steps.discover import AnyStep, Found


@dataclass(frozen=True)
class Listed:
    """One Step: how it is printed, and what its file looked like."""

    name: str
    kind: str
    file: str
    line: int = 0
    on: tuple[str, ...] = ()  # "POST /orders", "order.submitted"
    flows: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong, and what to do about it."""

    file: str
    line: int | None
    reason: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}"


@dataclass
class Listing:
    """Everything that was found."""

    steps: list[Listed] = field(default_factory=list)
    problems: list[Trouble] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, found: Found, root: Path) -> Listing:
        """The listing of what discovery found below *root*."""
        return cls(
            [_listed(step, root) for step in found.steps],
            [Trouble(p.file, p.line, p.reason, p.suggestion) for p in found.problems],
            list(found.warnings),
        )

    @classmethod
    def read(cls, document: dict[str, Any]) -> Listing:
        """Read back what `document` wrote."""
        steps = [Listed(**{**s, "on": tuple(s["on"]), "flows": tuple(s["flows"])}) for s in document["steps"]]
        return cls(steps, [Trouble(**p) for p in document["problems"]], list(document["warnings"]))

    def document(self) -> dict[str, Any]:
        """The listing as JSON."""
        return asdict(self)

    @property
    def flows(self) -> dict[str, int]:
        """The flows and how many Steps each has, in the order they are first named."""
        counts: dict[str, int] = {}
        for step in self.steps:
            for flow in step.flows:
                counts[flow] = counts.get(flow, 0) + 1
        return counts


def _listed(step: AnyStep, root: Path) -> Listed:
    on = [route.route for route in step.routes] + [queue.topic for queue in step.queues]
    digest = _digest(root / step.file)
    return Listed(step.name, step.kind, step.file, step.line, tuple(on), step.flows, digest)


def _digest(file: Path) -> str:
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


# ---- for people


CREATED, UPDATED, REMOVED = "[CREATED]", "[UPDATED]", "[REMOVED]"
_STYLES = {CREATED: "green", UPDATED: "yellow", REMOVED: "red"}


def changes(before: Listing, after: Listing) -> Iterator[tuple[str, Listed]]:
    """What became different, Step by Step; a Step is known by its name."""
    old = {step.name: step for step in before.steps}
    for step in after.steps:
        was = old.pop(step.name, None)
        if was is None:
            yield CREATED, step
        elif was != step:
            yield UPDATED, step
    for gone in old.values():
        yield REMOVED, gone


def change_line(tag: str, step: Listed) -> Text:
    """``[CREATED] Step (Queue) src/analyze_risk_step.py``, and what it listens to."""
    from rich.text import Text

    line = Text.assemble((tag, _STYLES[tag]), f" Step ({step.kind}) {step.file or step.name}")
    if step.on:
        line.append("  " + ", ".join(step.on), style="dim")
    return line


def flow_line(name: str, steps: int) -> Text:
    """``[CREATED] Flow order-approval (6 Steps)``."""
    from rich.text import Text

    return Text.assemble((CREATED, "green"), f" Flow {name} ", (f"({count(steps, 'Step')})", "dim"))


def problem_lines(problem: Trouble) -> Text:
    """A problem in red: file and line, reason, and what to do."""
    from rich.text import Text

    text = Text.assemble(("[PROBLEM] ", "bold red"), (str(problem), "red"))
    if problem.suggestion:
        text.append(f"\n          {problem.suggestion}")
    return text


def warning_line(warning: str) -> Text:
    """A warning in yellow."""
    from rich.text import Text

    return Text.assemble(("[WARNING] ", "yellow"), warning)
