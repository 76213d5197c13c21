"""What a Step does to the world through us, and what a retry repeats of it.

Three ways, one class:

* *live* (the default): durable and visible when the await returns.  In retry
  mode each effect is also remembered by its content (`memory`): on the next
  attempt an equal one is skipped and answers its recorded result.  Position
  plays no part: a retry may take another path through the code.
* *gathered* (`atomic`, or ``effects="on_success"``): kept here, seen by this
  attempt's own reads, and committed together; nothing of it on an error.  What
  an `atomic` block read with `kv_get` must still be so when it is committed, so
  that of two who load, check and change one key at once, one wins.
* *request mode* (no run): live or gathered, nothing remembered.

A remembered effect is a journal entry in a lane that names it
(``~set/orders/o-1/<fingerprint>``), its `seq` the order among this run's effects.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine, steps, http.
"""

from __future__ import annotations

import asyncio
import random as _random
import uuid as _uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from everstep.clock import as_datetime
from everstep.codec import codec_for
from everstep.core import journal
from everstep.core.batch import (
    Applied,
    Batch,
    Change,
    Guard,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    Publish,
    Run,
)
from everstep.core.journal import Entry
from everstep.core.retry import Retry
from everstep.core.updates import apply as apply_ops
from everstep.core.updates import naming, validate_ops
from everstep.durations import Duration, micros
from everstep.engine.calls import Call, perform
from everstep.engine.committer import Committer
from everstep.engine.gathering import Block, blocks_of, enter, innermost, leave
from everstep.engine.memory import Memory
from everstep.engine.outcomes import refusal
from everstep.errors import ContextClosed, StoreUnavailable, TerminalError
from everstep.ids import new_id, seeded_random, seeded_uuid
from everstep.store.base import Store

_JSON = codec_for(Any)
_ONCE = Retry(attempts=1)
LOOK = 0.2  # seconds until a store that cannot be read is asked again
T = TypeVar("T")


