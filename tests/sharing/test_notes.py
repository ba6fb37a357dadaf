"""What a client learned of its authorization server reaches the processes that come after it, and stays long enough."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from conduit_oauth.identity.credentials import Credentials
from conduit_oauth.sharing.notes import LIFETIME, Notes
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import TokenStore
from conduit_oauth.stores.memory import MemoryStore
from tests.conftest import FakeClock

FIRST = ("https://as.example", "https://as.example/token")
SECOND = ("https://evil.example", "https://evil.example/token")
DAY = 86_400.0


class Line(Tier):
    """A process's way to the store, which can be cut."""

    def __init__(self, store: TokenStore) -> None:
        super().__init__(store, 5.0, remote=False)
        self.is_cut = False

    def call(self, key: str, work: Callable[[TokenStore], Any], **how: Any) -> Any:
        return None if self.is_cut else super().call(key, work, **how)


class Store(MemoryStore):
    """A store that counts what was written."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lambda: clock() + 500_000.0)
        self.writes = 0

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        self.writes += 1
        return super().write(key, value, fence, expires, generation)


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


def process(store: Store, secret: str = "Kx7vQ2mZp9RtY4wLs8Ng3B6c") -> tuple[Notes, Line]:
    line = Line(store)
    authentication = SimpleNamespace(credentials=Credentials(secret))
    requester: Any = SimpleNamespace(authentication=authentication, identity=lambda: b"identity")
    return Notes(line, requester), line


def test_the_method_that_worked_is_known_to_those_who_come_later(store: Store) -> None:
    (one, _), (other, _), (stranger, _) = process(store), process(store), process(store, "Another2mZp9RtY4wLs8Ng3B6")
    assert other.recall_method() is None
    one.remember_method("client_secret_post")
    assert other.recall_method() == "client_secret_post"
    assert stranger.recall_method() is None
    # A server may change its mind.
    other.remember_method("client_secret_basic")
    assert one.recall_method() == "client_secret_basic"
    assert store.writes == 2


def test_the_authorization_server_that_was_found_first_stays(store: Store) -> None:
    (one, _), (other, _) = process(store), process(store)
    assert one.pinned(FIRST) == FIRST
    assert other.pinned(SECOND) == FIRST
    assert one.pinned(SECOND) == FIRST
    assert store.writes == 1


def test_it_stays_for_ninety_days_after_the_last_confirmation(store: Store, clock: FakeClock) -> None:
    one, _ = process(store)
    one.pinned(FIRST)
    clock.step(LIFETIME / 2 - 1)
    assert one.pinned(SECOND) == FIRST
    assert store.writes == 1
    # In its second half it is confirmed.
    clock.step(1)
    assert one.pinned(SECOND) == FIRST
    assert store.writes == 2
    clock.step(LIFETIME - 1)
    assert one.pinned(SECOND) == FIRST
    clock.step(90 * DAY)
    assert one.pinned(SECOND) == SECOND


def test_where_the_store_does_not_answer_a_process_goes_by_what_it_found(store: Store) -> None:
    one, line = process(store)
    one.remember_method("client_secret_post")
    one.pinned(FIRST)
    one._tier.pepper()
    line.is_cut = True
    assert one.recall_method() is None
    one.remember_method("client_secret_basic")
    assert one.pinned(SECOND) == SECOND
    line.is_cut = False
    assert one.recall_method() == "client_secret_post"
    assert one.pinned(SECOND) == FIRST


def test_where_the_key_of_the_store_cannot_be_had_nothing_is_kept(store: Store) -> None:
    one, line = process(store)
    line.is_cut = True
    assert one.recall_method() is None
    one.remember_method("client_secret_post")
    assert one.pinned(FIRST) == FIRST
    line.is_cut = False
    assert store.writes == 0
