"""Threads and processes for functions that would block the loop.

Both pools are made when first needed, and are our own: asyncio's default
executor is shared with name lookups, and is too small for a worker's runs.

Floor 3.  May import: nothing.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 128  # more than the runs a worker has by default; a thread that waits costs little
_pools: dict[str, Executor] = {}
# A pool that is collected while its own thread takes it down locks that thread up.
_broken: deque[Executor] = deque(maxlen=16)


async def in_thread(fn: Callable[..., T], *args: Any) -> T:
    """Run a blocking function in a thread, with the context variables of the caller."""
    pool = _pools.get("threads")
    if pool is None:
        pool = _pools["threads"] = ThreadPoolExecutor(THREADS, thread_name_prefix="everstep")
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, _call, copy_context().run, fn, *args)


async def in_process(fn: Callable[..., T], *args: Any) -> T:
    """
    Run a function in a process of its own, so that it may keep a core busy.

    The function, its arguments and its result are pickled on the way, so the
    function must be one that can be imported by name.
    """
    pool = _pools.get("processes")
    if pool is None:
        pool = ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))
        _pools["processes"] = pool
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, _call_there, fn, *args)
    except BrokenProcessPool:
        if _pools.get("processes") is pool:
            _broken.append(_pools.pop("processes"))  # the next call finds a new one
        raise


def close() -> None:
    """Let go of the pools; functions that still run are not waited for."""
    while _pools:
        _, pool = _pools.popitem()
        pool.shutdown(wait=False, cancel_futures=True)


def _call(fn: Callable[..., T], *args: Any) -> T:
    try:
        return fn(*args)
    except StopIteration as error:
        # A future cannot hold one: whoever waits for it would wait for ever.
        raise RuntimeError(f"the function raised StopIteration({error})") from error


def _call_there(fn: Callable[..., T], *args: Any) -> T:
    try:
        return _call(fn, *args)
    except Exception as error:
        # An error that does not survive pickling would break the pool for all.
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__qualname__}: {error}") from None
        raise
