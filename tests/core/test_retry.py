"""When to try again: bounded, growing, never for what is terminal."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.core.retry import RUN_RETRY, STEP_RETRY, Retry, next_delay
from everstep.durations import LONGEST_US, micros
from everstep.errors import ConfigError, Rejected, RetryableError, StepFailed, TerminalError

POLICIES = st.builds(
    Retry,
    attempts=st.none() | st.integers(1, 20_000),
    delay=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
UNIT = st.floats(0, 1)


@given(POLICIES, st.integers(1, 20_000), UNIT)
def test_a_delay_is_within_its_bounds(policy: Retry, attempt: int, unit: float) -> None:
    """Never negative, never above the cap, and none once the attempts are used up."""
    delay = next_delay(policy, attempt, ValueError(), unit)

    if policy.attempts is not None and attempt >= policy.attempts:
        assert delay is None
    else:
        assert delay is not None
        assert 0 <= delay <= micros(policy.max_delay)


@given(POLICIES, st.integers(1, 9_999), UNIT)
def test_delays_do_not_shrink(policy: Retry, attempt: int, unit: float) -> None:
    """With the same randomness a later attempt waits as long or longer."""
    endless = Retry(
        delay=policy.delay, factor=policy.factor, max_delay=policy.max_delay, jitter=policy.jitter
    )
    first, second = (next_delay(endless, n, ValueError(), unit) for n in (attempt, attempt + 1))

    assert first is not None
    assert second is not None
    assert first <= second


def test_delays_double_up_to_the_cap() -> None:
    """The default: 1, 2, 4 … 60 seconds; still there at attempt 10,000."""
    policy = Retry()

    delays = [next_delay(policy, n, OSError(), 0.0) for n in (1, 2, 3, 6, 7, 10_000)]

    assert delays == [1_000_000, 2_000_000, 4_000_000, 32_000_000, 60_000_000, 60_000_000]
    assert next_delay(policy, 1, OSError(), 1.0) == 900_000


@pytest.mark.parametrize("error", [TerminalError("no"), StepFailed("no"), Rejected("no"), KeyError("k")])
def test_what_another_attempt_cannot_mend_is_not_retried(error: Exception) -> None:
    """Terminal errors, and those the policy names with their subclasses."""
    assert next_delay(Retry(give_up_on=(LookupError,)), 1, error, 0.5) is None


@given(st.integers(0, LONGEST_US))
def test_retry_after_is_a_lower_bound(us: int) -> None:
    """Also beyond max_delay: the other side knows better."""
    asked = timedelta(microseconds=us)

    plain = next_delay(Retry(max_delay=2), 5, OSError(), 0.5)
    by_error = next_delay(Retry(max_delay=2), 5, RetryableError("busy", retry_after=asked), 0.5)
    by_caller = next_delay(Retry(max_delay=2), 5, OSError(), 0.5, retry_after=asked)

    assert plain is not None
    assert by_error == by_caller == max(us, plain)


def test_retry_after_gives_no_attempt_more() -> None:
    """The attempts still end."""
    assert next_delay(Retry(attempts=3), 3, RetryableError(retry_after=1), 0.5) is None


def test_the_policies_of_steps_and_runs() -> None:
    """A Step is retried three times; a function of ctx.run is tried ten times."""
    assert [next_delay(STEP_RETRY, n, OSError(), 0) is not None for n in (1, 2, 3, 4)] == [True] * 3 + [False]
    assert next_delay(RUN_RETRY, 9, OSError(), 0) is not None
    assert next_delay(RUN_RETRY, 10, OSError(), 0) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": True}, "attempts"),
        ({"attempts": 2.5}, "attempts"),
        ({"delay": -1}, "delay"),
        ({"delay": "soon"}, "soon"),
        ({"max_delay": float("inf")}, "max_delay"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"jitter": "x"}, "jitter"),
        ({"give_up_on": ValueError}, "a tuple of exception classes"),
        ({"give_up_on": (1,)}, "give_up_on"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any], named: str) -> None:
    """When it is written, naming the field."""
    with pytest.raises(ConfigError) as refused:
        Retry(**fields)

    assert named in str(refused.value)
