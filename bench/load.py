"""Load on one HTTP route, from a process of its own.

``python -m bench.load PORT CONNECTIONS SECONDS METHOD PATH [BODY]``

Sockets and the least of a parser, so that the client costs less than what it
measures.  Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, cast

from bench.figure import percentile


class _Client(asyncio.Protocol):
    """Sends the same request again as soon as its answer is there."""

    def __init__(self, request: bytes, until: float, times: list[float]) -> None:
        self._request = request
        self._until = until
        self._times = times
        self._answer = b""
        self._need = -1
        self._sent = 0.0
        self._transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._again()

    def _again(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._need < 0:
            head, found, _ = self._answer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._end(RuntimeError(head.decode("latin-1")))
                return
            _, _, length = head.lower().partition(b"content-length:")
            self._need = len(head) + 4 + int(length.split(b"\r\n", 1)[0])
        if len(self._answer) >= self._need:
            now = time.perf_counter()
            self._times.append(now - self._sent)
            self._answer, self._need = b"", -1
            if now < self._until:
                self._again()
            else:
                self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._transport.close()
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError("the server closed a connection"))


async def load(port: int, connections: int, seconds: float, request: bytes) -> dict[str, Any]:
    """Requests a second, and how long they took."""
    times: list[float] = []
    start, cpu = time.perf_counter(), time.process_time()
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, start + seconds, times), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    took = time.perf_counter() - start
    return {
        "requests": len(times),
        "per_second": len(times) / took,
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
        "client_cpu": (time.process_time() - cpu) / took,
    }


def request_of(method: str, path: str, body: str = "") -> bytes:
    """The bytes of one request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


async def from_outside(port: int, connections: int, seconds: float, *request: str) -> dict[str, Any]:
    """The same, from a process of its own."""
    line = [sys.executable, "-m", "bench.load", str(port), str(connections), str(seconds), *request]
    process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} failed")
    told: dict[str, Any] = json.loads(out)
    return told


if __name__ == "__main__":
    _, _port, _connections, _seconds, *_request = sys.argv
    print(
        json.dumps(asyncio.run(load(int(_port), int(_connections), float(_seconds), request_of(*_request))))
    )
