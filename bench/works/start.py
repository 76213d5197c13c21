"""How long an import and a start take, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from bench import server
from bench.figure import Figure, middle
from bench.lap import Lap
from bench.works import Wish

TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
NAME = "import everstep"
USED = "from everstep import App, StepContext, Topic, on, step"
STANDS_ON = "import asyncio, json, logging, sqlite3, pydantic, pydantic_core"


async def imports(wish: Wish) -> Figure:
    """What a program with Steps and an App imports; the bound is the libraries below it."""
    used, name, bound, cpus = list[float](), list[float](), list[float](), list[float]()
    for _ in range(wish.size(9, 1) + 1):  # the first one reads the disk
        with Lap() as lap:
            used.append(_seconds(USED))
        cpus.append(lap.cpu * 1000)
        name.append(_seconds(NAME))
        bound.append(_seconds(STANDS_ON))
    details = {"statement": USED, "import_everstep_ms": middle(name[1:]) * 1e3, "bound_is": STANDS_ON}
    return Figure(
        "import",
        wish.place.kind,
        middle(used[1:]) * 1e3,
        "ms",
        middle(bound[1:]) * 1e3,
        middle(cpus[1:]),
        details,
    )


def _seconds(statement: str) -> float:
    line = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


async def ready(wish: Wish) -> Figure:
    """From the start of the process to the first 200 of /ready; the bound is a bare Starlette's."""
    ours, bare, cpus = list[float](), list[float](), list[float]()
    for _ in range(wish.rounds):
        port = server.free_port()
        with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
            async with wish.place.fresh() as url:
                with Lap() as lap:
                    async with server.serving(server.everstep_line(port, url, folder), port) as served:
                        ours.append(served.seconds)
                cpus.append(lap.cpu * 1000)
        port = server.free_port()
        async with server.serving(server.bare_line(port), port) as served:
            bare.append(served.seconds)
    return Figure("start", wish.place.kind, middle(ours), "s", middle(bare), middle(cpus), {"rounds": ours})
