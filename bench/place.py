"""Where a work's rows go: a fresh file or database for every round."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from everstep.app import open_store
from everstep.store.base import Store


@dataclass(slots=True, frozen=True)
class Place:
    """A kind of store, from the URL of one: beside that file, or on that server."""

    url: str = ""

    @property
    def kind(self) -> str:
        """sqlite, memory or postgresql: what the figures name."""
        if self.url.startswith("postgres"):
            return "postgresql"
        return "memory" if self.url and not file_of(self.url) else "sqlite"

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[str]:
        """The URL of an empty store, which is removed afterwards."""
        if self.kind == "memory":
            yield "sqlite://"
        elif self.kind == "postgresql":
            async with self._database() as url:
                yield url
        else:
            beside = os.path.dirname(file_of(self.url)) or None
            with tempfile.TemporaryDirectory(prefix="everstep-bench-", dir=beside) as folder:
                yield f"sqlite:///{folder}/bench.db"

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[str]:
        import asyncpg

        name = f"bench_{uuid4().hex[:12]}"
        server = await asyncpg.connect(self.url)
        try:
            await server.execute(f"CREATE DATABASE {name}")
            yield urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await server.close()


def store_at(url: str) -> Store:
    """The store of a URL, not yet open."""
    return open_store(url)


def file_of(url: str) -> str:
    """The file of a ``sqlite://`` URL; empty: it is in memory."""
    return url.removeprefix("sqlite://").removeprefix("/").removeprefix(":memory:")


async def settle() -> None:
    """Let threads and sockets of the round before go, and start with a clean heap."""
    import gc

    await asyncio.sleep(0.05)
    gc.collect()