class Effects:
    """The effects of one attempt or one request."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        *,
        run: Run | None = None,
        remembered: Sequence[Entry] = (),
        gather: bool = False,
        trace: str = "",
    ) -> None:
        self._store = store
        self._committer = committer
        self._run = run
        self.trace = run.trace if run is not None else trace
        self._whole = Block(self, checks=False) if gather else None  # an attempt that gathers all it does
        self._memory = Memory(remembered)
        self._request = ""
        self._closed = ""

    # ---- remembering

    def _recall(self, kind: str, name: str, facts: bytes) -> tuple[Entry, bool]:
        """The entry of this effect, and whether an earlier attempt already had it."""
        return self._memory.recall(kind, name, facts, self._block)

    def _take_back(self, entry: Entry) -> None:
        """It was not done."""
        self._memory.forget(entry, self._around())

    @property
    def _block(self) -> Block | None:
        """What gathers the effects of this task; None when they are live."""
        return next(blocks_of(self), self._whole)

    async def _do(self, change: Change, entry: Entry) -> Any:
        """Commit one effect now."""
        try:
            return (await self._commit([change], [entry]))[0]
        except Exception:  # whoever is cancelled may have committed all the same
            self._take_back(entry)
            raise

    async def _commit(
        self, changes: list[Change], entries: list[Entry], guards: Sequence[Guard] = ()
    ) -> list[Any]:
        self._open()
        run = self._run
        batch = Batch(changes=changes, guards=[*guards], size=size_of(changes, entries))
        if run is not None:
            entries = self._memory.number(entries, self._store.now())
            batch.run, batch.epoch, batch.entries = run.id, run.epoch, entries
        outcome = await self._committer.commit(batch)
        if not isinstance(outcome, Applied):
            raise refusal(outcome)
        if run is not None:
            self._memory.committed(entries)
        return outcome.results

    def _open(self) -> None:
        if self._closed:
            raise ContextClosed("an effect", why=self._closed)

    def close(self, why: str) -> None:
        """Refuse every later effect: the attempt is over."""
        self._closed = why

    def take(self) -> tuple[list[Change], list[Entry], list[Guard]]:
        """What the attempt gathered, for the batch that ends it; now it is yours."""
        whole = self._handed_over()
        if whole is None:
            return [], self.notes(), []
        return whole.changes, self._memory.number(whole.entries, self._store.now()), whole.guards

    def notes(self) -> list[Entry]:
        """Facts that a later attempt must find, for the batch that ends this one; nothing gathered."""
        return self._memory.number([], self._store.now())

    def _handed_over(self) -> Block | None:
        whole = self._whole
        if whole is not None:
            whole.done = True
            self._whole = Block(self, checks=False)
        return whole

    async def flush(self) -> None:
        """Commit what was gathered: the end of a request."""
        whole = self._handed_over()
        if whole is not None:
            await self._commit_block(whole)

    async def _commit_block(self, block: Block) -> None:
        if block.changes or block.entries:
            await self._commit(block.changes, block.entries, block.guards)

    @asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """
        Gather the effects of the block and commit them together at its end; on an error, none.

        Raises:
            StateChanged: Somebody changed what the block read; nothing of it was written.
        """
        wider = self._block
        block = Block(self, innermost(), checks=True)
        enter(block)
        try:
            try:
                yield
            finally:
                leave(block)
            if wider is not None and not wider.done:
                wider.join(block)
            else:
                await self._commit_block(block)
        except BaseException:
            self._memory.drop(block)
            raise

    # ---- state

    async def kv_get(self, group: str, key: str) -> bytes | None:
        """One value, with this attempt's gathered writes in it."""
        self._open()
        value, version = await self._peek(group, key)
        block = self._block
        if block is not None and block.checks and version is not None:
            block.read.setdefault((group, key), version)
        return value

    async def _read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read from the store; an attempt waits for one that is away, as its writes do."""
        while True:
            try:
                return await read()
            except StoreUnavailable:
                if self._run is None:
                    raise
                await asyncio.sleep(LOOK)
                self._open()

    def _around(self) -> Iterator[Block]:
        """Everything gathered that this task sees, the innermost first."""
        yield from blocks_of(self)
        if self._whole is not None:
            yield self._whole

    async def _peek(self, group: str, key: str) -> tuple[bytes | None, int | None]:
        """One value as we see it, and the version in the store that it comes from; None: it is all ours."""
        cell = (group, key)
        for block in self._around():
            if cell in block.own:
                return block.own[cell], block.based.get(cell)
            if group in block.cleared:
                return None, None
        row = await self._read(lambda: self._store.kv_get(group, key))
        return (None, 0) if row is None else (row.value, row.version)

    async def kv_list(self, group: str) -> list[tuple[str, bytes]]:
        """All of a group, by key, with gathered writes in it."""
        self._open()
        found = await self._read(lambda: self._store.kv_list(group))
        rows: dict[str, bytes | None] = {row.key: row.value for row in found}
        for block in reversed([*self._around()]):
            if group in block.cleared:
                rows.clear()
            rows |= {key: value for (of, key), value in block.own.items() if of == group}
        return sorted((key, value) for key, value in rows.items() if value is not None)

    async def kv_groups(self) -> list[str]:
        """Every group that has a key (gathered writes are not in it yet)."""
        self._open()
        return [group for group, _ in await self._read(self._store.kv_groups)]

    async def kv_set(self, group: str, key: str, value: bytes) -> bytes | None:
        """Write one value; answers the old one."""
        self._open()
        entry, known = self._recall("set", _cell(group, key), value)
        if known:
            return entry.value
        return await self._write(KvSet(group, key, value), entry, value)

    async def kv_delete(self, group: str, key: str) -> bytes | None:
        """Remove one value; answers it."""
        self._open()
        entry, known = self._recall("delete", _cell(group, key), b"")
        if known:
            return entry.value
        return await self._write(KvDelete(group, key), entry, None)

    async def _write(self, change: KvSet | KvDelete, entry: Entry, value: bytes | None) -> bytes | None:
        block, before, _ = await self._before(change.group, change.key)
        if block is None:
            old: bytes | None = await self._do(change, entry)
            return old
        self._gather(block, change, entry)
        block.write((change.group, change.key), value)
        return before

    def _gather(self, block: Block, change: Change, entry: Entry) -> None:
        block.add(change, entry)
        self._memory.gathered(entry, block)

    async def kv_update(
        self, group: str, key: str, ops: Sequence[Mapping[str, Any]]
    ) -> tuple[bytes | None, bytes]:
        """
        Apply relative operations; answers (old, new).

        Gathered, the answer is what this attempt sees; the operations are
        applied to what is there when they are committed.

        Raises:
            UpdateError: The operations do not fit the value; nothing was changed.
        """
        with naming(group, key):
            return await self._update(group, key, ops)

    async def _update(
        self, group: str, key: str, ops: Sequence[Mapping[str, Any]]
    ) -> tuple[bytes | None, bytes]:
        self._open()
        validate_ops(ops)
        entry, known = self._recall("update", _cell(group, key), _JSON.encode([dict(op) for op in ops]))
        if known:
            assert entry.value is not None
            old, new = _JSON.decode(entry.value)
            return (None if old is None else _JSON.encode(old)), _JSON.encode(new)
        block, before, version = await self._before(group, key)
        if block is None:
            result: tuple[bytes | None, bytes] = await self._do(KvUpdate(group, key, ops), entry)
            return result
        try:
            after = _JSON.encode(apply_ops(None if before is None else _JSON.decode(before), ops))
        except Exception:
            self._take_back(entry)
            raise
        self._gather(block, KvUpdate(group, key, ops), entry)
        block.write((group, key), after, version)
        return before, after

    async def _before(self, group: str, key: str) -> tuple[Block | None, bytes | None, int | None]:
        """Where to gather a write of this key, and what is there before it."""
        while (block := self._block) is not None:
            value, version = await self._peek(group, key)
            if not block.done:  # else this task outlived its block while it looked
                return block, value, version
        return None, None, None

    async def kv_clear(self, group: str) -> int:
        """Remove a group; answers how many keys went."""
        self._open()
        entry, known = self._recall("clear", quote(group, safe=""), b"")
        if known:
            return int(_JSON.decode(entry.value or b"0"))
        count = len(await self.kv_list(group)) if self._block is not None else 0
        block = self._block
        if block is None:
            return int(await self._do(KvClear(group), entry))
        self._gather(block, KvClear(group), entry)
        block.clear(group)
        return count

    # ---- messages

    async def publish(
        self,
        topic: str,
        data: bytes,
        *,
        group: str | None = None,
        delay: int | None = None,
        priority: int = 0,
    ) -> str:
        """
        Give every Step on *topic* a copy; answers the message id.

        Args:
            delay: Microseconds before it is visible; None: what each Step's config says.

        Raises:
            GroupMissing: A FIFO Step reads this topic and *group* is None.
        """
        self._open()
        facts = b"%b|%d|%d|%b" % ((group or "").encode(), delay or 0, priority, data)
        entry, known = self._recall("enqueue", topic, facts)
        if known:
            return str(_JSON.decode(entry.value or b'""'))
        message = new_id("m")
        hops = self._run.hops if self._run is not None else 0
        change = Publish(message, topic, data, group, delay, priority, hops, self.trace)
        if (block := self._block) is None:
            await self._do(change, entry)
        else:
            entry.state, entry.value = journal.OK, _JSON.encode(message)
            self._gather(block, change, entry)
        return message

    # ---- work and nondeterminism

    async def run(
        self,
        fn: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        process: bool = False,
    ) -> Any:
        """
        Run *fn* once for this run: an equal call of a later attempt answers the kept result.

        Without *retry* it is tried once, and its error is the handler's: the
        attempt fails and the Step is tried again by the Step's own policy.
        """
        self._open()
        policy = retry if retry is not None else _ONCE
        call = Call(fn, args, name, policy, None if timeout is None else micros(timeout), process)
        entry, known = self._recall("run", call.name, b"%d" % call.fingerprint())
        if not known:
            call.key = f"{self._whose()}:{entry.lane}.{entry.pos}"
            try:
                await self._call(call, retry)
            except BaseException:
                self._take_back(entry)
                raise
            entry.state, entry.value = journal.OK, call.value
            if self._run is not None:
                # Durable before the code after it runs, also inside an atomic
                # block: what happened outside cannot be gathered.
                await self._commit([], [entry])
        call.recall(entry)
        return call.answer

    @staticmethod
    async def _call(call: Call, retry: Retry | None) -> None:
        report = _Report()
        call.task = asyncio.create_task(perform(call, report))
        await call.task
        if report.error is not None:
            if retry is None or isinstance(report.error, TerminalError):
                raise report.error
            raise call.gave_up(report.error)

    def uuid(self) -> _uuid.UUID:
        """A random-looking UUID, the same one on every attempt."""
        if self._run is None:
            return _uuid.uuid4()
        return seeded_uuid(*self._seed("uuid"))

    def random(self) -> float:
        """A number in [0, 1), the same one on every attempt."""
        if self._run is None:
            return _random.random()
        return seeded_random(*self._seed("random"))

    def now(self) -> datetime:
        """The time; in a run, the time of its first attempt's first claim plus what was asked before."""
        if self._run is None:
            return as_datetime(self._store.now())
        at = self._store.now()
        note = self._memory.note("~now", self._block, at, _JSON.encode(at))
        return as_datetime(_JSON.decode(note.value or b"0"))

    def _seed(self, kind: str) -> tuple[str, str]:
        assert self._run is not None
        number = self._memory.ask(f"~{kind}", self._block)
        return f"{self._run.rid}/{self._run.generation}", f"{kind}.{number}"

    def _whose(self) -> str:
        """Names this run, or this request: nobody else's, and not what an earlier generation was."""
        if self._run is None:
            if not self._request:
                self._request = new_id("q")  # its trace may be that of many requests, and comes from outside
            return self._request
        generation = f"+{self._run.generation}" if self._run.generation else ""
        return f"{self._run.rid}{generation}"


def _cell(group: str, key: str) -> str:
    """The name of one value: a slash in the group does not make it another group's."""
    return f"{quote(group, safe='')}/{key}"


class _Report:
    """Hears how a call of `Effects.run` went."""

    error: BaseException | None = None

    def succeeded(self, call: Call, result: Any) -> None:
        call.succeed(result)

    def failed(self, call: Call, error: BaseException, again: int | None) -> bool:
        if again is None:
            self.error = error
        return again is not None

    def broke(self, error: Exception) -> None:
        self.error = error


def size_of(changes: Sequence[Change], entries: Sequence[Entry]) -> int:
    """The bytes a batch of these carries, near enough."""
    size = 64
    for entry in entries:
        size += 100 + len(entry.value or b"")
    for change in changes:
        match change:
            case KvSet():
                size += len(change.value)
            case Publish():
                size += len(change.data)
            case _:
                size += 100
    return size
