"""A store as a process sees it: how long one waits, what a fault is blamed on, what is renewed, given back and told."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from conduit_oauth.clock import elapsed
from conduit_oauth.sharing import leases, upkeep
from conduit_oauth.sharing import tier as tier_module
from conduit_oauth.sharing.leases import EXTRA_LEASE, FIRST_LEASE, LEASE, LEASE_CAP, LONGEST_LEASE
from conduit_oauth.sharing.tier import LOCAL, Tier, local_tier, tier_of
from conduit_oauth.sharing.upkeep import PING
from conduit_oauth.stores import NOTHING, Entry, Known, News, StoreError
from conduit_oauth.stores.memory import MemoryStore
from conduit_oauth.stores.sqlite import SqliteStore
from tests.conftest import FakeClock


def stand_still(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    """Have the time of a tier stand still."""
    for module in (tier_module, upkeep, leases):
        monkeypatch.setattr(module, "elapsed", clock)


def fail(store: Any) -> None:
    raise StoreError("busy")


class Store(MemoryStore):
    """A store that keeps what it was asked, and fails as a test says: before it does what it is asked, or after."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lambda: clock() + self.ahead)
        self.ahead = 500_000.0
        self.asked: list[tuple[str, str, float]] = []
        self.fails: Callable[[str, str], bool] = lambda operation, key: False
        self.loses: Callable[[str, str], bool] = lambda operation, key: False
        self.deaf: Exception | None = None
        self.took: Callable[[], object] = lambda: None

    def _note(self, operation: str, key: str, seconds: float = 0.0) -> None:
        self.asked.append((operation, key, round(seconds, 6)))
        if self.fails(operation, key):
            raise StoreError(f"{operation} failed")

    def count(self, operation: str) -> int:
        return [each for each, *_ in self.asked].count(operation)

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        self._note("claim", key, lease)
        entry = super().claim(key, known, lease, owner)
        if self.loses("claim", key):
            raise StoreError("the answer was lost")
        return entry

    def renew(self, key: str, owner: str, lease: float) -> None:
        self._note("renew", key, lease)
        super().renew(key, owner, lease)

    def release(self, key: str, owner: str) -> None:
        self._note("release", key)
        super().release(key, owner)

    def clocks(self) -> Mapping[str, float]:
        self._note("clocks", "")
        self.took()
        told = super().clocks()
        self.took()
        return told

    def listen(self, seconds: float) -> Sequence[News]:
        if self.deaf is not None:
            raise self.deaf
        return super().listen(0.0)

    def is_free(self, key: str) -> bool:
        row = self._rows.get(key)
        return row is None or not row.leased(self._clock())

    def tell(self, key: str, entry: Entry) -> None:
        self._news.append((key, entry))


class Listener:
    def __init__(self) -> None:
        self.heard_of: list[Entry] = []
        self.looks: list[bool] = []
        self.error: Exception | None = None

    def heard(self, entry: Entry) -> None:
        self.heard_of.append(entry)
        if self.error is not None:
            raise self.error

    def resync(self, *, distrust: bool = False) -> None:
        self.looks.append(distrust)


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


