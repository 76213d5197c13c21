"""W8: writes of state from outside any run."""

from __future__ import annotations

from bench.bounds import grouped, time_groups
from bench.engines import FLIGHT, crowd, running
from bench.figure import Figure, middle
from bench.lap import Lap
from bench.place import settle
from bench.works import Wish

VALUE = b'{"status": "awaiting", "total": 1250, "lines": 3}'


async def writes(wish: Wish) -> Figure:
    """Each durable when its await returns, to 1,000 keys in turn; no triggers."""
    count = wish.size(20_000, 20)
    rates, bounds, cpus, sizes = list[float](), list[float](), list[float](), list[float]()
    for _ in range(wish.rounds):
        async with wish.place.fresh() as url, running(url) as run:
            await settle()
            run.commits.clear()
            with Lap() as lap:
                await crowd(count, lambda n: run.engine.kv_set("orders", f"o-{n % 1000}", VALUE))
            rates.append(count / lap.seconds)
            cpus.append(lap.cpu / count * 1000)
            sizes.append(run.commits.average)
        async with wish.place.fresh() as url:
            # Keys differ within a group, as PostgreSQL's unnest wants it.
            rows = [("cells", ("orders", f"o-{n % 1000}", VALUE, n)) for n in range(count)]
            bounds.append(count / sum(await time_groups(url, grouped(rows, min(sizes[-1], 1000)))))
    details = {
        "writes": count,
        "in_flight": FLIGHT,
        "batches_per_group": middle(sizes),
        "triggers": 0,
        "rounds": rates,
    }
    return Figure("W8", wish.place.kind, middle(rates), "writes/s", middle(bounds), middle(cpus), details)
