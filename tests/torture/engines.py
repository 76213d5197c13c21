"""An engine in this process, for what is told slowly: one handler, and messages to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from everstep.codec import codec_for
from everstep.core.batch import Mode, Run
from everstep.core.retry import Retry
from everstep.engine.attempt import Attempt
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.settings import Settings
from everstep.store.base import Store, Subscription
from everstep.store.sqlite import SqliteStore

ONE_MORE = [{"type": "increment", "path": "n"}]
AT_ONCE = Retry(attempts=4, delay=0.001)
PATIENCE = 20.0

Call = Callable[..., Awaitable[Any]]


def url_in(folder: Path) -> str:
    """A store in a folder."""
    return f"sqlite:///{folder}/runs.db"


def step(call: Callable[[Attempt], Awaitable[None]], name: str = "t", **options: Any) -> Handler:
    """A retry-mode handler of its own topic; it answers nothing."""

    async def attempt(this: Attempt) -> Ended:
        await call(this)
        return Ended()

    fifo = options.pop("fifo", False)
    options = {"retry": AT_ONCE} | options
    return Handler(name, Mode.RETRY, attempt, subscriptions=(Subscription(name, name, fifo),), **options)


def body(call: Call, name: str = "body") -> Handler:
    """A replay-mode handler."""
    return Handler(name, Mode.REPLAY, call, input=codec_for(Any), output=codec_for(Any))


@asynccontextmanager
async def working(
    store: Store | str, *handlers: Handler, work: bool = True, **settings: Any
) -> AsyncIterator[Engine]:
    """An engine with these handlers, stopped when the block ends."""
    registry = Registry()
    for handler in handlers:
        registry.add(handler)
    chosen = Settings(**({"drain": 5.0} | settings))
    engine = Engine(SqliteStore(store) if isinstance(store, str) else store, registry, chosen)
    await engine.start(work=work)
    try:
        yield engine
    finally:
        await engine.stop()


async def sent(engine: Engine, topic: str = "t", data: object = None, **options: Any) -> str:
    """Send a message; the id of its (first) run."""
    published = await engine.publish(topic, json.dumps(data).encode(), **options)
    return f"r_{published.mid[2:]}"


async def done(engine: Engine, rid: str) -> Run:
    """The run, once it has ended."""
    return await engine.result(rid, timeout=PATIENCE)


async def value(engine: Engine, key: str, group: str = "g") -> Any:
    """A value of state."""
    row = await engine.store.kv_get(group, key)
    return None if row is None else json.loads(row.value)


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
