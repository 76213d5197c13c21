"""Servers in processes of their own: ours as `everstep start` serves it, and a bare Starlette.

``python -m bench.server PORT`` is the bare one, on the loop and the uvicorn
settings that `everstep start` uses.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request: Request) -> JSONResponse:
    """What `shop.hello` does."""
    return JSONResponse({"ok": True})


async def submit(request: Request) -> JSONResponse:
    """What `shop.submit` does, without the message."""
    await request.json()
    return JSONResponse({"ok": True})


class Bare(Starlette):
    """Starlette alone."""

    def __init__(self) -> None:
        super().__init__(
            routes=[
                Route("/hello", hello),
                Route("/orders", submit, methods=["POST"]),
                Route("/ready", hello),
            ]
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        return None

    def drain(self) -> None:
        """It claims nothing anyway."""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def bare_line(port: int) -> list[str]:
    """The command of the bare server."""
    return [sys.executable, "-m", "bench.server", str(port)]


def everstep_line(port: int, url: str, folder: str, *modules: str) -> list[str]:
    """The command of ours."""
    program = str(Path(sys.executable).parent / "everstep")
    return [program, "--dir", folder, "--store", url, "start", "--port", str(port), *modules]


@dataclass(slots=True, frozen=True)
class Served:
    """A server that answers: its port, its process, and how long it took to be ready."""

    port: int
    pid: int
    seconds: float

    def cpu(self) -> float | None:
        """Processor seconds so far, where the system tells."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(line: list[str], port: int) -> AsyncIterator[Served]:
    """Run a server until the end of the block."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*line, stderr=asyncio.subprocess.DEVNULL)
    try:
        while not await _ready(port):
            if process.returncode is not None:
                raise RuntimeError(f"{' '.join(line)} ended with exit code {process.returncode}")
            await asyncio.sleep(0.005)
        yield Served(port, process.pid, time.perf_counter() - start)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.startswith(b"HTTP/1.1 200")


def main(port: int) -> None:
    """Serve the bare application until told to stop."""
    from everstep.cli import serving as ours
    from everstep.settings import Settings

    ours.configure_logs(Settings(log_level="warning"), access=False)
    ours.run(ours.serve(Bare(), ours.listen("127.0.0.1", port), drain=1, serving=lambda: None))


if __name__ == "__main__":
    main(int(sys.argv[1]))
