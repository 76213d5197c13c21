"""W7: http Steps, served by `everstep start`, beside a bare Starlette on the same uvicorn settings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import server, shop
from bench.bounds import Group, time_groups
from bench.figure import Figure, middle
from bench.load import from_outside
from bench.place import Place
from bench.server import Served
from bench.works import Wish

ORDER = '{"id": "o-1", "customer": "ada", "total": 1250, "lines": [{"sku": "tea", "count": 2}]}'


async def trivial(wish: Wish) -> Figure:
    """W7a: requests a second over 50 connections; the bound is Starlette's."""
    seconds, connections = (0.1, 2) if wish.quick else (2.0, 50)
    rates, bounds, p50s = list[float](), list[float](), list[float]()
    cpus: dict[Served, list[float]] = {}
    async with _both(wish.place) as servers:
        ours, _ = servers
        for served in servers:
            await from_outside(served.port, connections, seconds / 2, "GET", "/hello")
        for _ in range(wish.rounds):
            for served in servers:
                before = served.cpu() or 0.0
                told = await from_outside(served.port, connections, seconds, "GET", "/hello")
                cpus.setdefault(served, []).append(((served.cpu() or 0.0) - before) / told["requests"] * 1000)
                (rates if served is ours else bounds).append(told["per_second"])
                if served is ours:
                    p50s.append(told["p50_ms"])
    own, bare = (middle(cpus[served]) for served in servers)
    details: dict[str, Any] = {
        "connections": connections,
        "p50_ms": middle(p50s),
        "cpu_of_bare": bare,
        **_served_by(),
    }
    details |= {"rounds": rates, "rounds_of_bare": bounds}
    return Figure("W7a", wish.place.kind, middle(rates), "requests/s", middle(bounds), own, details)


async def enqueuing(wish: Wish) -> Figure:
    """W7b: one request at a time; the bound is Starlette's p50 with a bare commit of one row."""
    seconds, crowd = (0.1, 2) if wish.quick else (2.0, 50)
    p50s, p99s, bounds, rates, cpus = (
        list[float](),
        list[float](),
        list[float](),
        list[float](),
        list[float](),
    )
    request = ("POST", "/orders", ORDER)
    async with _both(wish.place) as (ours, bare):
        for served in (ours, bare):
            await from_outside(served.port, 1, seconds / 2, *request)
        for _ in range(wish.rounds):
            before = ours.cpu() or 0.0
            told = await from_outside(ours.port, 1, seconds, *request)
            p50s.append(told["p50_ms"])
            p99s.append(told["p99_ms"])
            cpus.append(((ours.cpu() or 0.0) - before) / told["requests"] * 1000)
            rates.append((await from_outside(ours.port, crowd, seconds, *request))["per_second"])
            starlette = (await from_outside(bare.port, 1, seconds, *request))["p50_ms"]
            bounds.append(starlette + await _commit_ms(wish))
    details: dict[str, Any] = {
        "p99_ms": middle(p99s),
        f"requests_per_s_over_{crowd}_connections": middle(rates),
    }
    details |= {**_served_by(), "rounds": p50s}
    return Figure("W7b", wish.place.kind, middle(p50s), "ms", middle(bounds), middle(cpus), details)


async def _commit_ms(wish: Wish) -> float:
    groups = [
        Group(born=[(n, f"r-{n}", "receive", 1, 2, ORDER.encode(), n, "bench.submitted", "t", None, 0)])
        for n in range(1, wish.size(300, 5))
    ]
    async with wish.place.fresh() as url:
        return middle(await time_groups(url, groups)) * 1e3


@asynccontextmanager
async def _both(place: Place) -> AsyncIterator[tuple[Served, Served]]:
    ours, bare = server.free_port(), server.free_port()
    with tempfile.TemporaryDirectory(prefix="everstep-bench-") as folder:
        shutil.copy(Path(shop.__file__), folder)
        async with (
            place.fresh() as url,
            server.serving(server.everstep_line(ours, url, folder, "shop.py"), ours) as our_server,
            server.serving(server.bare_line(bare), bare) as bare_server,
        ):
            yield our_server, bare_server


def _served_by() -> dict[str, str]:
    """Which parser and loop uvicorn found: with a slow one, ratios look better."""
    return {
        "http": "httptools" if find_spec("httptools") else "h11",
        "loop": "uvloop" if find_spec("uvloop") else "asyncio",
    }
