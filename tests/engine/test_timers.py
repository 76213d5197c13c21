"""One heap and one alarm: due in order, never piling up."""

from collections.abc import Callable

from everstep.engine.operations import Sleep
from everstep.engine.timers import Timers


class Clock:
    """Knows the time it is told, and counts the alarms it is asked for."""

    def __init__(self) -> None:
        self.time = 0
        self.set: list[tuple[int, Callable[[], None]]] = []

    def now(self) -> int:
        return self.time

    def at(self, due_us: int, fn: Callable[[], None]) -> "Clock":
        self.set.append((due_us, fn))
        return self

    def cancel(self) -> None:
        self.set.pop()


class Nap(Sleep):
    """A sleep that says itself whether it is wanted."""

    __slots__ = ("gone",)

    def __init__(self, due: int) -> None:
        super().__init__(0)
        self.due = due
        self.gone = False

    def wanted(self) -> bool:
        return not self.gone


def test_what_is_due_comes_in_the_order_of_its_due_time() -> None:
    """Of those due at once, the one asked for first is first; what nobody wants is passed over."""
    clock = Clock()
    timers = Timers(clock, lambda: None)
    naps = [Nap(due) for due in (30, 10, 20, 10, 40)]
    for nap in naps:
        timers.add(nap)
    naps[2].gone = True
    clock.time = 30

    assert timers.take_due() == [naps[1], naps[3], naps[0]]
    assert timers.next_due() == 40


def test_there_is_one_alarm_and_it_is_kept_while_it_is_early_enough() -> None:
    """A timeout around each call does not set an alarm each time."""
    clock = Clock()
    rung: list[int] = []
    timers = Timers(clock, lambda: rung.append(1))
    for due in (50, 60, 70):
        timers.add(Nap(due))
        timers.set_alarm()
    assert [due for due, _ in clock.set] == [50]

    timers.add(Nap(20))
    timers.set_alarm()
    assert [due for due, _ in clock.set] == [20]

    clock.set.pop()[1]()
    assert rung == [1]
    timers.set_alarm()
    timers.silence()
    assert clock.set == []


def test_timeouts_that_were_not_needed_do_not_pile_up() -> None:
    """Ten thousand calls within ten thousand timeouts leave a small heap."""
    timers = Timers(Clock(), lambda: None)
    for i in range(10_000):
        nap = Nap(1_000_000 + i)
        timers.add(nap)
        nap.gone = True

    assert len(timers._heap) < 200
    assert timers.next_due() is None


def test_nothing_rings_after_the_end() -> None:
    """Closed, it lets go of whoever would be rung."""
    clock = Clock()
    rung: list[int] = []
    timers = Timers(clock, lambda: rung.append(1))
    timers.add(Nap(5))
    timers.set_alarm()
    ring = clock.set[0][1]
    timers.close()
    ring()

    assert not rung
    assert not timers
