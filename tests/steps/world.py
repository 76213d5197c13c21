"""A real engine on SQLite in memory, with the Steps of one test."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from everstep.core.batch import Run
from everstep.core.failure import decode_error
from everstep.core.status import Status
from everstep.engine.engine import Engine
from everstep.engine.registry import Registry
from everstep.settings import Settings
from everstep.steps.dispatch import handler_of, respond
from everstep.steps.request import Request, Response, Values, accept
from everstep.steps.step import Step
from everstep.store.sqlite import SqliteStore

AnyStep = Step[Any, Any]


class World:
    """What a test does from outside, and what it can see."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def send(self, topic: str, data: Any, **options: Any) -> list[Run]:
        """Publish plain JSON (or bytes as they are), wait until all is done, answer all runs."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        await self.engine.publish(topic, body, **options)
        return await self.settled()

    async def settled(self) -> list[Run]:
        """Wait until no run goes on, then answer them, oldest first."""
        # There is no event to wait for: this looks at the store from outside, as a person would.
        while any(not Status(s).ended for _, s in (await self.engine.store.counts())):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        return list(reversed(await self.engine.store.runs()))

    async def ask(
        self, step: AnyStep, body: Any = None, *, dev: bool = True, trace: str = "t-1", **parts: Any
    ) -> Response:
        """Answer a request as the HTTP room would."""
        trigger = step.routes[0]
        query = Values(parts.pop("query", []))
        request: Request[Any] = Request(body=body, query=query, method=trigger.method, **parts)
        effects = self.engine.effects(trace=trace, gather=step.gathers)
        return await respond(step, trigger, accept(trigger, request), effects, dev=dev)

    async def state(self, group: str, key: str) -> Any:
        """One value of state as plain data."""
        row = await self.engine.store.kv_get(group, key)
        return None if row is None else json.loads(row.value)


def error_of(run: Run) -> Exception:
    """Why a run failed."""
    assert run.error is not None
    return decode_error(run.error)


@asynccontextmanager
async def running(*steps: AnyStep) -> AsyncIterator[World]:
    """An engine that runs these Steps."""
    registry = Registry()
    for step in steps:
        registry.add(handler_of(step, dev=True))
    engine = Engine(SqliteStore("sqlite:///:memory:"), registry, Settings())
    await engine.start()
    try:
        yield World(engine)
    finally:
        await engine.stop()
