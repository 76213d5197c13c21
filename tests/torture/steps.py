"""Retry-mode handlers with several effects each, and what the store must say when all is done.

`intake` reads "in" and, for each message, changes state in every way there is,
sends to three topics, and fails on purpose here and there; `line` is FIFO;
`notes` gathers its effects until it succeeds; `leaf` counts.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from everstep.core.batch import Mode
from everstep.core.retry import Retry
from everstep.engine.attempt import Attempt
from everstep.engine.calls import attempt
from everstep.engine.registry import Ended, Handler
from everstep.store.base import Subscription
from tests.torture.killer import RUN_AFTER, RUN_BEFORE, Killer
from tests.torture.ledger import Ledger

IN, LINE, NOTES, LEAF = "in", "line", "notes", "leaf"
GROUPS = 2
ONE_MORE = [{"type": "increment", "path": "n"}]


class Flaky(Exception):
    """A handler fails on purpose."""


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


class Steps:
    """The handlers, and the function they call."""

    def __init__(self, ledger: Ledger, killer: Killer) -> None:
        self._ledger = ledger
        self._killer = killer

    def handlers(self) -> list[Handler]:
        """All of them, as the engine knows them."""
        return [
            self._handler(IN, self.intake),
            self._handler(LINE, self.line, fifo=True),
            self._handler(NOTES, self.notes, gather=True),
            self._handler(LEAF, self.leaf),
        ]

    def _handler(self, topic: str, call: Any, *, fifo: bool = False, gather: bool = False) -> Handler:
        return Handler(
            topic,
            Mode.RETRY,
            call,
            retry=Retry(attempts=8, delay=0.005),
            gather=gather,
            subscriptions=(Subscription(topic, topic, fifo),),
        )

    async def price(self, n: int) -> int:
        """A function of ctx.run."""
        self._killer.hit(RUN_BEFORE)
        self._ledger.note("run", attempt().idempotency_key)
        await asyncio.sleep(random.random() * 0.002)
        self._killer.hit(RUN_AFTER)
        return n + 1

    async def intake(self, this: Attempt) -> Ended:
        fx, rid = this.effects, this.run.rid
        n: int = json.loads(this.run.input)["n"]
        assert await fx.run(self.price, n) == n + 1
        await fx.kv_update("count", "intake", ONE_MORE)
        await fx.kv_set("absolute", rid, b"1")
        await fx.kv_set("absolute", rid, b"2")
        self._fail(this, n % 3 == 0, 1)
        await fx.kv_set("absolute", rid, b"1")
        await fx.kv_set("gone", rid, b"1")
        await fx.publish(LINE, _json({"n": n, "of": rid}), group=f"g{n % GROUPS}")
        async with fx.atomic():
            assert await fx.kv_get("marker", rid) is None or this.number > 1 or this.run.epoch > 1
            await fx.kv_set("marker", rid, _json(n))
            await fx.kv_update("count", "marked", ONE_MORE)
            await fx.publish(NOTES, _json({"n": n, "of": rid}))
        self._fail(this, n % 4 == 1, 2)
        await fx.kv_delete("gone", rid)
        await fx.kv_update("all", "rids", [{"type": "append", "path": "", "value": rid}])
        # Two equal messages are two; a delay outlives its process.
        await asyncio.gather(
            fx.publish(LEAF, b"{}"),
            fx.publish(LEAF, b"{}", delay=10_000),
            fx.kv_update("count", "beside", ONE_MORE),
        )
        self._fail(this, n % 5 == 2, 1)
        return Ended()

    async def line(self, this: Attempt) -> Ended:
        n = json.loads(this.run.input)["n"]
        self._ledger.note("line", this.run.key, this.run.rid)
        await this.effects.kv_update(
            "order", str(this.run.key), [{"type": "append", "path": "", "value": this.run.rid}]
        )
        self._fail(this, n % 3 == 1, 1)
        await this.effects.run(self.price, n)
        await this.effects.kv_update("count", "line", ONE_MORE)
        return Ended()

    async def notes(self, this: Attempt) -> Ended:
        fx, n = this.effects, json.loads(this.run.input)["n"]
        _, after = await fx.kv_update("mine", this.run.rid, ONE_MORE)
        assert json.loads(after) == {"n": 1}, "an attempt that failed left something behind"
        price = await fx.run(self.price, n)
        assert price == n + 1
        await fx.kv_update("count", "notes", ONE_MORE)
        await fx.publish(LEAF, b"{}")
        self._fail(this, n % 2 == 0, 1)
        await fx.kv_update("mine", this.run.rid, ONE_MORE)
        assert json.loads(await fx.kv_get("mine", this.run.rid) or b"0") == {"n": 2}
        return Ended(b'"noted"')

    async def leaf(self, this: Attempt) -> Ended:
        await this.effects.kv_update("count", "leaf", ONE_MORE)
        return Ended()

    @staticmethod
    def _fail(this: Attempt, when: bool, times: int) -> None:
        """Fail the first *times* attempts."""
        if when and this.number <= times:
            raise Flaky("on purpose")


def expected_counts(messages: int) -> dict[str, int]:
    """What the counters say when so many messages on "in" are done."""
    per_message = {"intake": 1, "marked": 1, "beside": 1, "line": 1, "notes": 1, "leaf": 3}
    return {name: n * messages for name, n in per_message.items()} if messages else {}
