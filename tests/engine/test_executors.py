"""Threads and processes of our own: errors come back, and a broken pool is replaced."""

import contextvars
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from everstep.engine import executors

pytestmark = pytest.mark.anyio


class Unpicklable(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one: str, *, two: str) -> None:
        super().__init__(one)
        self.two = two


def fails() -> None:
    raise Unpicklable("lost on the way", two="x")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pid() -> int:
    return os.getpid()


async def test_an_error_that_does_not_survive_pickling_is_told_as_text() -> None:
    """It would break the pool for everybody otherwise."""
    with pytest.raises(RuntimeError, match="Unpicklable: lost on the way"):
        await executors.in_process(fails)

    assert await executors.in_process(pid) != os.getpid()


async def test_a_process_that_dies_breaks_its_pool_and_the_next_call_has_a_new_one() -> None:
    """The call fails like any other, and may be tried again."""
    with pytest.raises(BrokenProcessPool):
        await executors.in_process(dies)

    assert await executors.in_process(pid) != os.getpid()


async def test_a_thread_sees_the_context_of_its_caller() -> None:
    """And what it sets stays there."""
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour")
    colour.set("red")

    def look() -> str:
        seen = colour.get()
        colour.set("blue")
        return seen

    assert await executors.in_thread(look) == "red"
    assert colour.get() == "red"


async def test_closed_pools_come_back_when_they_are_needed() -> None:
    """A worker that stops lets go of them; another one in the process makes new ones."""
    await executors.in_thread(pid)
    executors.close()

    assert await executors.in_thread(pid) == os.getpid()
