"""How often, and how long apart, what failed is tried again.

A `Retry` is policy only; `next_delay` is the whole rule, and takes its
randomness as an argument.

Floor 1.  May import: durations, errors.  Imported by: engine, steps, and users as everstep.Retry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from everstep.durations import LONGEST_US, Duration, micros
from everstep.errors import ConfigError, RetryableError, TerminalError


@dataclass(frozen=True, kw_only=True)
class Retry:
    """
    When to try again: delays grow by *factor* from *delay* up to *max_delay*.

    Args:
        attempts: How often in all, the first one included. None: without end.
        delay: Before the second attempt.
        factor: How much longer each delay is than the one before.
        max_delay: No delay is longer, except when a RetryableError asks for it.
        jitter: A delay is up to this part of it shorter, so that what failed
            together does not come back together.
        give_up_on: Errors that another attempt would not mend.

    Raises:
        ConfigError: A field makes no sense.

    >>> Retry(attempts=5, delay="2s")
    """

    attempts: int | None = None
    delay: Duration = 1.0
    factor: float = 2.0
    max_delay: Duration = 60.0
    jitter: float = 0.1
    give_up_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts is not None and (not _is_int(self.attempts) or self.attempts < 1):
            raise _fault(
                "attempts", self.attempts, "a whole number from 1, the first attempt included, or None"
            )
        if not _is_number(self.factor) or not 1 <= self.factor < math.inf:
            raise _fault("factor", self.factor, "a number from 1")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise _fault("jitter", self.jitter, "a part from 0 to 1")
        if not _are_errors(self.give_up_on):
            raise _fault("give_up_on", self.give_up_on, "a tuple of exception classes, such as (ValueError,)")
        for name in ("delay", "max_delay"):
            try:
                micros(getattr(self, name))
            except ValueError as error:
                raise ConfigError(f"Retry({name}=…): {error}") from None


def next_delay(
    policy: Retry,
    attempt: int,
    error: BaseException,
    unit_random: float,
    retry_after: Duration | None = None,
) -> int | None:
    """
    Microseconds until the next attempt, or None to give up.

    Args:
        policy: How often, how long apart.
        attempt: The one that failed just now; the first is 1.
        error: What it raised. A TerminalError is never retried.
        unit_random: A random number from 0 to 1, for the jitter.
        retry_after: A lower bound, as a RetryableError has one of its own.
    """
    if isinstance(error, (TerminalError, *policy.give_up_on)):
        return None
    if policy.attempts is not None and attempt >= policy.attempts:
        return None
    asked = retry_after
    if asked is None and isinstance(error, RetryableError):
        asked = error.retry_after
    lowest = 0 if asked is None else micros(asked)
    return min(max(_backoff(policy, attempt, unit_random), lowest), LONGEST_US)


def _backoff(policy: Retry, attempt: int, unit_random: float) -> int:
    first, most = micros(policy.delay), micros(policy.max_delay)
    if first == 0:
        return 0
    # Compare logarithms: 2.0 ** 10_000 is no float.
    if (attempt - 1) * math.log(policy.factor) >= math.log(max(most, 1) / first):
        plain = float(most)
    else:
        plain = min(first * policy.factor ** (attempt - 1), most)
    return round(plain * (1 - policy.jitter * unit_random))


def _are_errors(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(e, type) and issubclass(e, BaseException) for e in value
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fault(field: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"Retry({field}={value!r})", expected=f"{field} is {expected}")


STEP_RETRY = Retry(attempts=4)
"""A Step: three retries, then the dead letters."""

RUN_RETRY = Retry(attempts=10)
"""A function of ctx.run that names no policy: then the run needs attention."""
