"""A wire to PostgreSQL that can be cut at a chosen word: before it arrives, or after its answer was given."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit


class Wire:
    """Forwards connections to a server until told to cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._pipes: set[asyncio.StreamWriter] = set()
        self._door: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.word = b""  # cut the connection that says this
        self.delivered = False  # after the server has heard it and answered
        self.cuts = 0
        self.cut = asyncio.Event()
        self.closes = False  # and let nobody in from then on
        self._muted: asyncio.StreamWriter | None = None  # hears no answers any more
        self.closed = False  # let nobody in

    async def open(self) -> int:
        self._door = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._door.sockets[0].getsockname()[1]
        return port

    def cut_at(self, word: bytes, *, delivered: bool) -> None:
        """Cut the next connection that sends this word."""
        self.word, self.delivered = word, delivered
        self.cut = asyncio.Event()

    def cut_all(self) -> None:
        """Cut every connection there is."""
        for pipe in list(self._pipes):
            pipe.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        theirs, ours = await asyncio.open_connection(*self._server)
        self._pipes |= {writer, ours}
        both = (writer, ours)
        answered = asyncio.Event()
        for work in (self._there(reader, both, answered), self._back(theirs, both, answered)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _there(
        self,
        reader: asyncio.StreamReader,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        answered: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.word and self.word in data:
                    self.word = b""
                    self.cuts += 1
                    self.cut.set()
                    self.closed = self.closed or self.closes
                    if self.delivered:
                        answered.clear()
                        self._muted = both[0]
                        both[1].write(data)
                        await answered.wait()
                    break
                both[1].write(data)
        self._end(both)

    async def _back(
        self,
        reader: asyncio.StreamReader,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        answered: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._muted is both[0]:
                    answered.set()
                    break
                both[0].write(data)
        self._end(both)

    def _end(self, both: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        for pipe in both:
            self._pipes.discard(pipe)
            pipe.transport.abort()

    async def close(self) -> None:
        self._door.close()
        self.cut_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._door.wait_closed()


@contextlib.asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire, and the URL of the same database through it."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 5432)
    port = await wire.open()
    user = f"{parts.username}{f':{parts.password}' if parts.password else ''}@" if parts.username else ""
    try:
        yield wire, urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
    finally:
        await wire.close()
