"""What every store promises, whatever it is made of."""

from __future__ import annotations

import threading
import time

import pytest
import redis.asyncio

from conduit_oauth import ConfigurationError
from conduit_oauth.stores import NOTHING, Entry, Known, News, StoreError, TokenStore
from conduit_oauth.stores.redis import RedisStore
from conduit_oauth.stores.row import MOST_VOID
from tests.redis_server import RedisServer

Pair = tuple[TokenStore, TokenStore]


def write(store: TokenStore, value: bytes, lease: Entry, seconds: float = 60.0) -> bool:
    return store.write("k", value, lease.lease, lease.now + seconds, lease.generation)


def known(entry: Entry) -> Known:
    """What a process knows that saw `entry`."""
    return Known(entry.generation, entry.lease or entry.fence, entry.last, entry.now)


def test_one_of_two_gets_the_lease_and_the_other_its_answer(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    assert granted.lease > 0
    assert other.claim("k", NOTHING, 5.0, "other").lease == 0
    assert write(one, b"token", granted)
    entry = other.claim("k", NOTHING, 5.0, "other")
    assert (entry.value, entry.fence, entry.lease) == (b"token", granted.lease, 0)
    assert entry.generation == granted.generation
    assert 59.0 < entry.remaining <= 60.0


def test_a_value_ends_when_it_was_said_to_however_late_it_is_written(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    begun = time.monotonic()
    while time.monotonic() - begun < 0.05:
        pass
    write(one, b"token", granted, 60.0)
    assert other.claim("k", NOTHING, 0.0).remaining < 59.96


def test_a_value_that_is_known_already_is_no_news_but_a_lease(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"token", granted)
    again = other.claim("k", known(granted), 5.0, "other")
    assert again.value is None
    assert again.lease > granted.lease


def test_looking_takes_no_lease(stores: Pair) -> None:
    one, other = stores
    assert one.claim("k", NOTHING, 0.0).lease == 0
    assert other.claim("k", NOTHING, 5.0, "other").lease > 0


def test_who_asks_again_by_the_same_name_has_the_same_lease(stores: Pair) -> None:
    """Its first answer got lost."""
    one, other = stores
    lease = one.claim("k", NOTHING, 5.0, "one").lease
    assert other.claim("k", NOTHING, 5.0, "one").lease == lease


def test_a_lease_ends_by_itself_and_its_holder_cannot_overwrite_a_newer_token(stores: Pair) -> None:
    one, other = stores
    paused = one.claim("k", NOTHING, 0.02, "one")
    while not (newer := other.claim("k", NOTHING, 5.0, "other")).lease:  # the lease of the one that was paused ends
        pass
    assert newer.lease > paused.lease
    assert write(other, b"new", newer)
    assert not write(one, b"old", paused)
    assert one.claim("k", NOTHING, 0.0).value == b"new"


def test_a_lease_that_is_renewed_lasts_and_one_that_is_released_is_free(stores: Pair) -> None:
    one, other = stores
    lease = one.claim("k", NOTHING, 0.5, "one").lease
    one.renew("k", "one", 60.0)
    one.renew("k", "other", 0.0)
    assert other.claim("k", NOTHING, 5.0, "other").lease == 0
    other.release("k", "other")
    assert other.claim("k", NOTHING, 5.0, "other").lease == 0
    one.release("k", "one")
    assert other.claim("k", NOTHING, 5.0, "other").lease > lease


def test_a_lease_that_ends_later_than_anybody_asks_for_keeps_nobody_from_it(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"token", granted)
    assert one.claim("k", known(granted), 1e6, "one").lease > granted.lease
    assert other.claim("k", known(granted), 5.0, "other").lease > granted.lease
    # And it costs nobody what is stored.
    assert other.claim("k", NOTHING, 0.0).value == b"token"


def test_a_value_ends_with_its_time(stores: Pair) -> None:
    one, other = stores
    write(one, b"token", one.claim("k", NOTHING, 5.0, "one"), 0.01)
    while (entry := other.claim("k", NOTHING, 0.0)).value is not None:
        # Redis's clock is read in milliseconds.
        assert entry.remaining < 0.011
    assert other.claim("k", NOTHING, 5.0, "other").lease > 0


def test_what_is_forgotten_is_void_and_what_is_newer_is_not(stores: Pair) -> None:
    one, other = stores
    old = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"old", old)
    new = one.claim("k", known(old), 5.0, "one")
    assert other.forget("k", old.lease, old.generation, {}).floor == old.lease
    assert other.claim("k", NOTHING, 0.0).value is None
    # It was asked for before, but it is another token than the one that was refused.
    assert write(one, b"new", new)
    assert other.forget("k", old.lease, old.generation, {}).floor == old.lease
    entry = other.claim("k", NOTHING, 0.0)
    assert (entry.value, entry.floor) == (b"new", old.lease)


def test_forgetting_all_voids_what_is_being_asked_for(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    floor = other.forget("k", None, granted.generation, {}).floor
    assert floor > granted.lease
    assert not write(one, b"too late", granted)
    one.release("k", "one")
    assert one.claim("k", NOTHING, 5.0, "one").lease > floor


def test_a_floor_of_another_generation_and_one_that_nobody_reached_void_nothing(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"token", granted)
    assert other.forget("k", granted.lease + 1_000_000, "another", {}).floor == 0
    assert other.claim("k", NOTHING, 0.0).value == b"token"
    assert other.forget("k", 1 << 60, granted.generation, {}).floor == granted.lease


def test_a_value_whose_number_nobody_handed_out_is_none(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    one.write("k", b"token", granted.lease + 1_000_000, granted.now + 60.0, granted.generation)
    assert other.claim("k", NOTHING, 0.0).value is None
    assert other.claim("k", NOTHING, 5.0, "other").lease > 0


def test_digests_of_what_was_invalidated_are_told_until_their_end(stores: Pair) -> None:
    one, other = stores
    one.forget("k", 0, "", {"aa11": 60.0, "bb22": 0.03})
    assert other.claim("k", NOTHING, 5.0, "other").void >= {"aa11"}
    while "bb22" in other.claim("k", NOTHING, 0.0).void:
        pass
    other.release("k", "other")
    assert one.claim("k", NOTHING, 5.0, "one").void == {"aa11"}


def test_of_the_digests_the_latest_are_kept(stores: Pair) -> None:
    one, other = stores
    for number in range(0, 100, 10):
        one.forget("k", 0, "", {f"{each:04x}": 60.0 for each in range(number, number + 10)})
    kept = other.claim("k", NOTHING, 0.0).void
    assert kept == {f"{each:04x}" for each in range(100 - MOST_VOID, 100)}


@pytest.mark.parametrize("lost", ["a later fence", "a later time"])
def test_a_store_that_knows_less_than_its_caller_begins_a_generation(stores: Pair, lost: str) -> None:
    """It lost data, or its clock went back: what it has is not offered, and a lease of before writes nothing."""
    one, other = stores
    granted = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"token", granted)
    before = known(granted)
    knows = before._replace(fence=0)
    knows = (
        knows._replace(last=granted.lease + 5000) if lost == "a later fence" else knows._replace(seen=granted.now + 9)
    )
    blank = other.claim("k", knows, 0.0)
    assert (blank.value, blank.generation) == (None, "")
    held = one.claim("k", before, 5.0, "one")
    anew = other.claim("k", knows, 5.0, "other")
    assert anew.lease
    assert anew.generation not in ("", granted.generation)
    assert not write(one, b"of before", held)
    # Who knew the generation before goes on with the new one.
    assert one.claim("k", before, 0.0).generation == anew.generation
    assert write(other, b"new", anew)
    assert one.claim("k", before, 0.0).value == b"new"


def test_keys_are_apart(stores: Pair) -> None:
    one, other = stores
    granted = one.claim("a", NOTHING, 5.0, "one")
    one.write("a", b"a", granted.lease, granted.now + 60, granted.generation)
    assert other.claim("b", NOTHING, 5.0, "other").lease > 0
    assert other.claim("a", NOTHING, 5.0, "other").value == b"a"


def test_of_many_that_ask_at_once_one_gets_the_lease(stores: Pair) -> None:
    leases: list[int] = []
    start = threading.Barrier(16)

    def ask(number: int) -> None:
        start.wait()
        leases.append(stores[number % 2].claim("k", NOTHING, 5.0, str(number)).lease)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in leases if lease]) == 1


