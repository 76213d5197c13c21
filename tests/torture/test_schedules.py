"""Whatever is killed, and whenever: same results, every effect once, nothing lost.

Each schedule is a seed; EVERSTEP_TORTURE_SEED=17 runs that one alone, and
EVERSTEP_TORTURE=1 (make torture) runs thousands.
"""

import os
from pathlib import Path

import pytest

from tests.torture.nursery import Nursery
from tests.torture.schedules import Schedule

LONG = os.environ.get("EVERSTEP_TORTURE") == "1"
SEED = os.environ.get("EVERSTEP_TORTURE_SEED")


def seeds(ci: int, long: int) -> list[int]:
    return [int(SEED)] if SEED else list(range(long if LONG else ci))


@pytest.mark.parametrize("seed", seeds(250, 4_500))
def test_on_sqlite(seed: int, tmp_path: Path, nursery: Nursery) -> None:
    """Children on one SQLite file, one or two at a time, are killed up to four times."""
    tally = Schedule(seed, f"sqlite:///{tmp_path}/runs.db", tmp_path, nursery).run()
    print(f"seed {seed}: {tally}")


@pytest.mark.parametrize("seed", seeds(80, 1_000))
def test_on_postgres(seed: int, tmp_path: Path, nursery: Nursery, postgres_url: str) -> None:
    """The same on a schema of PostgreSQL."""
    tally = Schedule(seed, postgres_url, tmp_path, nursery).run()
    print(f"seed {seed}: {tally}")
