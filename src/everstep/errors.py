"""Every error a user can meet, each with its evidence as attributes.

The text of an error teaches: what happened, the evidence side by side, why,
the line to write instead, where to look.  Tests match the attributes.

Floor 0.  May import: durations.  Imported by: every floor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from everstep.durations import Duration, seconds


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """
    A sentence that names the nearest of some words, or nothing when none is near.

    >>> did_you_mean("quue", ["http", "queue"])
    " Did you mean 'queue'?"
    """
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class EverstepError(Exception):
    """The parent of all our errors."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls __init__ with the message alone. Errors with
        # evidence must come back from a process pool as they went in.
        return _rebuild, (type(self), self.args, self.__dict__)


# ---- what user code raises, and what comes back to it


class TerminalError(EverstepError):
    """Raise it to end at once: this is never retried, and is kept as the outcome."""


class RetryableError(EverstepError):
    """
    Raise it to be tried again, not sooner than *retry_after*.

    >>> raise RetryableError("rate limited", retry_after="30s")
    """

    retry_after: Duration | None

    def __init__(self, message: str = "", *, retry_after: Duration | None = None) -> None:
        super().__init__(message)
        if isinstance(retry_after, int | float):
            retry_after = max(retry_after, 0)  # "reset at" minus "now" is often just past
        if retry_after is not None:
            seconds(retry_after)
        self.retry_after = retry_after


class WaitTimeout(EverstepError, TimeoutError):
    """What was waited for did not come in time."""


class StepFailed(TerminalError):
    """A function of ctx.run failed on each attempt its retry policy allows."""

    def __init__(
        self, message: str = "", *, error_type: str = "", attempts: int = 0, cause: str = ""
    ) -> None:
        super().__init__(message or f"gave up after {attempts} attempts: {error_type}: {cause}")
        self.error_type = error_type
        self.attempts = attempts
        self.cause = cause


class Rejected(TerminalError):
    """Someone settled the promise with an error."""


class Cancelled(asyncio.CancelledError):
    """This run was cancelled; unlike a lost connection, that is durable and is seen again on replay."""


class Evicted(BaseException):
    """
    This run leaves memory while it waits, and goes on later in any process.

    Let it pass: the body is not ending, only this copy of it.
    """


# ---- the journal


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation as a journal knows it, or as a body asks for it now."""

    kind: str
    name: str = ""
    fingerprint: int = 0
    line: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


class JournalMismatch(EverstepError):
    """
    A handler asked for something else than its journal remembers at this address.

    The run is set aside as needs_attention with its journal untouched.
    """

    def __init__(self, *, run_id: str, address: str, recorded: Asked, attempted: Asked | None) -> None:
        self.run_id = run_id
        self.address = address
        self.recorded = recorded
        self.attempted = attempted
        super().__init__(self._arguments_text() if self.only_arguments else self._path_text())

    @property
    def only_arguments(self) -> bool:
        """True if both sides are the same call with other arguments: resumable with --accept-args."""
        now = self.attempted
        return now is not None and (now.kind, now.name) == (self.recorded.kind, self.recorded.name)

    def _sides(self) -> str:
        then = f"  entry {self.address} in the journal: "
        now = f"  entry {self.address} asked for now:  "
        left = str(self.recorded)
        right = "nothing, the handler ended" if self.attempted is None else str(self.attempted)
        width = max(len(left), len(right))

        def row(head: str, what: str, line: str | None) -> str:
            return f"{head}{what:<{width}}   ({line})" if line else f"{head}{what}"

        return "\n".join(
            (
                row(then, left, self.recorded.line),
                row(now, right, self.attempted.line if self.attempted else None),
            )
        )

    def _path_text(self) -> str:
        return (
            f"Run {self.run_id} took a different path than last time.\n\n{self._sides()}\n\n"
            "A handler must make the same ctx calls in the same order each time it\n"
            "is run. Usual causes: the code changed while this run was waiting, or a\n"
            "branch depends on time, randomness or a query made outside ctx.run().\n\n"
            "Wrap the varying part, so that its first answer is kept:\n\n"
            "    due = await ctx.run(date.today)\n\n"
            f"or let old runs finish on the old code: everstep runs show {self.run_id}"
        )

    def _arguments_text(self) -> str:
        return (
            f"Run {self.run_id} made the same call as last time with other arguments.\n\n{self._sides()}\n\n"
            "The recorded result belongs to the recorded arguments. Usual causes: the\n"
            "code that computes them changed while this run was waiting, or they depend\n"
            "on time, randomness or a query made outside ctx.run().\n\n"
            "If the recorded result is still right for the new arguments, go on with it:\n\n"
            f"    everstep runs resume {self.run_id} --accept-args"
        )


class NotReplayable(EverstepError):
    """
    The body awaited something whose answer a replay could not give again.

    >>> raise NotReplayable("asyncio.wait_for", line="orders.py:41", remedy="async with asyncio.timeout(5):")
    """

    def __init__(self, what: str, *, line: str | None = None, remedy: str = "", why: str = "") -> None:
        self.what = what
        self.line = line
        self.remedy = remedy
        at = f" ({line})" if line else ""
        because = why or "A body may only wait for what its journal records; a replay would answer otherwise."
        instead = f"\n\nWrite instead:\n\n    {remedy}" if remedy else ""
        super().__init__(f"{what} cannot be replayed{at}.\n\n{because}{instead}")


class ContextClosed(EverstepError):
    """A ctx operation was asked where none can be kept: inside ctx.run, from a thread, after the end."""

    def __init__(self, operation: str, *, why: str, line: str | None = None, remedy: str = "") -> None:
        self.operation = operation
        self.why = why
        self.line = line
        self.remedy = remedy
        at = f" ({line})" if line else ""
        instead = f"\n\n    {remedy}" if remedy else ""
        super().__init__(f"{operation} was refused{at}: {why}.{instead}")


# ---- configuration, stores, values


class ConfigError(EverstepError):
    """
    Something the user wrote down cannot be used; names where, what, and what would do.

    >>> raise ConfigError("trigger 2 is 'quue'", file="charge_step.py", expected="triggers are http, queue")
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        line: int | None = None,
        expected: str = "",
        suggestion: str = "",
    ) -> None:
        self.what = what
        self.file = file
        self.line = line
        self.expected = expected
        self.suggestion = suggestion
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        text = f"{where}{what}; {expected}" if expected else f"{where}{what}"
        if suggestion:
            text = f"{text.rstrip('.')}. {suggestion.strip()}"
        super().__init__(text)


