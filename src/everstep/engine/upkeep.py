"""Once a minute: assert what must always hold in the store, and forget what is old.

Floor 3.  May import: store.base, floor 0.  Imported by: engine.worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from everstep.errors import StoreUnavailable
from everstep.log import Logger
from everstep.store.base import Store

MINUTE = 60.0
FULL = 500  # a sweep that deleted so many has more to do
_log = Logger("everstep.worker")


async def keep_up(
    store: Store,
    keep: int,
    repaired: Callable[[int], None],
    lost: Callable[[StoreUnavailable], None],
) -> None:
    """
    Sweep for ever.

    Args:
        keep: Microseconds that runs are kept after their end.
        repaired: Told how many repairs a sweep made; any is a defect of everstep.
        lost: Told that the store takes no writes.
    """
    while True:
        deleted = 0
        try:
            repairs, deleted = await store.sweep(keep)
            if repairs:
                _log.error(
                    "the sweep repaired what must never be; please report this", {"repairs": repairs}
                )
                repaired(repairs)
        except StoreUnavailable as error:
            lost(error)
        except Exception as error:
            _log.error("the sweep failed", {"error": repr(error)})
        await asyncio.sleep(1 if deleted >= FULL else MINUTE)
