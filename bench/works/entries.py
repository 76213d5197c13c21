"""The store alone: what `Store.commit` writes, with nothing above it."""

from __future__ import annotations

from bench.bounds import Group, entry_row, time_groups
from bench.figure import Figure, middle
from bench.lap import Lap
from bench.place import settle, store_at
from bench.works import Wish
from everstep.core.batch import Batch, Begin, Mode
from everstep.core.journal import OK, Entry
from everstep.ids import new_id

RUNS = 100
VALUE = b'{"number": 1, "pad": "' + b"x" * 80 + b'"}'


async def groups(wish: Wish) -> Figure:
    """Groups of a hundred batches of one entry each, one group after the other."""
    count = wish.size(200, 2)
    rates, bounds, cpus = list[float](), list[float](), list[float]()
    for _ in range(wish.rounds):
        async with wish.place.fresh() as url:
            store = store_at(url)
            await store.open()
            worker = await store.register("bench", "", ["calls"])
            begin = [
                Batch(changes=[Begin(new_id("r"), "calls", Mode.REPLAY, b"null", claim=True)])
                for _ in range(RUNS)
            ]
            done = await store.commit(worker, begin)
            runs = [outcome.results[0].run for outcome in done.outcomes]  # type: ignore[union-attr]  # all applied
            await settle()
            with Lap() as lap:
                for number in range(count):
                    await store.commit(worker, [Batch(run.id, run.epoch, [_entry(number)]) for run in runs])
            rates.append(count * RUNS / lap.seconds)
            cpus.append(lap.cpu / count / RUNS * 1000)
            await store.close()
        async with wish.place.fresh() as url:
            bare = [
                Group(entries=[entry_row(run.id, _entry(number)) for run in runs]) for number in range(count)
            ]
            bounds.append(count * RUNS / sum(await time_groups(url, bare)))
    details = {"groups": count, "batches_per_group": RUNS, "rounds": rates}
    return Figure(
        "entries", wish.place.kind, middle(rates), "entries/s", middle(bounds), middle(cpus), details
    )


def _entry(number: int) -> Entry:
    return Entry("0", number, "run", "note", 1234567, number + 1, 1_700_000_000_000_000, OK, VALUE)
