"""SQL by name: each statement of a store lives in a file here, under ``-- name --``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def load(store: str) -> dict[str, str]:
    """
    The named statements of one store.

    A file is a row of ``-- name --`` lines, each followed by a comment in run
    words and one statement.

    >>> "claim_runs" in load("sqlite")
    True
    """
    text = files("everstep.store.queries").joinpath(f"{store}.sql").read_text("utf-8")
    parts = re.split(r"^-- (\w+) --$", text, flags=re.MULTILINE)
    return {name: _bare(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _bare(body: str) -> str:
    lines = [line for line in body.strip().splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip()
