"""Serving the app on a socket until told to stop, without a request lost on the way out.

The socket is bound by whoever starts us and may outlive us: when we close our
side, connections wait in the kernel for whoever serves it next.

Floor 8.  May import: engine.executors, settings, log, errors, exits.  Imported by: child, start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from everstep import log
from everstep.cli.exits import Refusal
from everstep.engine import executors
from everstep.settings import Settings

BACKLOG = 2_048
LINGER = 1.0  # seconds that threads have to end when all else has
NEW = 0.25  # seconds in which a connection just made may still send its request


def listen(host: str, port: int) -> socket.socket:
    """
    A socket that listens; port 0 takes one that is free.

    Raises:
        Refusal: The port is taken, or the address is not ours.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Refusal(
            f"cannot listen on {host}: {error.strerror}; --host takes an address of this machine"
        ) from None
    # "localhost" is often both; what people type into a client is 127.0.0.1.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Refusal(_cannot(error, host, port)) from None
    return listener


def _cannot(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by another program; choose another: --port {port + 1}"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user; ports below 1024 are for root"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def url_of(listener: socket.socket) -> str:
    """Where it can be reached from this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, which says when it serves, stops when we say so, and answers first whoever was let in."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us: uvicorn would send them on to itself at the end, and die of them."""
        yield

    async def main_loop(self) -> None:
        """Requests are accepted from here on."""
        self._serving()
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, hear those out who just came, then close what is idle and wait for the rest."""
        for server in self.servers:
            server.close()
        # A connection that was accepted a moment ago has not been read from yet:
        # closed now, its request would be lost, and its sender told nothing.
        end = asyncio.get_running_loop().time() + NEW
        while True:
            await asyncio.sleep(0.01)
            unheard = any(map(_unheard, self.server_state.connections))
            if not unheard or asyncio.get_running_loop().time() > end:
                break
        await super().shutdown(sockets)


def _unheard(connection: Any) -> bool:
    return getattr(connection, "cycle", True) is None


class Served(Protocol):
    """An app: answers requests while it is entered, and claims no more runs once it drains."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *exc: Any) -> Any: ...
    def drain(self) -> None: ...


async def serve(
    app: Served,
    listener: socket.socket,
    *,
    drain: float,
    serving: Callable[[], None],
    stopping: Callable[[], None] = lambda: None,
    stops: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """
    Start the app and serve it until one of the *stops* comes; a second ends the process on the spot.

    At the first: no more connections, requests being answered are answered,
    then the app is left, which drains its runs and gives back the rest.

    Args:
        drain: Seconds that requests being answered may still take.
        serving: Called once requests are accepted.
        stopping: Called when the end begins.

    Raises:
        StoreError: The app cannot start; nothing was served.
    """
    server = Server(_config(app, drain), serving)

    def stop(number: signal.Signals) -> None:
        if server.should_exit:
            os._exit(128 + number)
        server.should_exit = True
        app.drain()
        stopping()

    for number in stops:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    async with app:
        await server.serve([listener])


def _config(app: Served, drain: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",  # the app is started by us, so that its errors come to us
        log_config=None,
        access_log=logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO),
        backlog=BACKLOG,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(drain),
    )


def run(work: Coroutine[Any, Any, None]) -> None:
    """
    Run on the fastest loop that is installed, and leave nobody waiting at the end.

    A blocking function cannot be stopped.  Python would wait for its thread
    before the process ends, for ever if need be; its run has been given back,
    so the process ends on the spot instead.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop  # type: ignore[import-not-found,unused-ignore]  # the extra `fast`

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_until_alone(work))


async def _until_alone(work: Coroutine[Any, Any, None]) -> None:
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    asyncio.get_running_loop().set_default_executor(threads)
    await work
    threads.shutdown(wait=False, cancel_futures=True)
    executors.close()
    end = asyncio.get_running_loop().time() + LINGER
    while left := [thread.name for thread in threading.enumerate() if _holds(thread)]:
        if asyncio.get_running_loop().time() > end:
            log.Logger("everstep.start").warning("left threads behind that would not end", {"threads": left})
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)
        await asyncio.sleep(0.02)


def _holds(thread: threading.Thread) -> bool:
    return thread is not threading.main_thread() and not thread.daemon


def configure_logs(settings: Settings, *, access: bool) -> None:
    """Our lines, the HTTP server's and everybody else's, in one format on standard error."""
    log.configure(format=settings.log, level=settings.log_level)
    ours = logging.getLogger(log.ROOT).handlers
    everybody = logging.getLogger()
    if not everybody.handlers:
        everybody.handlers[:] = ours
    server = logging.getLogger("uvicorn")
    server.handlers[:] = ours
    server.propagate = False
    server.setLevel(logging.WARNING)
    requests = logging.getLogger("uvicorn.access")
    requests.handlers[:] = [_Access()]
    requests.propagate = False
    requests.setLevel(logging.INFO if access else logging.CRITICAL)


class _Access(logging.Handler):
    """Says a request of uvicorn's access log as one of our lines, with fields."""

    _log = log.Logger("everstep.access")

    def emit(self, record: logging.LogRecord) -> None:
        client, method, path, _, status = record.args or ("", "", "", "", 0)
        self._log.info("request", {"method": method, "path": path, "status": status, "client": client})