@pytest.fixture
def tier(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Tier:
    """A tier that is up, whose thread is the test."""
    stand_still(monkeypatch, clock)
    tier = Tier(store, 5.0)
    tier.watch(0.0)
    store.asked.clear()
    return tier


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return said


class TestBounds:
    def test_a_store_may_hesitate_unless_an_operation_just_failed(
        self, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_still(monkeypatch, clock)
        # Far more than operations take here.
        tier = Tier(SqliteStore(tmp_path / "tokens.sqlite3"), 5.0)
        user = User()
        tier.join(user)
        try:
            assert tier.call("key", lambda _: "answer") == "answer"
            assert tier.bound == 10.0
            assert tier.call("key", fail) is None
            clock.step(0.99)
            assert tier.bound == 5.0
            clock.step(0.01)
            assert tier.bound == 10.0
        finally:
            tier.part(user)
            tier.store.close()

    def test_the_more_wait_the_less_often_each_looks(self, store: Store, tier: Tier) -> None:
        store.poll = 1.0
        polls: list[float] = []
        for waiting in (0, 20, 30, 1000):
            tier.waiting = set(range(waiting))
            polls.append(tier.poll)
        assert polls == [1.0, 1.0, 1.5, 10.0]
        # A store that wants few looks has them.
        store.poll = 20.0
        assert tier.poll == 20.0

    def test_what_nobody_waits_for_has_more_time(self, tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
        bounds: list[float] = []

        def run(work: Callable[[Any], Any], seconds: float, **_: Any) -> Any:
            bounds.append(seconds)
            return work(tier.store)

        monkeypatch.setattr(tier._operations, "run", run)
        tier.call("key", lambda _: True)
        tier.call("key", lambda _: True, patient=True)
        assert bounds == [10.0, 50.0]

    def test_only_the_tiers_own_thread_waits_for_no_turn(self, tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
        turns: list[bool] = []
        run = tier._operations.run

        def watched(*asked: Any, queued: bool, **others: Any) -> Any:
            turns.append(queued)
            return run(*asked, queued=queued, **others)

        monkeypatch.setattr(tier._operations, "run", watched)
        tier.call("key", lambda _: True)
        assert turns == [True]
        monkeypatch.setattr(tier, "_thread", threading.current_thread())
        tier.call("key", lambda _: True)
        tier.claim("key", NOTHING, tier.lease, "owner")
        tier.watch(0.0)
        assert turns[1:] == [False] * len(turns[1:])
        assert len(turns) == 4

    def test_what_only_the_users_of_the_store_know_is_asked_for_once(
        self, store: Store, tier: Tier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert Tier(MemoryStore(), 5.0, remote=False).pepper() == b""
        assert tier.pepper() == b""
        monkeypatch.setattr(store, "pepper", b"pepper", raising=False)
        tier = Tier(store, 5.0)
        tier.watch(0.0)
        # It came while nobody waited for it.
        monkeypatch.setattr(store, "pepper", b"another")
        assert tier.pepper() == b"pepper"

    def test_what_only_the_users_of_the_store_know_may_not_be_there_at_first(
        self, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(store: Store) -> bytes:
            raise StoreError("its key cannot be read")

        stand_still(monkeypatch, clock)
        monkeypatch.setattr(Store, "pepper", property(broken), raising=False)
        tier = Tier(store, 5.0)
        tier.watch(0.0)
        assert tier.up
        assert tier.pepper() is None
        clock.step(1.0)
        monkeypatch.setattr(Store, "pepper", b"pepper")
        assert tier.pepper() == b"pepper"


class TestLeases:
    def test_a_leader_that_dies_at_once_is_replaced_sooner_than_one_that_renewed_its_lease(
        self, store: Store, tier: Tier, clock: FakeClock
    ) -> None:
        tier.claim("key", NOTHING, tier.lease, "first")
        clock.step(FIRST_LEASE - 0.1)
        assert not store.is_free("key")
        clock.step(0.2)
        assert store.is_free("key")
        tier.claim("key", NOTHING, tier.lease, "second")
        clock.step(FIRST_LEASE - 0.1)
        tier.watch(0.0)
        clock.step(LEASE - 0.1)
        assert not store.is_free("key")
        clock.step(0.2)
        assert store.is_free("key")

    def test_the_more_a_process_has_the_longer_they_last(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        seconds: list[float] = []
        for number in range(3):
            tier.claim(f"key-{number}", NOTHING, tier.lease, "owner")
            seconds.append(store.asked[-1][2])
        assert seconds == [FIRST_LEASE, FIRST_LEASE + EXTRA_LEASE, FIRST_LEASE + 2 * EXTRA_LEASE]
        tier.watch(0.0)
        assert sorted(store.asked[-3:]) == [("renew", f"key-{n}", LEASE + 3 * EXTRA_LEASE) for n in range(3)]
        for number in range(3, 300):
            tier.claim(f"key-{number}", NOTHING, tier.lease, "owner")
        assert store.asked[-1][2] == FIRST_LEASE + LEASE_CAP
        tier.watch(0.0)
        assert store.asked[-1][2] == LEASE + LEASE_CAP

    def test_who_asks_for_a_short_one_gets_a_short_one_and_who_asks_for_none_gets_none(
        self, store: Store, tier: Tier
    ) -> None:
        tier.claim("key", NOTHING, 0.5, "owner")
        assert store.asked[-1] == ("claim", "key", 0.5)
        entry = tier.claim("other", NOTHING, 0.0, "owner")
        assert entry is not None
        assert not entry.lease
        assert store.asked[-1] == ("claim", "other", 0.0)
        entry = tier.claim("key", NOTHING, 0.5, "another")
        assert entry is not None
        assert not entry.lease
        tier.watch(0.0)
        assert store.count("renew") == 1
        tier.claim("third", NOTHING, 0.5, "owner")
        assert store.asked[-1][2] == 0.5 + EXTRA_LEASE

    def test_in_one_process_a_leader_cannot_die_alone(self, store: Store) -> None:
        tier = Tier(store, 5.0, remote=False)
        tier.claim("key", NOTHING, tier.lease, "owner")
        assert store.asked == [("claim", "key", LONGEST_LEASE)]

    def test_a_lease_is_renewed_four_times_in_its_life(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        tier.watch(0.0)
        tier.claim("key", NOTHING, tier.lease, "owner")
        tier.watch(0.0)
        assert store.count("renew") == 1
        for step, renewals in ((LEASE / 4, 1), (0.25, 2), (LEASE / 4, 2), (0.25, 3)):
            clock.step(step)
            tier.watch(0.0)
            assert store.count("renew") == renewals
        # One that is new is renewed alone.
        tier.claim("new", NOTHING, tier.lease, "owner")
        tier.watch(0.0)
        assert [key for operation, key, _ in store.asked if operation == "renew"][3:] == ["new"]

    def test_a_lease_has_a_longest_life(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        tier.claim("key", NOTHING, tier.lease, "owner")
        clock.step(LONGEST_LEASE - 0.25)
        tier.watch(0.0)
        assert store.count("renew") == 1
        # What was dropped is dropped for good.
        for _ in range(2):
            clock.step(LEASE)
            tier.watch(0.0)
        assert store.count("renew") == 1

    def test_the_longest_life_ends_to_the_moment(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        tier.claim("key", NOTHING, tier.lease, "owner")
        clock.step(LONGEST_LEASE)
        tier.watch(0.0)
        assert store.count("renew") == 0

    def test_one_that_cannot_be_renewed_keeps_no_other_from_it(self, store: Store, tier: Tier) -> None:
        for key in ("good", "bad", "well"):
            tier.claim(key, NOTHING, tier.lease, "owner")
        store.fails = lambda operation, key: key == "bad"
        tier.watch(0.0)
        assert store.count("renew") == 3
        # And the key is blamed.
        assert tier.call("bad", lambda _: True) is None

    def test_what_was_released_or_dropped_is_renewed_no_more(self, store: Store, tier: Tier) -> None:
        for key in ("released", "dropped"):
            tier.claim(key, NOTHING, tier.lease, "owner")
        tier.release("released", "owner")
        tier.drop("dropped", "owner")
        tier.watch(0.0)
        assert store.count("renew") == 0
        assert store.count("release") == 1
        assert store.is_free("released")
        assert not store.is_free("dropped")


class TestLostAnswers:
    def test_a_lease_whose_answer_was_lost_is_given_back_while_it_may_still_be_granted(
        self, store: Store, tier: Tier, clock: FakeClock
    ) -> None:
        store.loses = lambda operation, key: key == "key"
        assert tier.claim("key", NOTHING, tier.lease, "owner") is None
        assert not store.is_free("key")
        store.loses = lambda operation, key: False
        tier.watch(0.0)
        assert store.is_free("key")
        clock.step(1.0)
        tier.watch(0.0)
        # As if the network brought the request again and again.
        clock.step(tier.lease - 1.0)
        for _ in range(2):
            MemoryStore.claim(store, "key", NOTHING, 60.0, "owner")
            tier.watch(0.0)
            assert store.is_free("key")
        clock.step(0.25)
        tier.watch(0.0)
        releases = store.count("release")
        tier.watch(0.0)
        assert store.count("release") == releases

    def test_it_is_tried_until_it_is_done(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        tier.claim("key", NOTHING, tier.lease, "owner")
        store.fails = lambda operation, key: operation == "release"
        tier.release("key", "owner")
        for _ in range(3):
            clock.step(tier.lease + 1)
            tier.watch(0.0)
            assert tier.up
        assert store.count("release") == 4
        MemoryStore.claim(store, "key", NOTHING, 60.0, "owner")
        store.fails = lambda operation, key: False
        tier.watch(0.0)
        assert store.is_free("key")

    def test_a_short_one_is_given_back_as_well(self, store: Store, tier: Tier) -> None:
        store.loses = lambda operation, key: key == "key"
        assert tier.claim("key", NOTHING, 0.5, "owner") is None
        tier.watch(0.0)
        assert store.count("release") == 1

    def test_a_look_leaves_nothing_to_give_back(self, store: Store, tier: Tier) -> None:
        store.loses = lambda operation, key: key == "key"
        assert tier.claim("key", NOTHING, 0.0, "owner") is None
        tier.watch(0.0)
        assert store.count("release") == 0

    def test_so_many_are_remembered_at_most(self, store: Store, tier: Tier) -> None:
        store.loses = lambda operation, key: True
        for number in range(300):
            tier.claim(f"key-{number}", NOTHING, tier.lease, "owner")
        store.loses = lambda operation, key: False
        tier.watch(0.0)
        assert store.count("release") == 256

    @pytest.mark.parametrize("is_granted", [True, False])
    def test_a_grant_that_comes_too_late_is_given_back(
        self, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, *, is_granted: bool
    ) -> None:
        stand_still(monkeypatch, clock)
        tier = Tier(store, 0.05)
        tier.watch(0.0)
        if not is_granted:
            MemoryStore.claim(store, "key", NOTHING, 60.0, "another")
        answers, ended = threading.Event(), threading.Event()
        granted, run = store.claim, tier._operations.run

        def claim(*asked: Any) -> Entry:
            answers.wait()
            return granted(*asked)

        def watched(*asked: Any, late: Callable[[Entry], object], **others: Any) -> Any:
            def told(entry: Entry) -> None:
                late(entry)
                ended.set()

            return run(*asked, late=told, **others)

        monkeypatch.setattr(store, "claim", claim)
        monkeypatch.setattr(tier._operations, "run", watched)
        assert tier.claim("key", NOTHING, tier.lease, "owner") is None
        answers.set()
        assert ended.wait(10)
        assert store.count("release") == is_granted


class TestBlame:
    def test_a_key_that_fails_is_left_alone_for_longer_and_longer(
        self, store: Store, tier: Tier, clock: FakeClock
    ) -> None:
        for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            assert tier.call("bad", fail) is None
            clock.step(pause - 0.01)
            assert tier.call("bad", lambda _: "answer") is None
            # The others are asked.
            assert tier.call("good", lambda _: "answer") == "answer"
            clock.step(0.01)
        assert tier.call("bad", lambda _: "answer") == "answer"
        # Well again, it begins anew.
        tier.call("bad", fail)
        clock.step(0.1)
        assert tier.call("bad", lambda _: "answer") == "answer"

    def test_what_is_stored_waits_out_the_first_pause_only(
        self, tier: Tier, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []

        def wait(seconds: float) -> None:
            pauses.append(round(seconds, 6))
            clock.step(seconds)

        monkeypatch.setattr(tier_module, "Flag", lambda: SimpleNamespace(wait=wait))
        tier.wait_out("key")
        assert pauses == []
        tier.call("key", fail)
        tier.wait_out("other")
        clock.step(0.04)
        tier.wait_out("key")
        assert pauses == [0.06]
        tier.call("key", fail)
        tier.wait_out("key")
        clock.step(0.2)
        tier.wait_out("key")
        assert pauses == [0.06]

    def test_so_many_are_remembered_at_most(self, tier: Tier) -> None:
        for number in range(257):
            tier.call(f"bad-{number}", fail)
        assert tier.call("bad-0", lambda _: "answer") is None
        tier.call("bad-257", fail)
        # All but the latest are tried again.
        assert tier.call("bad-0", lambda _: "answer") == "answer"
        assert tier.call("bad-257", lambda _: "answer") is None

    def test_a_fault_of_one_key_is_no_outage(self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture) -> None:
        tier.call("bad", fail)
        tier.watch(0.0)
        probes = store.asked[:]
        assert [operation for operation, *_ in probes] == ["claim"]
        # A store that is full answers whoever only looks.
        assert probes[0][2] == 0.001
        assert tier.up
        assert lines(caplog) == []
        tier.watch(0.0)
        assert store.count("claim") == 1

    def test_one_shard_is_no_outage(self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture) -> None:
        tier.call("bad", fail)
        store.fails = lambda operation, key: operation == "claim" and store.count("claim") < 6
        tier.watch(0.0)
        assert store.count("claim") == 6
        assert tier.up
        assert lines(caplog) == []

    def test_where_nothing_works_it_is_one_which_is_said_once_each_way(
        self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture
    ) -> None:
        listener = Listener()
        tier.subscribers.subscribe("key", listener, "")
        tier.call("bad", fail)
        store.fails = lambda operation, key: operation == "claim"
        pauses = [tier.watch(0.0)]
        assert store.count("claim") == 6
        assert not tier.up
        (down,) = lines(caplog)
        assert down.startswith("store_down: claim failed")
        for _ in range(6):
            pauses.append(tier.watch(pauses[-1]))
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        assert lines(caplog) == []
        # Nobody asks it meanwhile.
        assert tier.call("key", lambda _: "answer") is None
        store.fails = lambda operation, key: False
        store.asked.clear()
        listener.looks.clear()
        assert tier.watch(2.0) == 0.0
        assert tier.up
        assert store.asked[0][2] == 0.001
        assert lines(caplog) == ["store_up: the token store is in use again"]
        # Who listens looks again, and keys that failed are tried.
        assert listener.looks == [False]
        assert tier.call("bad", lambda _: "answer") == "answer"
        tier.watch(0.0)
        assert lines(caplog) == []
        store.fails = lambda operation, key: operation == "claim"
        tier.call("bad", fail)
        tier.watch(0.0)
        assert len(lines(caplog)) == 1

    def test_the_first_probe_only_looks(self, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
        Tier(store, 5.0).watch(0.0)
        assert store.asked == [("claim", store.asked[0][1], 0.0)]
        assert lines(caplog) == []

    def test_one_that_was_closed_is_not_said_to_be_down(
        self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture
    ) -> None:
        tier.before_exit(0.0)
        store.fails = lambda operation, key: True
        tier.call("bad", fail)
        tier.watch(0.0)
        assert lines(caplog) == []

    def test_a_store_that_was_never_tried_is_waited_for_once(
        self, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(tier_module, "patiently", lambda flag, seconds: waits.append(seconds))
        tier = Tier(store, 5.0)
        assert tier.call("key", lambda _: "answer") is None
        assert tier.call("key", lambda _: "answer") is None
        assert waits == [300.0]


class TestClocks:
    def looks(self, tier: Tier, listener: Listener) -> list[bool]:
        listener.looks.clear()
        tier.watch(0.0)
        return listener.looks

    def test_they_are_compared_now_and_then(self, store: Store, tier: Tier, clock: FakeClock) -> None:
        for step, comparisons in ((PING, 0), (0.25, 1), (PING, 1), (0.25, 2)):
            clock.step(step)
            tier.watch(0.0)
            assert store.count("clocks") == comparisons

    def test_one_that_went_back_is_said_and_all_is_asked_for_anew(
        self, store: Store, tier: Tier, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        listener = Listener()
        tier.subscribers.subscribe("key", listener, "")
        # The answer takes a second each way: by that much nobody knows better.
        store.took = lambda: clock.step(1)
        tier.watch(0.0)
        for ahead, went_back in (
            (500_000.0, False),
            # Two seconds of doubt, and half a second.
            (499_997.5, False),
            (499_997.4, True),
            (499_997.4, False),
            (600_000.0, False),
            (600_000.0, False),
            (500_000.0, True),
        ):
            clock.step(PING + 1)
            store.ahead = ahead
            assert self.looks(tier, listener) == ([True] if went_back else [])
            assert len(lines(caplog)) == went_back


class TestNews:
    def test_they_reach_who_wants_them(self, store: Store, tier: Tier) -> None:
        one, other = Listener(), Listener()
        tier.subscribers.subscribe("one", one, "")
        tier.subscribers.subscribe("other", other, "")
        ticket, foreign = tier.subscribers.ticket("one"), tier.subscribers.ticket("other")
        entry = Entry(b"sealed", 7)
        store.tell("one", entry)
        assert tier.watch(0.0) == 0.0
        assert (one.heard_of, other.heard_of) == ([entry], [])
        assert ticket.is_set()
        assert not foreign.is_set()
        assert tier.subscribers.told("one") == entry
        assert tier.subscribers.told("other") is None
        # With the next ticket it is old.
        assert not tier.subscribers.ticket("one").is_set()
        assert tier.subscribers.told("one") is None

    def test_only_a_value_is_told_and_only_to_who_waits(self, store: Store, tier: Tier) -> None:
        tier.subscribers.ticket("key")
        store.tell("key", Entry(floor=7))
        store.tell("nobody", Entry(b"sealed", 7))
        tier.watch(0.0)
        assert tier.subscribers.told("key") is None
        assert tier.subscribers.told("nobody") is None

    def test_one_ticket_serves_all_who_wait(self, tier: Tier) -> None:
        assert tier.subscribers.ticket("key") is tier.subscribers.ticket("key")

    def test_where_hearing_begins_all_look(self, store: Store, tier: Tier) -> None:
        listener = Listener()
        tier.subscribers.subscribe("key", listener, "")
        tickets = [tier.subscribers.ticket("key"), tier.subscribers.ticket("other")]
        store.tell("", Entry())
        tier.watch(0.0)
        assert all(ticket.is_set() for ticket in tickets)
        assert listener.looks == [False]
        assert not tier.subscribers.ticket("key").is_set()

    def test_who_changed_the_key_hears_of_the_new_one_only(self, store: Store, tier: Tier) -> None:
        listener, other = Listener(), Listener()
        tier.subscribers.subscribe("old", listener, "")
        tier.subscribers.subscribe("old", other, "")
        tier.subscribers.subscribe("new", listener, "old")
        for key in ("old", "new"):
            store.tell(key, Entry(last=len(key)))
        store.tell("old", Entry(floor=7))
        tier.watch(0.0)
        assert listener.heard_of == [Entry(last=3)]
        assert other.heard_of == [Entry(last=3), Entry(floor=7)]

    def test_who_is_gone_leaves_nothing_behind(self, store: Store, tier: Tier) -> None:
        kept = Listener()
        tier.subscribers.subscribe("kept", kept, "")
        tier.subscribers.ticket("kept")
        many = [Listener() for _ in range(300)]
        for number, listener in enumerate(many):
            tier.subscribers.subscribe(f"many-{number}", listener, "")
        for number in range(10_000):
            tier.subscribers.subscribe(f"key-{number}", Listener(), "")
            tier.subscribers.ticket(f"key-{number}")
            store.tell(f"key-{number}", Entry(b"sealed", 7))
            tier.watch(0.0)
        gc.collect()
        each = tier.subscribers
        assert sum(map(len, (each._listeners, each._tickets, each._told))) < 3000
        store.tell("kept", Entry(b"sealed", 7))
        tier.watch(0.0)
        assert len(kept.heard_of) == 1

    def test_a_listener_that_breaks_down_is_logged_and_the_others_hear(
        self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken, well = Listener(), Listener()
        broken.error = ValueError("a fault of ours")
        tier.subscribers.subscribe("broken", broken, "")
        tier.subscribers.subscribe("broken", well, "")
        tier.subscribers.subscribe("well", well, "")
        store.tell("broken", Entry(floor=7))
        store.tell("well", Entry(floor=8))
        tier.watch(0.0)
        (said,) = lines(caplog)
        assert said.startswith("store_thread_failed")
        assert well.heard_of == [Entry(floor=7), Entry(floor=8)]

    def test_who_breaks_down_telling_the_store_keeps_nobody_from_it(
        self, tier: Tier, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[str] = []

        class Teller:
            def __init__(self, name: str) -> None:
                self.name = name

            def tell(self) -> None:
                told.append(self.name)
                raise ValueError(self.name)

        tellers = [Teller("one"), Teller("other")]
        for teller in tellers:
            tier.remind(teller)
        tier.watch(0.0)
        assert sorted(told) == ["one", "other"]
        assert [said.startswith("store_thread_failed") for said in lines(caplog)] == [True, True]

    @pytest.mark.parametrize(
        ("error", "said"), [(StoreError("not allowed"), "not allowed"), (KeyError("a"), "broke down with KeyError")]
    )
    def test_a_store_without_news_is_looked_at(
        self, store: Store, tier: Tier, caplog: pytest.LogCaptureFixture, error: Exception, said: str
    ) -> None:
        listener = Listener()
        tier.subscribers.subscribe("key", listener, "")
        store.deaf = error
        assert [tier.watch(0.0) for _ in range(3)] == [1.0] * 3
        assert listener.looks == [False] * 3
        assert lines(caplog) == [f"store_deaf: {said}. Other processes' changes are found by looking."]
        assert tier.up
        store.deaf = None
        assert tier.watch(1.0) == 0.0
        assert lines(caplog) == ["store_heard: other processes' changes are heard again"]
        tier.watch(0.0)
        assert lines(caplog) == []
        store.deaf = error
        tier.watch(0.0)
        assert len(lines(caplog)) == 1

    def test_who_could_not_tell_the_store_tells_it_at_the_next_look(self, tier: Tier) -> None:
        class Teller:
            told = 0

            def tell(self) -> None:
                self.told += 1

        teller = Teller()
        tier.remind(teller)
        tier.watch(0.0)
        tier.watch(0.0)
        assert teller.told == 1


class User:
    """Who uses a tier."""


class TestThread:
    @pytest.fixture
    def user(self, store: Store) -> Iterator[tuple[Tier, User]]:
        tier, user = Tier(store, 5.0), User()
        tier.join(user)
        yield tier, user
        tier.part(user)

    def test_it_begins_with_the_first_call_and_ends_with_the_last_user(
        self, user: tuple[Tier, User], store: Store
    ) -> None:
        tier, first = user
        second = User()
        tier.join(second)
        assert tier.call("key", lambda _: "answer") == "answer"
        thread = tier._thread
        assert thread is not None
        assert thread.daemon
        tier.start()
        tier.part(second)
        assert tier._thread is thread
        tier.part(first)
        thread.join(10)
        assert not thread.is_alive()
        # Another one follows it, and listens when it has ended.
        tier.join(first)
        assert tier.call("key", lambda _: "answer") == "answer"

    def test_one_who_is_gone_without_a_word_is_no_user(self, user: tuple[Tier, User]) -> None:
        tier, first = user
        other = User()
        tier.join(other)
        assert tier.call("key", lambda _: "answer") == "answer"
        thread = tier._thread
        assert thread is not None
        del other
        gc.collect()
        tier.part(first)
        thread.join(10)
        assert not thread.is_alive()

    def test_without_users_there_is_none(self, tier: Tier) -> None:
        assert tier.call("key", lambda _: "answer") == "answer"
        assert tier._thread is None

    def test_in_one_process_there_is_none(self, store: Store) -> None:
        tier, user = Tier(store, 5.0, remote=False), User()
        tier.join(user)
        tier.start()
        assert tier._thread is None
        assert tier.up
        tier.after_fork_in_child()
        assert tier.up

    def test_where_none_can_be_had_one_goes_on_without_the_store(
        self, user: tuple[Tier, User], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tier, _ = user
        monkeypatch.setattr(tier_module, "patiently", lambda flag, seconds: None)
        with monkeypatch.context() as none:
            none.setattr(threading.Thread, "start", _no_thread)
            assert tier.call("key", lambda _: "answer") is None
        monkeypatch.undo()
        tier.start()
        assert tier._tried.wait(10)
        assert tier.call("key", lambda _: "answer") == "answer"

    def test_a_child_of_a_fork_tries_the_store_itself(self, tier: Tier) -> None:
        tier.claim("key", NOTHING, tier.lease, "owner")
        tier.after_fork_in_child()
        assert not tier.up
        tier.watch(0.0)
        assert tier.up

    def test_it_looks_at_once(self, tier: Tier) -> None:
        class Closed:
            waits: ClassVar[list[float]] = []

            def wait(self, seconds: float) -> bool:
                self.waits.append(seconds)
                return len(self.waits) == 3

        closed: Any = Closed()
        tier_module._watch(weakref.ref(tier), closed, None)
        assert closed.waits == [0.0] * 3


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class TestTiers:
    def test_a_url_has_one_and_the_memory_of_one_process_has_none(self, tmp_path: Path) -> None:
        url = f"sqlite://{tmp_path}/tokens.sqlite3"
        tier = tier_of(url, 1.0)
        assert tier is not None
        assert tier_of(url, 1.0) is tier
        assert tier_of(url, 2.0) is not tier
        assert tier_of("memory:", 1.0) is None
        tier.before_exit(0.0)

    def test_a_store_of_ones_own_stays_open(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        tier = tier_of(store, 1.0)
        assert tier is not None
        assert tier_of(store, 1.0) is tier
        closed: list[bool] = []
        monkeypatch.setattr(store, "close", lambda: closed.append(True))
        tier.before_exit(0.0)
        assert closed == []

    def test_one_that_a_url_opened_is_closed_at_exit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tier = tier_of(f"sqlite://{tmp_path}/tokens.sqlite3", 1.0)
        assert tier is not None
        closed: list[bool] = []
        monkeypatch.setattr(tier.store, "close", lambda: closed.append(True))
        tier.before_exit(0.0)
        assert closed == [True]

    def test_a_store_goes_with_its_tier_where_a_url_opened_it(
        self, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[object] = []
        monkeypatch.setattr(SqliteStore, "close", lambda store: closed.append(type(store)))
        monkeypatch.setattr(store, "close", lambda: closed.append(store))
        for place in (f"sqlite://{tmp_path}/tokens.sqlite3", store):
            assert tier_of(place, 1.0) is not None
        gc.collect()
        assert closed == [SqliteStore]

    def test_a_connection_has_the_time_of_one(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        limits: list[float] = []
        monkeypatch.setattr(tier_module, "open_store", lambda url, seconds: limits.append(seconds) or store)
        assert tier_of("redis://127.0.0.1:1/0", 0.5) is not None
        assert limits == [10.0]

    def test_without_a_store_it_is_this_process(self, clock: FakeClock) -> None:
        assert local_tier(elapsed) is LOCAL
        assert LOCAL.up
        tier = local_tier(clock)
        assert tier is not LOCAL
        assert tier.up
        entry = tier.claim("key", NOTHING, 60.0, "owner")
        assert entry is not None
        assert entry.now == clock()
