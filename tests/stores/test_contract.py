"""What every store promises, whatever it is made of."""

from __future__ import annotations

import threading

import pytest
import redis.asyncio

from conduit_oauth import ConfigurationError
from conduit_oauth.stores import News, TokenStore
from conduit_oauth.stores.redis import RedisStore
from tests.redis_server import RedisServer

Pair = tuple[TokenStore, TokenStore]


def test_one_of_two_gets_the_lease_and_the_other_its_answer(stores: Pair) -> None:
    one, other = stores
    lease = one.claim("k", 0, 5.0).lease
    assert lease > 0
    assert other.claim("k", 0, 5.0).lease == 0
    assert one.write("k", b"token", lease, 60.0)
    entry = other.claim("k", 0, 5.0)
    assert (entry.value, entry.fence, entry.lease) == (b"token", lease, 0)
    assert 59.0 < entry.remaining <= 60.0


def test_a_value_that_is_known_already_is_no_news_but_a_lease(stores: Pair) -> None:
    one, other = stores
    lease = one.claim("k", 0, 5.0).lease
    one.write("k", b"token", lease, 60.0)
    again = other.claim("k", lease, 5.0)
    assert again.value is None
    assert again.lease > lease


def test_looking_takes_no_lease(stores: Pair) -> None:
    one, other = stores
    assert one.claim("k", 0, 0.0).lease == 0
    assert other.claim("k", 0, 5.0).lease > 0


def test_a_lease_ends_by_itself_and_its_holder_cannot_overwrite_a_newer_token(stores: Pair) -> None:
    one, other = stores
    paused = one.claim("k", 0, 0.02).lease
    newer = 0
    while not newer:  # the lease of the one that was paused ends
        newer = other.claim("k", 0, 5.0).lease
    assert newer > paused
    assert other.write("k", b"new", newer, 60.0)
    assert not one.write("k", b"old", paused, 60.0)
    assert one.claim("k", 0, 0.0).value == b"new"


def test_a_lease_that_is_renewed_lasts_and_one_that_is_released_is_free(stores: Pair) -> None:
    one, other = stores
    lease = one.claim("k", 0, 0.5).lease
    one.renew("k", lease, 60.0)
    one.renew("k", lease + 1, 0.0)
    assert other.claim("k", 0, 5.0).lease == 0
    other.release("k", lease + 1)
    assert other.claim("k", 0, 5.0).lease == 0
    one.release("k", lease)
    assert other.claim("k", 0, 5.0).lease > lease


def test_a_value_ends_with_its_time(stores: Pair) -> None:
    one, other = stores
    one.write("k", b"token", one.claim("k", 0, 5.0).lease, 0.01)
    while (entry := other.claim("k", 0, 0.0)).value is not None:
        assert entry.remaining <= 0.01
    assert other.claim("k", 0, 5.0).lease > 0


def test_what_is_forgotten_is_void_and_what_is_newer_is_not(stores: Pair) -> None:
    one, other = stores
    old = one.claim("k", 0, 5.0).lease
    one.write("k", b"old", old, 60.0)
    new = one.claim("k", old, 5.0).lease
    assert other.forget("k", old) == old
    assert other.claim("k", 0, 0.0).value is None
    # It was asked for before, but it is another token than the one that was refused.
    assert one.write("k", b"new", new, 60.0)
    assert other.forget("k", old) == old
    entry = other.claim("k", 0, 0.0)
    assert (entry.value, entry.floor) == (b"new", old)


def test_forgetting_all_voids_what_is_being_asked_for(stores: Pair) -> None:
    one, other = stores
    lease = one.claim("k", 0, 5.0).lease
    floor = other.forget("k", None)
    assert floor > lease
    assert not one.write("k", b"too late", lease, 60.0)
    one.release("k", lease)
    assert one.claim("k", 0, 5.0).lease > floor


def test_keys_are_apart(stores: Pair) -> None:
    one, other = stores
    one.write("a", b"a", one.claim("a", 0, 5.0).lease, 60.0)
    assert other.claim("b", 0, 5.0).lease > 0
    assert other.claim("a", 0, 5.0).value == b"a"


def test_of_many_that_ask_at_once_one_gets_the_lease(stores: Pair) -> None:
    leases: list[int] = []
    start = threading.Barrier(16)

    def ask(store: TokenStore) -> None:
        start.wait()
        leases.append(store.claim("k", 0, 5.0).lease)

    threads = [threading.Thread(target=ask, args=(stores[number % 2],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in leases if lease]) == 1


def test_others_hear_of_what_was_written_and_forgotten(stores: Pair) -> None:
    one, other = stores
    while other.listen(0.05):  # subscribed, and nothing is left to hear
        pass
    lease = one.claim("k", 0, 5.0).lease
    one.write("k", b"token", lease, 60.0)
    (written,) = {entry for key, entry in _heard(other) if key == "k"}
    if written.value is not None:
        # The news may bring what was written along; then it says the same as a look would.
        found = one.claim("k", 0, 0.0)
        assert (written.value, written.fence, written.floor) == (found.value, found.fence, found.floor)
        assert 59 < written.remaining <= 60
    one.forget("k", lease)
    assert ("k", lease) in [(key, entry.floor) for key, entry in _heard(other)]


def _heard(store: TokenStore) -> list[News]:
    for _ in range(200):
        if news := store.listen(0.05):
            return list(news)
    raise AssertionError("nothing was heard")


def test_a_client_for_asyncio_is_refused_with_the_reason(redis_server: RedisServer) -> None:
    for client in (
        redis.asyncio.Redis.from_url(redis_server.url),
        redis.asyncio.RedisCluster.from_url(redis_server.url),
    ):
        with pytest.raises(ConfigurationError, match="asyncio"):
            RedisStore(client)  # type: ignore[arg-type]