class StoreError(EverstepError):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now. Nothing is lost; the engine waits and tries again."""


class SchemaTooNew(StoreError):
    """The store was written by a newer release than this one."""

    def __init__(self, store: str, *, found: int, known: int) -> None:
        self.store = store
        self.found = found
        self.known = known
        super().__init__(
            f"{store} has schema {found}, and this release knows up to {known}. "
            "A newer everstep wrote it; upgrade this process: pip install -U everstep"
        )


class NotAStore(StoreError):
    """The file or database is there, but is not one of ours."""

    def __init__(self, store: str, reason: str) -> None:
        self.store = store
        self.reason = reason
        super().__init__(f"{store} is not an everstep store: {reason}. Nothing in it was changed.")


class UpdateError(EverstepError):
    """An update of a value could not be applied; none of its ops was."""

    def __init__(
        self,
        *,
        op: int,
        type: str,
        path: str,
        expected: str,
        found: str,
        hint: str = "",
        text: str = "",
        state: tuple[str, str] | None = None,
    ) -> None:
        self.op = op
        self.type = type
        self.path = path
        self.expected = expected
        self.found = found
        self.hint = hint
        self.text = text
        self.state = state
        where = "" if state is None else f"state {state[0]!r} {state[1]!r}: "
        at = f" at {path!r}" if path else ""
        told = text or f"op {op} ({type}{at}) expected {expected}, found {found}"
        super().__init__(f"{where}{told}; nothing was changed.{hint}")

    def of(self, group: str, key: str) -> UpdateError:
        """The same, which says whose value it is."""
        evidence = {**self.__dict__, "state": (group, key)}
        return UpdateError(**evidence)


class StateChanged(EverstepError):
    """Somebody changed what a ctx.atomic() block had read; nothing of the block was written."""

    def __init__(self) -> None:
        super().__init__(
            "somebody changed what this ctx.atomic() block had read before it was committed; nothing of it "
            "was written. Load again and decide anew, or let the error pass: a message is then tried again"
        )


class BadName(EverstepError, ValueError):
    """A group, key or topic has a character that not every store can keep."""

    def __init__(self, what: str, name: str) -> None:
        self.what = what
        self.name = name
        super().__init__(
            f"the {what} {name!r} has a NUL or half of a surrogate pair in it, which no store keeps; "
            "use other characters"
        )


def check_name(what: str, name: str) -> None:
    """
    Refuse what PostgreSQL or UTF-8 could not keep, before anything is changed.

    Raises:
        BadName: *name* holds a NUL or half of a surrogate pair.
    """
    if "\0" in name or not (name.isascii() or _has_utf8(name)):
        raise BadName(what, name)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class NotEncodable(EverstepError, TypeError):
    """A value cannot be written so that it comes back as what it is."""

    def __init__(self, where: str, *, found: str, why: str, path: str = "", remedy: str = "") -> None:
        self.where = where
        self.found = found
        self.path = path
        at = f" at {path}" if path else ""
        instead = f" {remedy}" if remedy else ""
        super().__init__(f"{where or 'a value'}: {found}{at} cannot be kept: {why}.{instead}")


class GroupMissing(EverstepError):
    """A message for a FIFO topic came without its group id."""

    def __init__(self, topic: str, *, step: str = "") -> None:
        self.topic = topic
        self.step = step
        asked = f" (Step {step!r} reads it in order)" if step else ""
        super().__init__(
            f"topic {topic!r} is FIFO{asked} and this message names no group. Messages of one group "
            f"are handled in order, groups in parallel; say which group it is in:\n\n"
            f"    await ctx.enqueue({topic!r}, data, group=order.id)"
        )


class IdTaken(EverstepError):
    """The id already belongs to another run."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"id {id!r} is taken by another run; attach to that one, or choose another id")


class Fenced(EverstepError):
    """This process no longer owns what it tried to write: another took over. Nothing was written."""
