"""W6: messages through queue Steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.bounds import Row, Rows, entry_row, grouped, time_groups
from bench.child import Child
from bench.engines import FLIGHT, Running, crowd, retried, running
from bench.figure import Figure, middle
from bench.lap import Lap
from bench.place import Place, settle, store_at
from bench.works import Wish
from everstep.core.batch import Run
from everstep.core.journal import OK, Entry
from everstep.engine.registry import Ended, Handler
from everstep.store.base import Subscription

TOPIC = "bench.order"
NEXT = "bench.next"
ORDER = b'{"id": "o-1", "customer": "ada", "total": 1250, "lines": [{"sku": "tea", "count": 2}]}'
PUBLISHERS = 200


async def nothing(attempt: Any) -> Ended:
    """A Step without effects."""
    return Ended()


async def write_and_enqueue(attempt: Any) -> Ended:
    """A Step with one state write and one message, each durable when its await returns."""
    await attempt.effects.kv_set("orders", attempt.run.rid, ORDER)
    await attempt.effects.publish(NEXT, ORDER)
    return Ended()


async def queue(wish: Wish) -> Figure:
    """W6a: one Step, no effects; published and handled at the same time."""
    return await _through(wish, "W6a", retried("step", nothing, TOPIC), 10_000)


async def effects(wish: Wish) -> Figure:
    """W6b: what a Step enqueues waits for a Step of another process; handled here too, it is `chain`."""
    step = retried("step", write_and_enqueue, TOPIC)
    figure = await _through(wish, "W6b", step, 4_000, after=[Subscription(NEXT, "elsewhere")])
    chain = await _through(wish, "W6b", step, 4_000, retried("next", nothing, NEXT))
    figure.details["chain_messages_per_s"] = chain.value
    return figure


async def fifo(wish: Wish) -> Figure:
    """W6c: each message in one of a hundred groups, which keep their order."""
    return await _through(wish, "W6c", retried("step", nothing, TOPIC, fifo=True), 10_000, groups=100)


async def _through(
    wish: Wish,
    name: str,
    step: Handler,
    full: int,
    *others: Handler,
    after: list[Subscription] | None = None,
    groups: int = 0,
) -> Figure:
    count = wish.size(full, 20)
    rates, bounds, cpus, drains, sizes = (
        list[float](),
        list[float](),
        list[float](),
        list[float](),
        list[float](),
    )
    runs_each = 1 + len(others)
    shape = 0.0

    async def publish(run: Running, how_many: int) -> None:
        async def one(number: int) -> None:
            await run.engine.publish(TOPIC, ORDER, group=f"g-{number % groups}" if groups else None)

        await crowd(how_many, one, PUBLISHERS)

    for _ in range(wish.rounds):
        async with wish.place.fresh() as url, running(url, step, *others) as run:
            if after:
                await run.engine.store.subscribe(after, ["elsewhere"])
            await publish(run, wish.size(500, 2))
            await run.until_ended(wish.size(500, 2) * runs_each)
            await settle()
            run.commits.clear()
            before = run.ended
            with Lap() as lap:
                await publish(run, count)
                with Lap() as drain:
                    await run.until_ended(before + count * runs_each)
            rates.append(count / lap.seconds)
            drains.append(drain.seconds / lap.seconds)
            cpus.append(lap.cpu / count * 1000)
            sizes.append(run.commits.average)
            rows = await Rows.of(run.engine.store, step.name, count, journals=False)
            shape = run.commits.batches / count
        async with wish.place.fresh() as url:
            groups_of_rows = grouped(_rows(rows.runs, effects=name == "W6b", keys=groups), sizes[-1])
            bounds.append(count / sum(await time_groups(url, groups_of_rows)))
    details = {
        "messages": count,
        "batches_per_message": shape,
        "batches_per_group": middle(sizes),
        "share_after_last_publish": middle(drains),
        "rounds": rates,
    }
    return Figure(name, wish.place.kind, middle(rates), "messages/s", middle(bounds), middle(cpus), details)


def _rows(runs: list[Run], *, effects: bool, keys: int) -> Iterator[tuple[str, Row]]:
    """What the store must write for these messages: birth, end, remembered effects, the row of the key."""
    entry = Entry("~set/orders/r/0123456789abcdef", 1, "set", "orders/r", 1, 1, 0, OK, b'"m_0123456789"')
    last = runs[-1].id
    for start in range(0, len(runs), FLIGHT):
        window = runs[start : start + FLIGHT]
        for number, run in enumerate(window):
            born = (
                run.id,
                run.rid,
                run.handler,
                run.mode,
                3,
                run.input,
                run.created_at,
                run.topic,
                run.trace,
                1,
                1,
            )
            yield "born", born
            if keys:
                yield "cells", ("key", f"g-{number % keys}", b"12345", run.id)
        if effects:
            for run in window:
                yield "cells", ("orders", run.rid, ORDER, run.id)
                yield "entries", entry_row(run.id, entry)
            for run in window:
                caused = (
                    last + run.id,
                    f"{run.rid}-n",
                    "next",
                    1,
                    2,
                    ORDER,
                    run.created_at,
                    NEXT,
                    run.trace,
                    None,
                    0,
                )
                yield "born", caused
                entry.pos = 2
                yield "entries", entry_row(run.id, entry)
                entry.pos = 1
        for number, run in enumerate(window):
            yield "ended", (run.output, run.id)
            if keys:
                yield "cells", ("key", f"g-{number % keys}", b"12345", run.id)


# ---- two processes


async def two_processes(wish: Wish) -> Figure:
    """W6d: the same backlog for one process and for two; the bound is what one does."""
    count = wish.size(20_000, 40)
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares, cpus = list[float](), list[float]()
    for _ in range(1 if wish.quick else 3):
        for processes in (1, 2):
            seconds, cpu, ended = await _drained(wish.place, count, processes)
            rates[processes].append(count / seconds)
            if processes == 2:
                shares.append(min(ended) / count)
                cpus.append(cpu / count * 1000)
    details = {
        "messages": count,
        "share_of_the_smaller": middle(shares),
        "rounds": rates[2],
        "rounds_of_one": rates[1],
    }
    return Figure(
        "W6d", wish.place.kind, middle(rates[2]), "messages/s", middle(rates[1]), middle(cpus), details
    )


async def _drained(place: Place, count: int, processes: int) -> tuple[float, float, list[int]]:
    async with place.fresh() as url:
        await _backlog(url, count)
        children = [await Child.start("drain", url) for _ in range(processes)]
        for child in children:
            await child.hear("ready")
        for child in children:
            child.say("go")
        told = [await child.hear("done") for child in children]
        for child in children:
            await child.end()
    seconds = max(t["last"] for t in told if t["ended"]) - min(t["began"] for t in told)
    return seconds, sum(t["cpu"] for t in told), [t["ended"] for t in told]


async def _backlog(url: str, count: int) -> None:
    store = store_at(url)
    await store.open()
    await store.subscribe([Subscription(TOPIC, "step")], ["step"])
    await store.close()
    async with running(url, work=False) as run:
        await crowd(count, lambda _: run.engine.publish(TOPIC, ORDER), PUBLISHERS)
