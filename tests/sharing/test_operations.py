"""How long one waits for a store, and for one's turn at it."""

from __future__ import annotations

import _thread
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from conduit_oauth.runtime.landing import Flag
from conduit_oauth.sharing import operations as module
from conduit_oauth.sharing.operations import AT_ONCE, LONGEST_QUEUE, Operations
from conduit_oauth.stores import StoreError
from conduit_oauth.stores.memory import MemoryStore
from tests.conftest import FakeClock


class WatchedClock(FakeClock):
    """A clock that tells how often it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Condition()
        self._looks = 0

    def __call__(self) -> float:
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        return self.now

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait for what is followed by a look."""
        with self._looked:
            assert self._looked.wait_for(happened, 20)

    def wait_for_looks(self, count: int) -> None:
        target = self._looks + count
        self.wait_for(lambda: self._looks >= target)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WatchedClock:
    clock = WatchedClock()
    monkeypatch.setattr(module, "elapsed", clock)
    return clock


class Line:
    """A store's operations, those that are under way, and those that wait for their turn."""

    def __init__(self, timeout: float) -> None:
        self.operations = Operations(MemoryStore(), timeout)
        self.begun: list[str] = []
        self._begins = threading.Condition()
        self._pool = ThreadPoolExecutor(32)
        self._ends: dict[str, threading.Event] = {}

    def ask(self, name: str, seconds: float = 20.0, **how: Any) -> Future[str]:
        """Ask for what lasts until `end`."""
        end = self._ends[name] = threading.Event()

        def work(_: object) -> str:
            with self._begins:
                self.begun.append(name)
                self._begins.notify_all()
            end.wait(30)
            return name

        return self._pool.submit(self.operations.run, work, seconds, **how)

    def end(self, name: str) -> None:
        self._ends[name].set()

    def wait_for(self, count: int) -> None:
        """Wait until so many have begun."""
        with self._begins:
            assert self._begins.wait_for(lambda: len(self.begun) >= count, 20)

    def fill(self) -> list[Future[str]]:
        """Have as many under way as there may be."""
        asked = [self.ask(f"first-{number}") for number in range(AT_ONCE)]
        self.wait_for(AT_ONCE)
        return asked

    def wait_for_queue(self, count: int, clock: WatchedClock) -> None:
        # Whoever waits looks at the clock as he begins to.
        clock.wait_for(lambda: len(self.operations._queue) >= count)

    def close(self) -> None:
        for end in self._ends.values():
            end.set()
        self._pool.shutdown()


@pytest.fixture
def make_line() -> Iterator[Callable[[float], Line]]:
    made: list[Line] = []

    def make(timeout: float) -> Line:
        made.append(Line(timeout))
        return made[-1]

    yield make
    for line in made:
        line.close()


def test_the_bound_follows_what_operations_take(clock: WatchedClock) -> None:
    operations = Operations(MemoryStore(), 0.05)
    assert operations.bound == 0.05
    assert (operations.farthest, operations.connecting, operations.first) == (0.5, 1.0, 3.0)

    def bound_after(seconds: float) -> float:
        operations.run(lambda _: clock.step(seconds), 20.0)
        return operations.bound

    assert bound_after(0.04) == pytest.approx(4 * 0.04)
    assert bound_after(0.12) == pytest.approx(4 * 0.05)
    # Of a stall no more counts than what makes the farthest bound.
    assert bound_after(100.0) == pytest.approx(4 * (0.05 + (0.125 - 0.05) / 8))
    for _ in range(100):
        most = bound_after(100.0)
    assert most <= 0.5
    for _ in range(100):
        least = bound_after(0.0)
    assert least == 0.05


def test_an_answer_is_waited_for_as_long_as_its_bound(clock: WatchedClock) -> None:
    operations = Operations(MemoryStore(), 0.05)
    assert operations.run(lambda _: Flag().wait(0.3) or "answer", 4.0) == "answer"


