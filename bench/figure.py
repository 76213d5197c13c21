"""What a work answers, and what it must reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Figure:
    """
    One work's result.

    `bound` is the raw bound of the same store in the same run, in the unit of
    `value`; `ratio` is value / bound.  `cpu_s_per_1000` counts the processor
    seconds of all threads (and children) for 1,000 units of work.
    """

    work: str
    store: str
    value: float
    unit: str
    bound: float
    cpu_s_per_1000: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How the value stands to the bound."""
        return self.value / self.bound if self.bound else 0.0

    def as_json(self) -> str:
        """The one object a work prints."""
        facts = {name: _short(value) for name, value in asdict(self).items()}
        details = facts.pop("details")
        cpu = facts.pop("cpu_s_per_1000")
        return json.dumps(facts | {"ratio": _short(self.ratio), "cpu_s_per_1000": cpu, "details": details})


def _short(value: Any) -> Any:
    """A number with the digits that mean something."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value


@dataclass(slots=True, frozen=True)
class Budget:
    """What a work must reach and aims at: of its value or its ratio, where more or less is better."""

    must: float
    goal: float
    of: str = "value"
    less: bool = False

    def verdict(self, figure: Figure) -> str:
        """goal, must, or what is missing."""
        got = figure.ratio if self.of == "ratio" else figure.value
        if (got <= self.goal) if self.less else (got >= self.goal):
            return "goal"
        if (got <= self.must) if self.less else (got >= self.must):
            return "must"
        return "MISSED"

    def shown(self, limit: float) -> str:
        """The limit as the table prints it."""
        sign = "≤" if self.less else "≥"
        text = f"{limit:,.0f}" if limit >= 1000 else f"{limit:g}"
        return f"{sign} {text}{' of bound' if self.of == 'ratio' else ''}"


# By work, then by store when that matters.
BUDGETS: dict[str, Budget] = {
    "W1": Budget(30_000, 50_000),
    "W1 postgresql": Budget(20_000, 30_000),
    "W1-pydantic": Budget(25_000, 40_000),
    "W1-otel": Budget(10_000, 25_000),
    "W2": Budget(1.2, 0.8, less=True),
    "W2 postgresql": Budget(3.0, 2.0, of="ratio", less=True),
    "W4": Budget(0.1, 0.05, less=True),
    "W5": Budget(1.0, 1.0, less=True),
    "W6a": Budget(15_000, 25_000),
    "W6b": Budget(8_000, 8_000),
    "W6c": Budget(8_000, 8_000),
    "W6d": Budget(1.0, 1.0, of="ratio"),
    "W7a": Budget(0.6, 0.8, of="ratio"),
    "W7b": Budget(2.0, 2.0, less=True),
    "W9": Budget(50_000, 100_000),
    "import": Budget(200, 150, less=True),
    "start": Budget(1.0, 1.0, less=True),
}


def budget_of(figure: Figure) -> Budget | None:
    """What the work must reach on this store, if that was ever said."""
    return BUDGETS.get(f"{figure.work} {figure.store}", BUDGETS.get(figure.work))


def table(figures: Sequence[Figure]) -> str:
    """The figures for people."""
    rows = [("work", "store", "value", "unit", "bound", "ratio", "must", "goal", "reached")]
    for figure in figures:
        budget = budget_of(figure)
        limits = (
            (budget.shown(budget.must), budget.shown(budget.goal), budget.verdict(figure))
            if budget
            else ("", "", "")
        )
        rows.append(
            (
                figure.work,
                figure.store,
                _number(figure.value),
                figure.unit,
                _number(figure.bound),
                f"{figure.ratio:.2f}",
                *limits,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which *share* of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Sequence[float]) -> float:
    """The median: one noisy round does not move it."""
    return float(median(values))
