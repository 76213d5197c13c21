"""Serving on a socket, and closing it without losing who was let in."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from everstep.cli.exits import Refusal
from everstep.cli.serving import Server, listen, url_of

pytestmark = pytest.mark.anyio
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def serving(listener: socket.socket) -> tuple[Server, asyncio.Task[None]]:
    began = asyncio.Event()
    server = Server(uvicorn.Config(hello, lifespan="off", log_config=None), began.set)
    task = asyncio.create_task(server.serve([listener]))
    await began.wait()
    return server, task


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


async def test_who_was_let_in_before_the_end_is_answered() -> None:
    """A connection that was accepted, but had not sent its request yet, may still send it."""
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    server, task = await serving(listener)
    reader, writer = await asyncio.open_connection(*address)
    await until(lambda: bool(server.server_state.connections))

    server.should_exit = True
    await until(lambda: not server.servers[0].is_serving())
    writer.write(REQUEST)

    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await task


async def test_who_says_nothing_does_not_hold_up_the_end() -> None:
    """A connection that never sends a request is closed after a moment."""
    listener = listen("127.0.0.1", 0)
    server, task = await serving(listener)
    _, writer = await asyncio.open_connection(*listener.getsockname())

    server.should_exit = True
    async with asyncio.timeout(10):
        await task

    writer.close()


async def test_requests_wait_in_the_backlog_for_the_next_server() -> None:
    """While the socket is kept by somebody, nobody is refused between two servers."""
    kept = listen("127.0.0.1", 0)
    server, task = await serving(kept.dup())
    server.should_exit = True
    await task

    reader, writer = await asyncio.open_connection(*kept.getsockname())
    writer.write(REQUEST)
    server, task = await serving(kept.dup())

    assert (await reader.read(12)) == b"HTTP/1.1 200"
    writer.close()
    server.should_exit = True
    await task
    kept.close()


def test_listening_says_where_or_why_not() -> None:
    """A free port is found and named; a taken one, or an address that is not ours, is a sentence."""
    with listen("localhost", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(Refusal, match=f"--port {port + 1}"):
            listen("127.0.0.1", port)
    with listen("0.0.0.0", 0) as everywhere:
        assert url_of(everywhere).startswith("http://127.0.0.1:")
    with pytest.raises(Refusal, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)
