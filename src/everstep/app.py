"""`App`: one project's Steps on one store, as an ASGI application and an async context manager.

The one place that names concrete stores, and the one that puts the parts
together: settings, store, Steps, engine, doors.

Floor 7.  May import: everything below.  Imported by: users, cli, testing.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, overload

from typing_extensions import TypeVar

from everstep.durations import Duration
from everstep.engine.engine import Engine
from everstep.engine.registry import Registry
from everstep.errors import ConfigError, EverstepError, did_you_mean
from everstep.log import Logger
from everstep.settings import Settings
from everstep.steps.context import read_message
from everstep.steps.discover import Found, collect, discover
from everstep.steps.dispatch import handler_of
from everstep.steps.kv import KV
from everstep.steps.step import Step
from everstep.steps.topic import Topic
from everstep.store.base import Store

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from everstep.http.site import Site

T = TypeVar("T")

MEMORY = ":memory:"
_SCHEMES = ("sqlite", "postgresql", "postgres")
_NOT_STARTED = (
    "everstep has not been started in this process. When it is mounted in another application, "
    "that one must start it: FastAPI(lifespan=app.lifespan), or Starlette(lifespan=app.lifespan)"
)
_log = Logger("everstep.app")


def open_store(url: str) -> Store:
    """
    The store a URL names; nothing is opened yet.

    Raises:
        ConfigError: No store has this scheme, or what it needs is not installed.

    >>> open_store("sqlite:///everstep.db").url
    'sqlite:///everstep.db'
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if url == MEMORY or scheme == "sqlite":
        from everstep.store.sqlite import SqliteStore

        return SqliteStore(url)
    if scheme in ("postgresql", "postgres"):
        if find_spec("asyncpg") is None:
            raise ConfigError(
                f"the store '{shown(url)}' needs asyncpg", suggestion="pip install 'everstep[postgres]'"
            )
        from everstep.store.postgres import PostgresStore

        return PostgresStore(url)
    raise ConfigError(
        f"the store is '{shown(url)}'",
        expected="a store is sqlite:///everstep.db, sqlite:// (in memory) or postgresql://user@host/name",
        suggestion=did_you_mean(scheme, _SCHEMES),
    )


def shown(url: str) -> str:
    """
    A store's URL without its password, for people and logs.

    >>> shown("postgresql://app:secret@db/orders")
    'postgresql://app:***@db/orders'
    """
    scheme, slashes, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{scheme}{slashes}{user}{colon}{'***' if colon else ''}{at}{place}"


