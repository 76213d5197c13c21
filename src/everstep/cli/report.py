"""What `everstep dev` says: Steps and what became different, problems, where it listens.

For people on standard output; with --json one event a line, and nothing else.

Floor 8.  May import: command, listing.  Imported by: dev.
"""

from __future__ import annotations

import signal
from typing import Any

from everstep.cli.command import Call
from everstep.cli.listing import (
    Listing,
    change_line,
    changes,
    flow_line,
    problem_lines,
    warning_line,
)


class Report:
    """The voice of the parent."""

    def __init__(self, call: Call, url: str) -> None:
        self._call = call
        self._url = url
        self._known = Listing()
        self._first = True

    def _say(self, event: str, **fields: Any) -> bool:
        """Say it to a program; False when a person listens."""
        if self._call.json:
            self._call.document({"event": event, **fields})
        return self._call.json

    def found(self, document: dict[str, Any]) -> None:
        """What the project has; after a reload, what became different."""
        from dataclasses import asdict

        listing = Listing.read(document)
        different = list(changes(self._known, listing))
        flows = {name: n for name, n in listing.flows.items() if name not in self._known.flows}
        self._known = listing
        told = [{"change": tag.strip("[]").lower(), **asdict(step)} for tag, step in different]
        problems = [asdict(problem) for problem in listing.problems]
        rest = {"problems": problems, "warnings": listing.warnings, "flows": listing.flows}
        if self._say("steps", changes=told, **rest):
            return
        out = self._call.console
        for tag, step in different:
            out.print(change_line(tag, step))
        for name, count in flows.items():
            out.print(flow_line(name, count))
        for warning in listing.warnings:
            out.print(warning_line(warning))
        for problem in listing.problems:
            out.print(problem_lines(problem))
        if not listing.steps:
            out.print("There is no Step yet: write one in src/, in a file …_step.py", style="yellow")

    def serving(self) -> None:
        """Requests are answered from now on."""
        if self._say("serving", url=self._url, steps=len(self._known.steps)):
            return
        out = self._call.console
        if self._first:
            pages = {"API": "", "Docs": "/docs", "OpenAPI": "/openapi.json"}
            listed = "\n".join(f"  {name:<7}  {self._url}{path}" for name, path in pages.items())
            out.print(f"\n{listed}\n", style="bold")
        else:
            out.print(f"ready again at {self._url}", style="green")
        self._first = False

    def changed(self, paths: list[str]) -> None:
        """A reload begins."""
        if not self._say("changed", paths=paths):
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            self._call.console.print(f"\nchanged: {', '.join(paths[:3])}{more}", style="bold")

    def failed(self, error: str) -> None:
        """The child could not start, and said why."""
        if not self._say("failed", error=error):
            self._call.aside.print(error.rstrip(), style="red")

    def waiting(self, code: int | None) -> None:
        """It did not start; the next change starts another."""
        if not self._say("waiting", ended=_how(code)):
            self._call.console.print(
                f"The server did not start ({_how(code)}); waiting for a change.", style="yellow"
            )

    def died(self, code: int | None, *, again: bool) -> None:
        """It ended by itself while it served."""
        if not self._say("died", ended=_how(code), again=again):
            then = "starting it again" if again else "waiting for a change"
            self._call.console.print(f"The server ended by itself ({_how(code)}); {then}.", style="red")

    def stopping(self) -> None:
        """The end."""
        if not self._say("stopping"):
            self._call.console.print("stopping")


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
