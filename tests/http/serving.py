"""An App of a few Steps in memory, and a client that speaks to it without a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx

from everstep.app import App
from everstep.settings import Settings
from everstep.steps.step import Step


def app_of(*steps: Step[Any, Any], **settings: Any) -> App:
    """An App that holds just these Steps."""
    module = ModuleType("steps_of_a_test")
    for number, step in enumerate(steps):
        setattr(module, f"step_{number}", step)
    return App(include=[module], settings=Settings(**{"store": "sqlite://", "drain": 1.0, **settings}))


def client_of(app: Any, *, base: str = "http://localhost", address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client of an ASGI application, as if from *address*."""
    transport = httpx.ASGITransport(app, client=(address, 50_000), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base)


@asynccontextmanager
async def serving(*steps: Step[Any, Any], **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a started App with these Steps."""
    app = app_of(*steps, **settings)
    async with app, client_of(app) as client:
        yield client
