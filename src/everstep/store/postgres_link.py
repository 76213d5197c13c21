"""Connections to PostgreSQL: where, how, and what their errors mean.

Floor 2.  May import: floor 0.  Imported by: store.postgres.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from everstep import clock as clocks
from everstep.errors import ConfigError, StoreUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
T = TypeVar("T")
OLDEST = 13
TRIES = 20  # of a transaction that others keep from going through

# The plans of our statements are ours: each starts from a few rows and finds the
# others by an index. Left to guess, PostgreSQL plans for the empty tables it saw
# first, and keeps that plan while they grow.
_SETTINGS = {
    "application_name": "everstep",
    "jit": "off",
    "lock_timeout": "20000",
    "idle_in_transaction_session_timeout": "15000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
PLANNED = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

# The same group may go through at the next try.
REPEAT = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)

# Not now: a full disk, a standby, too many connections, a lock nobody frees.
_NOT_NOW = (
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
)
_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver stumbles over when the server falls silent
    OSError,
    EOFError,
)
# What a server says to somebody it does not let in.
_NOT_LET_IN = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.TooManyConnectionsError,
)


class Lost(Exception):
    """The connection is gone in the middle of something."""


@dataclass(frozen=True, slots=True)
class Place:
    """A schema in a database; `shown` names it without secrets."""

    dsn: str
    schema: str
    shown: str

    def key(self, what: str) -> int:
        """The number of an advisory lock; those are per database, so the schema is in it."""
        digest = blake2b(f"{self.schema}/{what}".encode(), digest_size=8, person=b"everstep").digest()
        return int.from_bytes(digest, "big", signed=True)

    @property
    def channel(self) -> str:
        """What workers of this schema notify each other on; channels are per database too."""
        return f"everstep_{self.key('channel') & 0xFFFFFFFFFFFFFFFF:016x}"

    @property
    def quoted(self) -> str:
        """The schema as an SQL name."""
        return '"' + self.schema.replace('"', '""') + '"'


def place_of(url: str) -> Place:
    """
    Take a URL apart: our own ``?schema=`` is not for the driver.

    >>> place_of("postgresql://ann:secret@db/shop?schema=jobs").shown
    'postgresql://db/shop?schema=jobs'
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in query if name == "schema"]
    schema = schemas[-1] if schemas else "everstep"
    if parts.scheme not in ("postgresql", "postgres") or not 0 < len(schema.encode()) < 64 or "\0" in schema:
        raise ConfigError(
            "the store's URL names no PostgreSQL database",
            expected="it looks like postgresql://user@host:5432/database?schema=everstep",
        )
    rest = urlencode([pair for pair in query if pair[0] != "schema"])
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    shown = f"postgresql://{host}{parts.path}?schema={schema}"
    return Place(urlunsplit(parts._replace(query=rest)), schema, shown)


@contextmanager
def in_our_words(place: Place, connection: Connection | None = None) -> Iterator[None]:
    """Say errors of the server and of the network in our words; a lost connection is `Lost`."""
    try:
        yield
    except _GONE as error:
        if (
            isinstance(error, asyncpg.InterfaceError)
            and connection is not None
            and not connection.is_closed()
        ):
            raise  # the driver is right: we asked for something that makes no sense
        raise Lost(f"{place.shown}: {error or type(error).__name__}") from error
    except _NOT_NOW as error:
        raise StoreUnavailable(f"{place.shown}: {error}") from error


async def connect(place: Place, settings: dict[str, str]) -> Connection:
    """
    Open a connection.

    Raises:
        StoreUnavailable: The server cannot be reached, or does not let us in.
    """
    try:
        connection: Connection = await asyncpg.connect(
            place.dsn,
            server_settings={"search_path": place.quoted} | _SETTINGS | settings,
            statement_cache_size=200,
            max_cached_statement_lifetime=0,
            timeout=10,
        )
    except (*_GONE, *_NOT_NOW, *_NOT_LET_IN, TimeoutError) as error:
        raise StoreUnavailable(f"{place.shown}: {error or 'no answer within 10 s'}") from error
    version: Any = connection.get_server_version()
    if version.major < OLDEST:
        await connection.close()
        raise StoreUnavailable(f"{place.shown}: this is PostgreSQL {version.major}; everstep needs {OLDEST}")
    return connection


async def leave(connection: Connection) -> None:
    """Close a connection, politely if the server still listens."""
    try:
        await connection.close(timeout=2)
    except (TimeoutError, *_GONE, asyncpg.PostgresError):
        connection.terminate()


async def roll_back(connection: Connection) -> None:
    """Leave a transaction that failed, if there is one."""
    if not connection.is_closed() and connection.is_in_transaction():
        await connection.execute("ROLLBACK")


class ServerClock:
    """The server's clock, read off our own; a clock that is not the system's is taken as it is."""

    def __init__(self, clock: clocks.Clock) -> None:
        self.clock = clock
        self._ahead = 0
        self._last = 0

    def now(self) -> int:
        """Microseconds since 1970; never goes backwards."""
        self._last = max(self._last, self.clock.now_us() + self._ahead)
        return self._last

    async def set_by(self, connection: Connection) -> None:
        """Ask the server for the time."""
        if self.clock is not clocks.system:
            return
        before = self.clock.now_us()
        theirs = await connection.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        self._ahead = theirs - (before + self.clock.now_us()) // 2


class Link:
    """One connection for one user at a time; opened when it is needed, and again after it was lost."""

    def __init__(self, place: Place, clock: ServerClock, settings: dict[str, str]) -> None:
        self.place = place
        self.lock = asyncio.Lock()
        self.backend: Any = None  # what the server calls this connection
        self._clock = clock
        self._settings = settings
        self._db: Connection | None = None

    async def get(self) -> Connection:
        """The connection; the caller holds the lock, or is alone."""
        if self._db is None or self._db.is_closed():
            db = await connect(self.place, self._settings)
            try:
                with in_our_words(self.place, db):
                    self.backend = await db.fetchrow(
                        "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
                    )
                    await self._clock.set_by(db)
            except Lost as lost:
                raise StoreUnavailable(str(lost)) from lost
            self._db = db
        return self._db

    def drop(self) -> None:
        """Forget a connection that is of no use any more."""
        db, self._db = self._db, None
        if db is not None:
            db.terminate()

    async def close(self) -> None:
        """Close it."""
        db, self._db = self._db, None
        if db is not None and not db.is_closed():
            await leave(db)

    async def do(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """
        Ask something that may be asked twice.

        Raises:
            StoreUnavailable: The server was lost, and the new connection too.
        """
        async with self.lock:
            for last in (False, True):
                db = await self.get()
                try:
                    with in_our_words(self.place, db):
                        return await fn(db)
                except Lost as lost:
                    self.drop()
                    if last:
                        raise StoreUnavailable(str(lost)) from lost
            raise AssertionError

    async def transaction(self, fn: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something in a transaction of its own, which may be done twice."""

        async def inside(db: Connection) -> T:
            for tries in range(1, TRIES + 1):
                try:
                    await db.execute("BEGIN")
                    result = await fn(db)
                    await db.execute("COMMIT")
                except REPEAT:
                    await roll_back(db)
                    if tries == TRIES:
                        raise
                    await asyncio.sleep(random.uniform(0, 0.005 * tries))
                except BaseException:
                    await roll_back(db)
                    raise
                else:
                    return result
            raise AssertionError

        return await self.do(inside)