def test_the_clocks_of_a_store_go_on(stores: Pair) -> None:
    one, other = stores
    first, second = one.clocks(), other.clocks()
    assert first.keys() == second.keys()
    assert all(0 <= second[name] - first[name] < 5 for name in first)


def test_others_hear_of_what_was_written_and_forgotten(stores: Pair) -> None:
    one, other = stores
    while other.listen(0.05):  # subscribed, and nothing is left to hear
        pass
    granted = one.claim("k", NOTHING, 5.0, "one")
    write(one, b"token", granted)
    written = [entry for key, entry in _heard(other) if key == "k"][-1]
    assert written.generation == granted.generation
    if written.value is not None:
        # The news may bring what was written along; then it says the same as a look would.
        found = one.claim("k", NOTHING, 0.0)
        assert (written.value, written.fence, written.expires) == (found.value, found.fence, found.expires)
        assert 59 < written.remaining <= 60
    one.forget("k", granted.lease, granted.generation, {"aa11": 60.0})
    told = [entry for key, entry in _heard(other) if key == "k"][-1]
    assert (told.floor, told.void) == (granted.lease, {"aa11"})


def _heard(store: TokenStore) -> list[News]:
    for _ in range(200):
        if news := store.listen(0.05):
            return list(news)
    raise AssertionError("nothing was heard")


def test_a_client_that_would_change_what_is_stored_is_refused(redis_server: RedisServer) -> None:
    with (
        redis.Redis(port=redis_server.port, decode_responses=True) as decoding,
        redis.Redis(port=redis_server.port, encoding="utf-16") as encoding,
    ):
        for client in (decoding, encoding):
            with pytest.raises(ConfigurationError, match="decode_responses"):
                RedisStore(client)
            store = RedisStore(lambda client=client: client)
            with pytest.raises(StoreError, match="decode_responses"):
                store.clocks()


def test_a_client_for_asyncio_is_refused_with_the_reason(redis_server: RedisServer) -> None:
    for client in (
        redis.asyncio.Redis.from_url(redis_server.url),
        redis.asyncio.RedisCluster.from_url(redis_server.url),
    ):
        with pytest.raises(ConfigurationError, match="asyncio"):
            RedisStore(client)  # type: ignore[arg-type]
