"""`everstep start`: serve a project in production.

One process: JSON logs, nothing served when a Step cannot be used, and an end
that loses nothing: the port is closed, requests are answered, runs end or are
given back to other workers.

Floor 8.  May import: app, settings, log, command, listing, serving.  Imported by: program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everstep.cli.command import Call, count
from everstep.cli.exits import CONFIG, OK, code_of
from everstep.log import Logger

if TYPE_CHECKING:
    from everstep.app import App
    from everstep.cli.listing import Listing
    from everstep.settings import Settings

Modules = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODULE.py]...", help="Files or modules with Steps, beside src/ and steps/."),
]
Host = Annotated[str | None, typer.Option(help="EVERSTEP_HOST, or 127.0.0.1.", show_default=False)]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65_535, help="EVERSTEP_PORT, or 3111; 0 takes a free one.", show_default=False),
]


def start(
    call: Call,
    modules: Modules = None,
    host: Host = None,
    port: Port = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
) -> int:
    """Serve the project in production: JSON logs, graceful end on SIGTERM."""
    from everstep.cli import serving

    settings = call.settings(host=host, port=port, log=os.environ.get("EVERSTEP_LOG") or "json")
    serving.configure_logs(settings, access=access_log)
    try:
        return _start(call, settings, modules or [])
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        # As a line of the log, like all before it: who reads them reads JSON.
        Logger("everstep.start").error(str(error))
        return code


def _start(call: Call, settings: Settings, modules: Sequence[str]) -> int:
    from everstep.cli import serving

    app, listing = app_of(settings, modules, Path.cwd())
    if listing.problems:
        _refuse(call, listing)
        return CONFIG
    listener = serving.listen(settings.host, settings.port)
    voice = _Voice(call, serving.url_of(listener), listing)
    serving.run(
        voice.around(
            serving.serve(app, listener, drain=settings.drain, serving=voice.serving, stopping=voice.stopping)
        )
    )
    return OK


def app_of(settings: Settings, modules: Sequence[str], root: Path) -> tuple[App, Listing]:
    """The app of a project, and what was found in it."""
    from everstep.app import App
    from everstep.cli.listing import Listing

    if str(root) not in sys.path:  # modules beside src/ are importable, however we were started
        sys.path.insert(0, str(root))
    app = App(include=modules, root=root, settings=settings)
    return app, Listing.of(app.found, root)


class _Voice:
    """Says how the server fares: log lines, and with --json events on standard output."""

    def __init__(self, call: Call, url: str, listing: Listing) -> None:
        self._call = call
        self._log = Logger("everstep.start")
        self._url = url
        self._listing = listing

    def serving(self) -> None:
        self._say("serving", url=self._url, steps=len(self._listing.steps))

    def stopping(self) -> None:
        self._say("stopping")

    async def around(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        self._say("stopped")

    def _say(self, event: str, **fields: object) -> None:
        self._log.info(event, fields)
        if self._call.json:
            self._call.document({"event": event, **fields})


def _refuse(call: Call, listing: Listing) -> None:
    log = Logger("everstep.start")
    for problem in listing.problems:
        fields = {"file": problem.file, "line": problem.line, "suggestion": problem.suggestion}
        log.error(problem.reason, fields)
        if call.json:
            call.document({"event": "problem", "reason": problem.reason, **fields})
    log.error(f"{count(len(listing.problems), 'Step')} cannot be used; nothing was started")
