"""Opening the store a command works on, to read it or to act on it.

Acting goes through an `Engine` that takes no work: what it writes is in the
store when it returns, and every worker is rung, in whatever process.

Floor 8.  May import: app, engine, store.base, errors, exits.  Imported by: cli.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from everstep.app import open_store
from everstep.cli.command import Call
from everstep.cli.exits import STORE, Refusal
from everstep.engine.engine import Engine
from everstep.engine.registry import Registry
from everstep.settings import Settings
from everstep.store.base import Store


def _there(url: str) -> None:
    """
    Refuse to read a SQLite file that is not there: opening it would make it.

    Raises:
        Refusal: There is no such file, or it lives in the memory of one process.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        return
    path = unquote(parts.path[1:])
    if path in ("", ":memory:"):
        raise Refusal(f"{url} lives in the memory of one process; another cannot look into it", STORE)
    file = Path(path).absolute()
    if not file.exists():
        raise Refusal(
            f"there is no store at {file}. It is made by everstep dev, start or enqueue; "
            "name another with --store or --dir",
            STORE,
        )


@asynccontextmanager
async def reading(call: Call) -> AsyncIterator[Store]:
    """The store, to look at; it must be there."""
    settings = call.settings()
    _there(settings.store)
    store = open_store(settings.store)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def acting(call: Call, *, create: bool = False) -> AsyncIterator[Engine]:
    """An engine that takes no work; with *create* a SQLite file that is not there is made."""
    settings: Settings = call.settings()
    if not create:
        _there(settings.store)
    # That some worker died is for the servers' logs, not for an answer here.
    logging.getLogger("everstep.worker").setLevel(logging.ERROR)
    engine = Engine(open_store(settings.store), Registry(), settings)
    await engine.start(work=False)
    try:
        yield engine
    finally:
        await engine.stop()
