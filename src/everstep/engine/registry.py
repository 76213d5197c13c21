"""What the engine knows of a handler, whoever wrote it and however.

Steps, workflows and (later) objects and graphs all become a `Handler`; the
engine never sees more of them.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine, floors 5 to 7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from everstep.codec import Codec, codec_for
from everstep.core.batch import Mode, Run
from everstep.core.retry import STEP_RETRY, Retry
from everstep.errors import ConfigError, did_you_mean
from everstep.store.base import Subscription

ONCE = Retry(attempts=1)


@dataclass(slots=True, frozen=True)
class Ended:
    """How an attempt of a retry-mode handler ended well: its output, or skipped by its condition."""

    output: bytes | None = None
    skipped: bool = False


@dataclass(slots=True)
class Handler:
    """
    One thing that can be run.

    `call` is, in replay mode, ``async (ctx, input) -> output`` with `input`
    decoded by the input codec; in retry mode ``async (attempt) -> Ended`` (an
    `engine.attempt.Attempt`, which carries the run and its effects).
    `timeout` is in microseconds; None: no end.
    """

    name: str
    mode: Mode
    call: Callable[..., Awaitable[Any]]
    input: Codec[Any] = field(default_factory=lambda: codec_for(Any))
    output: Codec[Any] = field(default_factory=lambda: codec_for(Any))
    retry: Retry = STEP_RETRY
    timeout: int | None = 30_000_000
    concurrency: int | None = None
    gather: bool = False  # effects="on_success"
    subscriptions: tuple[Subscription, ...] = ()
    source: str = ""  # "src/orders/charge_step.py:12", for messages


    def policy(self, run: Run) -> Retry:
        """How often a run of this handler is tried: once, if a request waits for it instead of a message."""
        if run.topic is None or any(s.topic == run.topic for s in self.subscriptions):
            return self.retry
        return ONCE


class Registry:
    """The handlers of this process, by name; a name is taken once."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """
        Enter a handler.

        Raises:
            ConfigError: Another one has its name.
        """
        other = self._handlers.get(handler.name)
        if other is not None:
            raise ConfigError(
                f"two handlers are called '{handler.name}': {other.source or 'the first'} and "
                f"{handler.source or 'another'}. A run finds its code by name, so give one of them another."
            )
        self._handlers[handler.name] = handler

    def get(self, name: str) -> Handler | None:
        """The handler of that name, or None."""
        return self._handlers.get(name)

    def find(self, name: str) -> Handler:
        """The handler of that name; a LookupError names the nearest."""
        handler = self._handlers.get(name)
        if handler is None:
            raise LookupError(f"no handler is called '{name}'.{did_you_mean(name, list(self._handlers))}")
        return handler

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._handlers)

    @property
    def subscriptions(self) -> list[Subscription]:
        """What all of them want a copy of."""
        return [s for handler in self for s in handler.subscriptions]
