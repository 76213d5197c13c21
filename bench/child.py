"""A process of its own, for works that kill one or need two; it speaks JSON lines.

``python -m bench.child drain URL`` handles a backlog of messages;
``python -m bench.child calls URL LEDGER COUNT`` drives COUNT workflows and
writes each call of a function to LEDGER.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any, Self


class Child:
    """The parent's end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *arguments: str) -> Self:
        """Start one; it says ``ready`` by itself."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.child", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(process)

    def say(self, word: str) -> None:
        """Write one line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def hear(self, word: str) -> dict[str, Any]:
        """Wait for the line of that name; answers what it holds."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told: dict[str, Any] = json.loads(line)
            if told["word"] == word:
                return told
        raise RuntimeError(
            f"the child ended (exit code {await self._process.wait()}) before it said {word!r}"
        )

    async def kill(self) -> None:
        """End it without warning."""
        self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let it end."""
        with suppress(ProcessLookupError):
            self.say("end")
        await self._process.wait()


def _tell(word: str, **facts: Any) -> None:
    print(json.dumps({"word": word, **facts}), flush=True)


async def _asked() -> str:
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


async def drain(url: str) -> None:
    """Handle messages until none is left."""
    from bench.engines import retried, running
    from bench.works.messages import TOPIC, nothing
    from everstep.core.status import Status

    _tell("ready")
    await _asked()
    start, cpu = time.monotonic(), time.process_time()
    async with running(url, retried("step", nothing, TOPIC)) as run:
        ended, last = -1, start
        while True:
            while ended != run.ended:
                (
                    ended,
                    last,
                ) = run.ended, time.monotonic()
                await asyncio.sleep(0.02)
            counts = await run.engine.store.counts()
            if sum(counts.get(("step", status), 0) for status in (Status.READY, Status.RUNNING)) == 0:
                break
            await asyncio.sleep(0.02)
        _tell("done", began=start, last=last, ended=run.ended, cpu=time.process_time() - cpu)
        await _asked()


async def calls(url: str, ledger: str, count: str) -> None:
    """Drive the workflows that are there, beginning them first when COUNT is not 0."""
    from bench.engines import crowd, replayed, running

    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def entered(run_id: str, number: int) -> int:
        os.write(file, f"{run_id} {number}\n".encode())
        return number

    async def body(ctx: Any, given: Any) -> bool:
        for number in range(10):
            await ctx.run(entered, ctx.run_id, number)
        return True

    if int(count):
        async with running(url, replayed("calls", body), work=False) as run:
            await crowd(int(count), lambda _: run.engine.begin("calls", b"null"))
    _tell("ready")
    start = time.monotonic()
    async with running(url, replayed("calls", body)) as run:
        left = await _unfinished(run.engine.store)
        _tell("began", left=left)
        await run.until_ended(left)
        _tell("done", seconds=time.monotonic() - start, at=time.monotonic(), ended=run.ended)
        await _asked()


async def _unfinished(store: Any) -> int:
    from everstep.core.status import Status

    counts = await store.counts()
    return sum(number for (_, status), number in counts.items() if not Status(status).ended)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