class App:
    """
    Steps on a store, served over HTTP and worked on in this process.

    An ASGI application (``uvicorn main:app``), an async context manager, and,
    mounted in another application, something that one starts:

    >>> api = FastAPI(lifespan=app.lifespan)
    >>> api.mount("/flows", app)
    """

    def __init__(
        self,
        store: str | None = None,
        *,
        include: Sequence[str | ModuleType] = (),
        root: Path | str | None = None,
        settings: Settings | None = None,
        cors: Sequence[str] = (),
    ) -> None:
        """
        Nothing is imported or opened before it is started.

        Args:
            store: Its URL; else what EVERSTEP_STORE says, else ``sqlite:///everstep.db``.
            include: Modules that hold Steps, as modules or by name.
            root: The folder below whose ``src/`` and ``steps/`` Steps are found by
                their file names; without it and *include*, the current one.
            settings: Instead of those of the environment.
            cors: Origins whose pages may call the Steps, such as ``https://shop.example``.

        Raises:
            ConfigError: A setting or an origin cannot be used.
        """
        url = "sqlite://" if store == MEMORY else store
        if settings is None:
            self.settings = Settings.load(store=url)
        else:
            self.settings = settings if url is None else replace(settings, store=url)
        if cors:
            self.settings = replace(self.settings, cors=tuple(cors))
        self._include = tuple(include)
        self._root = Path(root) if root is not None else None if self._include else Path.cwd()
        self._found: Found | None = None
        self._engine: Engine | None = None
        self._site: Site | None = None
        self._why_not = _NOT_STARTED

    # ---- what it holds

    @property
    def found(self) -> Found:
        """The Steps, what is wrong with others, and warnings; looked for once."""
        if self._found is None:
            self._found = _find(self._root, self._include)
        return self._found

    @property
    def steps(self) -> Sequence[Step[Any, Any]]:
        """All Steps, those that are only drawn included."""
        return self.found.steps

    @property
    def engine(self) -> Engine:
        """
        The engine of this process.

        Raises:
            EverstepError: The App is not started.
        """
        if self._engine is None:
            raise EverstepError(
                "this App has not been started: use it inside `async with app:`, serve it, or give its "
                "lifespan to the application it is mounted in, FastAPI(lifespan=app.lifespan)"
            )
        return self._engine

    @property
    def state(self) -> KV:
        """Groups of keys that every Step shares."""
        return KV(self.engine.effects(trace=""))

    # ---- verbs

    @overload
    async def enqueue(
        self,
        topic: Topic[T],
        data: T,
        /,
        *,
        delay: Duration | None = None,
        group: str | None = None,
        priority: int = 0,
        dedup: str | None = None,
    ) -> str: ...
    @overload
    async def enqueue(
        self,
        topic: str,
        data: Any,
        /,
        *,
        delay: Duration | None = None,
        group: str | None = None,
        priority: int = 0,
        dedup: str | None = None,
    ) -> str: ...
    @overload
    async def enqueue(self, message: Mapping[str, Any], /) -> str: ...
    async def enqueue(self, *args: Any, **options: Any) -> str:
        """
        Send a message: every Step that listens to the topic gets its own copy, in any process.

        The message is durable when this returns its id.

        Args:
            topic: A `Topic`, or a name for plain data.
            data: The message; checked against the topic's type before anything happens.
            delay: Not before this long from now.
            group: Messages of one group are handled in order by Steps that are FIFO.
            priority: Higher goes first among those that are ready.

        Raises:
            InvalidInput: The data is not of the topic's type.
            GroupMissing: A FIFO Step listens to this topic, and the message names no group.

        >>> await app.enqueue("order.submitted", {"id": "o-1"})
        """
        message = read_message(*args, **options)
        sent = await self.engine.publish(
            message.topic,
            message.data,
            group=message.group,
            delay=message.delay,
            priority=message.priority,
        )
        return sent.mid

    # ---- life

    async def start(self) -> None:
        """
        Find the Steps, open the store, and begin to work (unless EVERSTEP_WORK=off) and to answer.

        Raises:
            ConfigError: In production, a Step cannot be used: all such are named. In dev they are logged.
            StoreError: The store cannot be used.
        """
        if self._engine is not None:
            raise EverstepError("this App is started already; one `async with app:` or lifespan is enough")
        from everstep.http.site import Site

        self._report()
        registry = Registry()
        for step in self.steps:
            if not step.noop:
                registry.add(handler_of(step, dev=self.settings.dev))
        engine = Engine(open_store(self.settings.store), registry, self.settings)
        site = Site(engine, self.steps, self.settings)
        await engine.start(work=self.settings.work)
        self._engine, self._site = engine, site

    def drain(self) -> None:
        """Claim nothing more, and say so at ``/ready``; what was begun goes on until `stop`."""
        if self._engine is not None:
            self._engine.drain()

    async def stop(self) -> None:
        """Take no more requests, stop claiming, let what runs end, give the rest back at once, close."""
        engine, self._engine = self._engine, None
        site, self._site = self._site, None
        self._why_not = "everstep is stopping in this process"
        try:
            if site is not None:
                await site.drained(self.settings.drain)
        finally:
            if engine is not None:
                await engine.stop()

    def _report(self) -> None:
        for warning in self.found.warnings:
            _log.warning(warning)
        problems = [str(problem) for problem in self.found.problems]
        if problems and not self.settings.dev:
            listed = "\n".join(f"  {problem}" for problem in problems)
            raise ConfigError(f"{_count(problems)} cannot be used:\n{listed}")
        for problem in problems:
            _log.error(problem)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def lifespan(self, asgi: Any) -> AbstractAsyncContextManager[None]:
        """
        What starts and stops this App with the application it is mounted in.

        >>> api = FastAPI(lifespan=app.lifespan)
        """
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with self:
            yield

    # ---- ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or start and stop with the server."""
        match scope["type"]:
            case "http" if self._site is not None:
                await self._site(scope, receive, send)
            case "http":
                await _answer_503(self._why_not, scope, receive, send)
            case "lifespan":
                await self._serve_lifespan(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise EverstepError(f"everstep answers no '{other}' connections")

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            _log.error("could not start", reason=str(error))
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.stop()
        except Exception as error:
            _log.exception("could not stop in order")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


def _find(root: Path | None, include: Sequence[str | ModuleType]) -> Found:
    if root is not None:
        return discover(root, include)
    found = Found()
    for given in include:
        of = collect(importlib.import_module(given) if isinstance(given, str) else given)
        found.steps += [step for step in of.steps if step not in found.steps]
        found.problems += of.problems
        found.warnings += of.warnings
    return found


def _count(problems: Sequence[str]) -> str:
    return "a Step" if len(problems) == 1 else f"{len(problems)} Steps"


async def _answer_503(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    from everstep.http.answers import refusal_piece
    from everstep.http.refusals import busy

    await refusal_piece(busy(why), [], head=scope["method"] == "HEAD")(scope, receive, send)
