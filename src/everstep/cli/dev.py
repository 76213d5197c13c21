"""`everstep dev`: serve a project, and start it anew whenever a file changes.

The parent binds the socket and keeps it; a child serves on it.  On a change
the child is drained and another started: requests that come meanwhile wait in
the socket's backlog.  A child that cannot start is reported, and the next
change gives it another chance.

Floor 8.  May import: settings, command, exits, listing, reload, serving.  Imported by: program.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from everstep.cli.command import Call
from everstep.cli.start import Host, Modules, Port

DRAIN = 3.0  # seconds a reload gives what is running, unless EVERSTEP_DRAIN says otherwise
PATIENCE = 1.0  # seconds the child has to end at Ctrl-C
STEADY = 10.0  # seconds of serving after which a child that dies did not die of its start
# A run that crashes its worker is set aside after five claims: then the sixth child lives.
DEATHS = 6


def dev(
    call: Call,
    modules: Modules = None,
    host: Host = None,
    port: Port = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
) -> int:
    """Serve the project and reload it on change; what cannot be used is said, the rest is served."""
    from everstep.cli.serving import listen

    drain = None if os.environ.get("EVERSTEP_DRAIN") else DRAIN
    settings = call.settings(host=host, port=port, drain=drain)
    listener = listen(settings.host, settings.port)
    told = {
        "settings": {"store": settings.store, "drain": settings.drain, "dev": True},
        "modules": modules or [],
        "access": access_log,
    }
    return asyncio.run(Dev(call, listener, told, settings.drain).run())


@dataclass
class Child:
    """One process that serves, and when it began to."""

    process: asyncio.subprocess.Process
    pair: socket.socket
    serving_since: float | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


# What can happen: a file changed, a child said something, a child ended, somebody wants us to stop.


@dataclass(frozen=True)
class Changed:
    paths: frozenset[str]


@dataclass(frozen=True)
class Said:
    child: Child
    event: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    child: Child


@dataclass(frozen=True)
class Stop:
    number: signal.Signals


Event = Changed | Said | Ended | Stop


class Dev:
    """The parent: one loop over what happens."""

    def __init__(self, call: Call, listener: socket.socket, told: dict[str, Any], drain: float) -> None:
        from everstep.cli.report import Report
        from everstep.cli.serving import url_of

        self._listener = listener
        self._told = told
        self._drain = drain
        self._report = Report(call, url_of(listener))
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._child: Child | None = None
        self._ever = False  # a child has served
        self._deaths = 0  # how many died in a row

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        from everstep.cli.watching import Watch

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._events.put_nowait, Stop(number))
        watch = Watch(Path.cwd(), lambda paths: self._events.put_nowait(Changed(paths)))
        await watch.start()
        try:
            await self._spawn()
            while True:
                code = await self._on(await self._events.get())
                if code is not None:
                    return code
        finally:
            await watch.stop()
            await self._end(PATIENCE)
            self._listener.close()

    async def _on(self, event: Event) -> int | None:
        match event:
            case Stop():
                self._report.stopping()
                return 0
            case Changed(paths):
                await self._reload(paths)
            case Said(child, "found", fields) if child is self._child:
                self._report.found(fields["listing"])
            case Said(child, "serving") if child is self._child:
                child.serving_since = asyncio.get_running_loop().time()
                self._ever = True
                self._report.serving()
            case Said(child, "failed", fields) if child is self._child:
                self._report.failed(fields["error"])
                if not self._ever and fields["code"] > 1:
                    return int(fields["code"])  # a setting or the store: no change of a file will help
            case Ended(child) if child is self._child:
                await self._died(child)
        return None

    async def _reload(self, paths: frozenset[str]) -> None:
        waiting = []
        while not self._events.empty():  # what else changed meanwhile is the same reload
            event = self._events.get_nowait()
            if isinstance(event, Changed):
                paths |= event.paths
            else:
                waiting.append(event)
        for event in waiting:
            self._events.put_nowait(event)
        self._report.changed(sorted(paths))
        self._deaths = 0
        await self._end(self._drain + PATIENCE)
        await self._spawn()

    async def _died(self, child: Child) -> None:
        """The child ended, and nobody asked it to."""
        self._child = None
        await _finish(child)
        since = child.serving_since
        if since is None:  # it has said why, or was killed as it started
            self._report.waiting(child.process.returncode)
            return
        steady = asyncio.get_running_loop().time() - since > STEADY
        self._deaths = 1 if steady else self._deaths + 1
        again = self._deaths < DEATHS
        self._report.died(child.process.returncode, again=again)
        if again:
            await self._spawn()

    # ---- the child

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        fds = (self._listener.fileno(), theirs.fileno())
        told = json.dumps({**self._told, "listener": fds[0], "parent": fds[1]})
        with theirs:
            # -B: within one second a changed module can have the time and size of its old bytecode.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-B", "-m", "everstep.cli.child", told, pass_fds=fds
            )
        child = self._child = Child(process, ours)
        child.tasks = [asyncio.create_task(self._hear(child))]

    async def _hear(self, child: Child) -> None:
        reader, writer = await asyncio.open_connection(sock=child.pair, limit=1 << 26)
        try:
            while line := await reader.readline():
                said = json.loads(line)
                self._events.put_nowait(Said(child, said.pop("event"), said))
        finally:
            writer.close()
        await child.process.wait()
        self._events.put_nowait(Ended(child))

    async def _end(self, patience: float) -> None:
        """End the child: ask, ask again so that it ends on the spot, kill."""
        child, self._child = self._child, None
        if child is None:
            return
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGTERM, 0.5), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                child.process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await child.process.wait()
                    break
        await _finish(child)


async def _finish(child: Child) -> None:
    for task in child.tasks:
        task.cancel()
    await asyncio.gather(*child.tasks, return_exceptions=True)
    child.pair.close()
