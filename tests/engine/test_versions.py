"""A journal written by another minor version of Python is replayed on this one.

``python -m tests.engine.test_versions`` writes the journals anew; the ones
checked in were written by Python 3.11.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from everstep.core.journal import Entry
from tests.engine.programs import REPLAYABLE, world_of

JOURNALS = Path(__file__).parent / "journals_3_11.json"


def written() -> dict[str, Any]:
    """Journals and results by program."""
    kept: dict[str, Any] = json.loads(JOURNALS.read_text())
    return kept


@pytest.mark.parametrize("program", REPLAYABLE)
def test_a_journal_of_another_version_leads_to_the_same_end(program: str) -> None:
    """Addresses and the order of delivery mean the same on each version; nothing runs again."""
    journal, result = written()[program]

    async def go() -> None:
        world = world_of(program)
        for lane, pos, kind, name, fp, seq, at, state, value in journal:
            data = None if value is None else value.encode()
            world.journal[lane, pos] = Entry(lane, pos, kind, name, fp, seq, at, state, data)
        world.run.epoch = 1

        assert await world.replay() == result

    asyncio.run(go())


def write() -> None:
    """Write the journals of all programs, each with crashes on its way."""
    kept: dict[str, Any] = {}
    for seed, program in enumerate(REPLAYABLE):
        world = world_of(program, seed)
        result = asyncio.run(world.to_the_end(crashes=3))
        rows = []
        for entry in world.journal.values():
            text = None if entry.value is None else entry.value.decode()
            if entry.state and text is not None:
                # A traceback names the folders of whoever wrote it.
                text = json.dumps({k: v for k, v in json.loads(text).items() if k != "traceback"})
            rows.append(
                [
                    entry.lane,
                    entry.pos,
                    entry.kind,
                    entry.name,
                    entry.fp,
                    entry.seq,
                    entry.at,
                    entry.state,
                    text,
                ]
            )
        kept[program] = [rows, result]
    JOURNALS.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in kept.items()) + "\n}\n")


if __name__ == "__main__":
    write()
