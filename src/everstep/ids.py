"""Names for rows: sortable text ids, and values that are the same on every replay.

An id is a prefix, 48 bits of time and 80 random bits in Crockford's base 32,
so that ids sort by age and can be read out on the phone.  It is a name, not a
secret.  What a replay must see again comes from a seed and an address instead.

Floor 0.  May import: clock.  Imported by: every floor above.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from random import Random
from threading import Lock
from uuid import UUID

from everstep.clock import system

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_STEP_BITS = 32


class _Sequence:
    """Hands out rising 128-bit numbers: milliseconds above, randomness below."""

    __slots__ = ("_head", "_last", "_lock", "_random", "_upper")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # A forked child must not go on with its parent's numbers, nor with its
        # lock, which another thread may have held at the moment of the fork.
        self._lock = Lock()
        self._random = Random(os.urandom(32))
        self._last = 0
        # Ids of one millisecond differ in their lower 40 bits alone: keep the rest as text.
        self._upper, self._head = 0, _pairs(0, 80)

    def text(self, ms: int | None) -> str:
        with self._lock:
            # Read the clock under the lock, or a thread that read it earlier
            # could hand out its id later.
            now = system.now_us() // 1000 if ms is None else ms
            last_ms = self._last >> 80
            if now == last_ms or (ms is None and now < last_ms):
                self._last += 1 + self._random.getrandbits(_STEP_BITS)
            else:
                self._last = (now << 80) | self._random.getrandbits(80)
            n = self._last
            if n >> 40 != self._upper:
                self._upper, self._head = n >> 40, _pairs(n >> 40, 80)
            head = self._head
        p = _PAIRS
        return f"{head}{p[n >> 30 & 1023]}{p[n >> 20 & 1023]}{p[n >> 10 & 1023]}{p[n & 1023]}"


def _pairs(n: int, top: int) -> str:
    return "".join(_PAIRS[n >> shift & 1023] for shift in range(top, -1, -10))


_from_clock = _Sequence()
_from_caller = _Sequence()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_from_clock.reset)
    os.register_at_fork(after_in_child=_from_caller.reset)


def new_id(prefix: str, now_us: int | None = None) -> str:
    """
    A new id that sorts after every earlier one of this process.

    Args:
        prefix: What it names, in a letter or two: "r" for a run.
        now_us: The time in microseconds, from a clock of your own. Ids of the
            same millisecond still rise; across milliseconds the caller's clock decides.

    >>> new_id("r")
    'r_01k3z6v0q4m8x2c7b9n5t1d6hg'
    """
    if now_us is None:
        return f"{prefix}_{_from_clock.text(None)}"
    return f"{prefix}_{_from_caller.text(now_us // 1000)}"


def new_trace() -> str:
    """
    A new trace id: 32 hex digits, as a ``traceparent`` header carries them.

    >>> new_trace()
    '0af7651916cd43dd8448eb211c80319c'
    """
    return os.urandom(16).hex()


def _digest(kind: bytes, seed: bytes | str, address: str) -> bytes:
    key = seed.encode() if isinstance(seed, str) else seed
    # The seed's length keeps ("ab", "c") apart from ("a", "bc").
    return blake2b(b"%d:%b%b" % (len(key), key, address.encode()), digest_size=16, person=kind).digest()


def seeded_uuid(seed: bytes | str, address: str) -> UUID:
    """A UUID (version 8) that is the same whenever seed and address are."""
    n = int.from_bytes(_digest(b"uuid", seed, address))
    n = n & ~(0xF << 76) | 8 << 76  # version 8: the bits mean what we say
    n = n & ~(0x3 << 62) | 2 << 62  # the RFC's variant
    return UUID(int=n)


def seeded_random(seed: bytes | str, address: str) -> float:
    """A number in [0, 1) that is the same whenever seed and address are."""
    return (int.from_bytes(_digest(b"random", seed, address)[:7]) >> 3) / (1 << 53)
