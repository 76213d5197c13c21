"""What all commands share: --store, --dir, --json, how they speak, and how they fail.

A command is a function that takes a `Call` first; `command` gives it the three
options, runs it on a loop when it is async, and turns errors into a sentence
on standard error and an exit code.

Floor 8.  May import: settings, log, errors, exits.  Imported by: cli.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from everstep.cli.exits import REFUSED, Refusal, code_of

if TYPE_CHECKING:
    from rich.console import Console

    from everstep.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store; EVERSTEP_STORE, or sqlite:///everstep.db."),
]
DirOption = Annotated[
    Path | None,
    typer.Option("--dir", metavar="FOLDER", help="Work as if started in this folder.", file_okay=False),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else: one document, or one a line.")
]
_SHARED = {"store": StoreOption, "dir": DirOption, "json_": JsonOption}


@dataclass
class Call:
    """One call of a command: what every command was told, and its voice."""

    store: str | None = None
    dir: Path | None = None
    json: bool = False
    _opened: bool = field(default=False, repr=False)

    def settings(self, **overrides: Any) -> Settings:
        """The settings of this process; the command's options win over the environment."""
        from everstep.settings import Settings

        return Settings.load(**{"store": self.store, **overrides})

    def enter(self) -> None:
        """Go to the folder that was named."""
        if self.dir is None:
            return
        try:
            os.chdir(self.dir)
        except OSError as error:
            raise typer.BadParameter(f"{self.dir}: {error.strerror}", param_hint="--dir") from None

    # ---- speaking

    @cached_property
    def console(self) -> Console:
        """Standard output for people; into a pipe nothing is cut off."""
        return _console(sys.stdout)

    @cached_property
    def aside(self) -> Console:
        """Standard error for people."""
        return _console(sys.stderr)

    def document(self, value: Any) -> None:
        """Print one JSON document, on a line of its own."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def answer(self, value: Any, text: str) -> None:
        """Say the same to a program or to a person."""
        if self.json:
            self.document(value)
        else:
            self.console.print(text)

    def sure(self, question: str, *, yes: bool) -> None:
        """Ask a person before something that cannot be undone; never ask a program."""
        if yes or self.json or not sys.stdin.isatty():
            return
        typer.confirm(question, abort=True, err=True)


def _console(stream: Any) -> Console:
    from rich.console import Console

    wide = None if stream.isatty() or "COLUMNS" in os.environ else 1_000
    # What users write is no markup of ours.
    return Console(file=stream, width=wide, markup=False, highlight=False, emoji=False, soft_wrap=True)


def command(group: typer.Typer, name: str | None = None, **options: Any) -> Callable[[F], F]:
    """Enter a function as a command of *group*; its first parameter is the `Call`."""

    def enter(fn: F) -> F:
        hints = get_type_hints(fn, include_extras=True)
        _, *own = inspect.signature(fn).parameters.values()
        parameters = [p.replace(annotation=hints[p.name]) for p in own] + [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name == "json_" else None,
                annotation=annotation,
            )
            for name, annotation in _SHARED.items()
        ]

        @wraps(fn)
        def run(**given: Any) -> None:
            call = _call(*(given.pop(name) for name in _SHARED))
            code = speak(call, lambda: fn(call, **given))
            if code:
                raise typer.Exit(code)

        del run.__wrapped__  # typer must read our signature, not the function's
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        group.command(name, **options)(run)
        return fn

    return enter


ROOT = Call()  # what was said before the command's name


def _call(store: str | None, dir: Path | None, json_: bool) -> Call:
    return Call(store or ROOT.store, dir or ROOT.dir, json_ or ROOT.json)


def speak(call: Call, work: Callable[[], Any]) -> int:
    """Do the work of a command and return its exit code; what went wrong is said in a sentence."""
    try:
        _quiet_logs()
        call.enter()
        result = work()
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: `everstep runs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        complain(call, str(error))
        return code
    return result if isinstance(result, int) else 0


def complain(call: Call, message: str) -> None:
    """Say on standard error why a command did not do what it was asked."""
    from rich.text import Text

    call.aside.print(Text.assemble(("everstep: ", "bold red"), message))


def _quiet_logs() -> None:
    """Warnings only, for people, on standard error; servers configure their own."""
    from everstep import log

    log.configure(level="warning")


def one_json(text: str, hint: str) -> Any:
    """
    Read a JSON argument; ``-`` reads standard input.

    Raises:
        typer.BadParameter: It is not JSON; says where, and how a text is written.
    """
    if text == "-":
        text = sys.stdin.read()
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        quoted = f"; a text is written with its quotes: '{json.dumps(text)}'" if text.isalnum() else ""
        raise typer.BadParameter(f"{text[:80]!r} is not JSON: {error}{quoted}", param_hint=hint) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def count(n: int, one: str, many: str = "") -> str:
    """
    A number of things.

    >>> count(1, "key"), count(2, "entry", "entries")
    ('1 key', '2 entries')
    """
    return f"{n} {one if n == 1 else many or one + 's'}"


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Any:
    """A plain table for people; columns without names have no line for them."""
    from rich.table import Table
    from rich.text import Text

    columns = list(columns)
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row))
    return made


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


__all__ = ["Call", "Refusal", "command", "complain", "count", "one_json", "speak", "table"]