def test_a_few_are_at_the_store_at_once_and_the_rest_in_their_turn(
    make_line: Callable[[float], Line], clock: WatchedClock
) -> None:
    line = make_line(5.0)
    asked = line.fill()
    later = line.ask("later")
    line.wait_for_queue(1, clock)
    line.ask("last")
    line.wait_for_queue(2, clock)
    # What others wait for goes first, and what is not queued at once.
    line.ask("next", is_next=True)
    line.wait_for_queue(3, clock)
    assert line.operations.run(lambda _: "unqueued", 20.0, queued=False) == "unqueued"
    assert len(line.begun) == AT_ONCE
    line.end("first-0")
    assert asked[0].result(20) == "first-0"
    line.wait_for(AT_ONCE + 1)
    line.end("next")
    line.wait_for(AT_ONCE + 2)
    line.end("later")
    line.wait_for(AT_ONCE + 3)
    assert line.begun[AT_ONCE:] == ["next", "later", "last"]
    line.end("last")
    assert later.result(20) == "later"
    for number in range(1, AT_ONCE):
        line.end(f"first-{number}")
        asked[number].result(20)
    # Every turn was given back.
    asked = [line.ask(f"second-{number}") for number in range(AT_ONCE)]
    line.wait_for(2 * AT_ONCE + 3)


def test_where_nothing_was_ever_answered_nobody_queues(make_line: Callable[[float], Line], clock: WatchedClock) -> None:
    line = make_line(5.0)
    line.fill()
    with pytest.raises(StoreError, match="it is too busy"):
        line.ask("later", 0.01).result(20)
    assert not line.operations._queue


def test_where_nobody_gets_a_turn_one_gives_up_after_the_time_of_a_connection(
    make_line: Callable[[float], Line], clock: WatchedClock
) -> None:
    line = make_line(0.05)
    line.operations.run(lambda _: None, 20.0)
    line.fill()
    later = line.ask("later", 0.01)
    line.wait_for_queue(1, clock)
    clock.step(line.operations.connecting)
    clock.wait_for_looks(3)
    assert not later.done()
    clock.step(0.001)
    with pytest.raises(StoreError, match="it is too busy"):
        later.result(20)
    assert not line.operations._queue


def test_where_others_get_their_turn_one_gives_up_later(
    make_line: Callable[[float], Line], clock: WatchedClock
) -> None:
    line = make_line(5.0)
    line.operations.run(lambda _: None, 20.0)
    line.fill()
    later = line.ask("later", 0.01)
    line.wait_for_queue(1, clock)
    clock.step(LONGEST_QUEUE)
    clock.wait_for_looks(3)
    assert not later.done()
    clock.step(0.001)
    with pytest.raises(StoreError, match="it is too busy"):
        later.result(20)


def test_where_the_store_is_left_alone_nobody_waits_for_a_turn(
    make_line: Callable[[float], Line], clock: WatchedClock
) -> None:
    line = make_line(5.0)
    line.operations.run(lambda _: None, 20.0)
    line.fill()
    later = line.ask("later", 0.01)
    clock.wait_for_looks(3)
    assert not later.done()
    line.operations.is_open = False
    with pytest.raises(StoreError, match="it is too busy"):
        later.result(20)


def test_an_answer_that_comes_too_late_still_reaches_a_listener(clock: WatchedClock) -> None:
    operations = Operations(MemoryStore(), 0.05)
    go_on, heard = threading.Event(), threading.Event()
    late: list[str] = []

    def hear(answer: str) -> None:
        late.append(answer)
        heard.set()

    with pytest.raises(StoreError, match=r"no answer within 0\.02 s"):
        operations.run(lambda _: str(go_on.wait(20)), 0.02, late=hear)
    go_on.set()
    assert heard.wait(20)
    assert late == ["True"]
    # Its time counts all the same, and its turn was given back.
    assert operations._at_once == 0
    assert operations._worked_at > -math.inf


def test_a_store_that_breaks_down_is_one_that_fails(clock: WatchedClock) -> None:
    operations = Operations(MemoryStore(), 0.05)

    def fail(error: Exception) -> Callable[[object], None]:
        def work(_: object) -> None:
            raise error

        return work

    with pytest.raises(StoreError, match="full"):
        operations.run(fail(StoreError("full")), 20.0)
    with pytest.raises(StoreError, match="broke down with ZeroDivisionError"):
        operations.run(fail(ZeroDivisionError()), 20.0)


def test_where_there_is_no_thread_the_caller_asks(clock: WatchedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_thread", type("Module", (), {"start_new_thread": staticmethod(refuse)}))
    asker = Operations(MemoryStore(), 0.05).run(lambda _: _thread.get_ident(), 20.0)
    assert asker == _thread.get_ident()


def test_a_thread_that_begins_late_is_no_fault_of_the_store(
    clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_late(work: Callable[[], None], arguments: tuple[()]) -> None:
        threading.Timer(0.2, work, arguments).start()

    monkeypatch.setattr(module, "_thread", type("Module", (), {"start_new_thread": staticmethod(start_late)}))
    assert Operations(MemoryStore(), 0.05).run(lambda _: "answer", 0.02) == "answer"
