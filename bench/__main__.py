"""``python -m bench WORK [--store URL] [--variant NAME] [--json] [--quick]``."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Sequence

from bench.figure import Figure, table
from bench.place import Place
from bench.works import NotYet, Wish, works


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one work, or all of them, each in a process of its own."""
    known = works()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("work", nargs="?", default="all", help=f"all, or one of: {', '.join(known)}")
    parser.add_argument(
        "--store", default="", help="URL of a store; work is done in fresh files or databases beside it"
    )
    parser.add_argument("--variant", default="plain", help="of W1: plain or pydantic")
    parser.add_argument("--json", action="store_true", help="print one object for each work")
    parser.add_argument(
        "--quick", action="store_true", help="only see that it works: the figures mean nothing"
    )
    given = parser.parse_args(arguments)
    if given.work == "all":
        return _all(given)
    if given.work not in known:
        parser.error(f"there is no work {given.work!r}; there are {', '.join(known)} and all")
    measure, what = known[given.work]
    try:
        figure = asyncio.run(measure(Wish(Place(given.store), given.variant, given.quick)))
    except NotYet as reason:
        print(f"{given.work}: {reason}", file=sys.stderr)
        return 3
    if given.json:
        print(figure.as_json())
    else:
        print(f"{given.work}: {what}\n{table([figure])}\n{_details(figure)}")
    return 0


def _all(given: argparse.Namespace) -> int:
    failed = 0
    options = ["--json"] if given.json else []
    options += ["--quick"] if given.quick else []
    options += ["--store", given.store] if given.store else []
    for work in works():
        for variant in ("plain", "pydantic") if work == "W1" else ("plain",):
            line = [sys.executable, "-m", "bench", work, "--variant", variant, *options]
            code = subprocess.run(line, check=False).returncode
            failed += code not in (0, 3)
            if not given.json:
                print(flush=True)
    return 1 if failed else 0


def _details(figure: Figure) -> str:
    facts = {"cpu_s_per_1000": figure.cpu_s_per_1000} | figure.details
    return "\n".join(f"  {name}: {_said(value)}" for name, value in facts.items())


def _said(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "  ".join(map(_said, value))
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
