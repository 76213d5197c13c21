"""The rule of replay with plain lists: whatever a body does, its journal leads it there again."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.core.journal import Entry
from everstep.core.replay import CONTROL, Replay
from everstep.errors import JournalMismatch


def entry(lane: str, pos: int, seq: int | None, *, kind: str = "run", name: str = "f", fp: int = 0) -> Entry:
    return Entry(lane, pos, kind, name, fp, seq, 0, 0, b"1")


def ask(
    replay: Replay[str], lane: str, pos: int, *, kind: str = "run", name: str = "f", fp: int = 0
) -> JournalMismatch | None:
    """What the engine does when a body asks."""
    known = replay.lane(lane)
    found = None if known is None else known.pop(pos, None)
    return None if found is None else replay.ask(found, kind, name, fp, f"{lane}.{pos}")


def test_entries_are_handed_over_in_the_order_of_their_seq() -> None:
    """In whatever order the store answers; those without one have no turn."""
    replay: Replay[str] = Replay(
        "r", [entry("0", 2, 3), entry("0/0", 0, None), entry("0/1", 0, 1), entry("0", 1, 2)]
    )

    assert [e.seq for e in replay.order] == [1, 2, 3]


def test_an_entry_goes_to_whoever_asked_at_its_address() -> None:
    """Once."""
    replay: Replay[str] = Replay("r", [entry("0", 0, 1)])
    assert ask(replay, "0", 0) is None

    assert replay.turn(replay.order[0]) == "0.0"
    assert replay.turn(replay.order[0]) is None
    assert replay.rest() == []


def test_an_address_the_journal_does_not_know_is_new() -> None:
    """In a lane it knows as in one it does not."""
    replay: Replay[str] = Replay("r", [entry("0", 0, 1)])

    assert replay.lane("0/7") is None
    assert (replay.lane("0") or {}).get(5) is None


@pytest.mark.parametrize(
    ("changed", "only_arguments"), [({"kind": "sleep"}, False), ({"name": "g"}, False), ({"fp": 8}, True)]
)
def test_what_differs_is_a_mismatch(changed: dict[str, object], only_arguments: bool) -> None:
    """Kind, name or arguments; both sides are in the error."""
    replay: Replay[str] = Replay("r", [entry("0", 3, 1, fp=7)])
    asked = {"kind": "run", "name": "f", "fp": 7, **changed}
    error = ask(replay, "0", 3, **asked)  # type: ignore[arg-type]

    assert error is not None
    assert (error.run_id, error.address, error.only_arguments) == ("r", "0.3", only_arguments)
    assert (error.recorded.name, error.recorded.fingerprint) == ("f", 7)
    assert error.attempted is not None
    assert error.attempted.kind == asked["kind"]


@pytest.mark.parametrize(("recorded", "asked"), [(0, 5), (5, 0), (5, 5)])
def test_no_fingerprint_fits_every_fingerprint(recorded: int, asked: int) -> None:
    """0 means that none was taken: a closure."""
    assert ask(Replay("r", [entry("0", 0, 1, fp=recorded)]), "0", 0, fp=asked) is None


def test_other_arguments_may_be_accepted() -> None:
    """Another name may not."""
    replay: Replay[str] = Replay("r", [entry("0", 0, 1, fp=1), entry("0", 1, 2)], accept_args=True)

    assert ask(replay, "0", 0, fp=2) is None
    assert ask(replay, "0", 1, name="g") is not None


def test_what_nobody_asked_for_is_left_over() -> None:
    """And what ended late, with whoever asked; the control lane is asked for by nobody."""
    late, unasked = entry("0", 0, None), entry("0/1", 4, 2)
    replay: Replay[str] = Replay("r", [late, unasked, entry(CONTROL, 0, 1, kind="cancel", name="")])
    ask(replay, "0", 0)

    assert replay.rest() == [(late, "0.0"), (unasked, None)]
    assert "abandoned run" in str(replay.mismatch(late, None))


# ---- the rule itself, on a toy engine


class Toy:
    """
    A deterministic body: after each answer it asks some more and abandons some, as its dice say.

    Its dice know only what it was handed, as a body may know only that.
    """

    def __init__(self, seed: int, most: int) -> None:
        self.seed, self.left = seed, most
        self.next_pos: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.got: list[tuple[str, bytes | None]] = []

    def run(self, asks: Callable[[str, int], None]) -> None:
        """Go on until nothing is left to do without another answer."""
        dice = Random(f"{self.seed} {self.got}")
        for gone in sorted(self.waiting):
            if dice.random() < 0.15:
                self.waiting.discard(gone)
        for _ in range(dice.randrange(0, 3)):
            if self.left:
                self.left -= 1
                lane = f"0/{dice.randrange(3)}"
                pos = self.next_pos.get(lane, 0)
                self.next_pos[lane] = pos + 1
                self.waiting.add(f"{lane}.{pos}")
                asks(lane, pos)

    def hand_over(self, address: str, value: bytes | None, asks: Callable[[str, int], None]) -> None:
        if address in self.waiting:
            self.waiting.discard(address)
            self.got.append((address, value))
            self.run(asks)


def drive(journal: list[Entry], seed: int, dice: Random, stop: int) -> Toy:
    """One pass: replay, then go on live until *stop* batches were written or nothing is open."""
    toy, replay = Toy(seed, 30), Replay[str]("r", journal)
    fresh: list[str] = []

    def asks(lane: str, pos: int) -> None:
        known = replay.lane(lane)
        found = None if known is None else known.pop(pos, None)
        if found is None:
            fresh.append(f"{lane}.{pos}")
        else:
            assert replay.ask(found, "run", "f", 0, f"{lane}.{pos}") is None

    toy.run(asks)
    for recorded in replay.order:
        asked = replay.turn(recorded)
        assert asked == recorded.address
        toy.hand_over(asked, recorded.value, asks)
    for _, asker in replay.rest():
        assert asker is not None
        assert asker not in toy.waiting
    while fresh and stop:
        stop -= 1
        dice.shuffle(fresh)
        done = [fresh.pop() for _ in range(dice.randrange(1, len(fresh) + 1))]
        batch: list[Entry] = []
        for address in done:
            lane, _, pos = address.rpartition(".")
            seq = max((e.seq or 0 for e in (*journal, *batch)), default=0) + 1
            wanted = address in toy.waiting
            batch.append(
                Entry(
                    lane, int(pos), "run", "f", 0, seq if wanted else None, 0, 0, b"%d" % dice.randrange(99)
                )
            )
        journal.extend(batch)
        for written in batch:
            if written.seq is not None:
                toy.hand_over(written.address, written.value, asks)
    return toy


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.lists(st.integers(0, 4), max_size=6))
def test_a_journal_leads_the_body_where_it_was(seed: int, order: int, kills: list[int]) -> None:
    """Killed after any batch and driven again, it gets the same answers in the same order."""
    journal: list[Entry] = []
    dice = Random(order)
    for stop in kills:
        drive(journal, seed, dice, stop)
    last = drive(journal, seed, dice, 1_000)
    again = drive(list(journal), seed, dice, 0)

    assert again.got == last.got
    assert again.waiting == last.waiting
    assert again.next_pos == last.next_pos
    assert len({(e.lane, e.pos) for e in journal}) == len(journal)
