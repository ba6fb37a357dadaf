"""Stores as operations have them: far away, stalled, dripping, half-open, with narrow rights, in pieces."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError
from conduit_oauth.sharing.share import Share
from conduit_oauth.stores import Entry, Known, StoreError, open_store
from conduit_oauth.stores.memory import MemoryStore
from conduit_oauth.testing import AuthorizationServer
from conduit_oauth.token import AccessToken
from tests.conftest import FakeClock, MakeProvider, Said
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.stores.conftest import settle
from tests.stores.line import Line, until


@pytest.fixture
def line(redis_server: RedisServer) -> Iterator[Line]:
    redis_server.client.flushall()
    with Line(redis_server.port) as line:
        yield line


def beside(url: str) -> str:
    """The same store by another connection, as another process has it."""
    return f"{url}?client_name=p{time.monotonic_ns()}"


def test_a_redis_that_is_far_away_is_used(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, line: Line, said: Said
) -> None:
    line.delay = 0.02
    first = make_provider(store=line.url)
    token = first.get_token()
    settle(first)
    others = [make_provider(store=beside(line.url)) for _ in range(4)]
    for other in others:
        begun = time.monotonic()
        assert other.get_token() == token
        assert time.monotonic() - begun < 1.0
    assert len(authorization_server.token_requests) == 1
    assert said.count("store_down") == 0


def test_one_stall_costs_the_next_callers_of_others_nothing(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, line: Line, said: Said
) -> None:
    first, second = make_provider(store=line.url), make_provider(store=beside(line.url))
    for provider in (first, second):
        until(lambda provider=provider: provider.control.share.tier.up)
    line.frozen = True
    thread = threading.Thread(target=first.get_token)
    thread.start()
    # It goes on without the store, and its claim is on the way still.
    authorization_server.wait_for_token_requests(1)
    line.frozen = False
    thread.join()
    begun = time.monotonic()
    assert second.get_token()
    assert time.monotonic() - begun < 1.0
    assert said.count("store_down") == 0


def test_an_answer_that_drips_holds_nobody(make_provider: MakeProvider, line: Line) -> None:
    provider = make_provider(store=line.url)
    until(lambda: provider.control.share is not None and provider.control.share.tier.up)
    line.drip = 0.3
    begun = time.monotonic()
    assert provider.get_token()
    assert time.monotonic() - begun < 2.0


def test_news_that_drip_are_a_break_of_hearing(redis_server: RedisServer, line: Line) -> None:
    store = open_store(line.url, 0.5)
    assert store is not None
    with contextlib.closing(store):
        store.listen(0.1)
        line.drip = 0.02
        redis_server.client.publish("conduit-oauth:news", "x" * 2000)
        begun = time.monotonic()

        def hear() -> None:
            while True:
                store.listen(1.0)

        with pytest.raises(StoreError):
            hear()
        # Of the 40 s that all of it takes.
        assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_a_value_without_end_takes_no_memory(
    make_provider: MakeProvider, redis_server: RedisServer, tmp_path: Path, kind: str
) -> None:
    redis_server.client.flushall()
    file = tmp_path / "tokens.sqlite3"
    provider = make_provider(store=redis_server.url if kind == "redis" else f"sqlite:///{file}", store_timeout=2.0)
    before = provider.get_token()
    settle(provider)
    share = provider.control.share
    assert share is not None
    # It would put its token there again.
    provider.close()
    if kind == "redis":
        key = f"conduit-oauth:{{{share._key}}}"
        until(lambda: redis_server.client.hexists(key, "v"))
        redis_server.client.hset(key, "v", bytes(64 << 20))
    else:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            until(lambda: other.execute("UPDATE entries_2 SET value = zeroblob(67108864) WHERE value > ''").rowcount)
    tracemalloc.start()
    try:
        late = make_provider(store=beside(redis_server.url) if kind == "redis" else f"sqlite://{file}")
        assert late.get_token() != before
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_a_key_that_is_of_another_type_goes_without_and_heals(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer, said: Said
) -> None:
    redis_server.client.flushall()
    provider = make_provider(store=redis_server.url)
    other = make_provider(store=redis_server.url, scope="mcp:read")
    for each in (provider, other):
        each.get_token()
        settle(each)
    ours, theirs = (each.control.share._key for each in (provider, other))  # pyright: ignore
    redis_server.client.set(f"conduit-oauth:{{{ours}}}", "not a hash")
    for _ in range(3):
        provider.invalidate()
        assert provider.get_token()
    before = len(authorization_server.token_requests)
    for _ in range(3):
        late = make_provider(store=beside(redis_server.url), scope="mcp:read")
        assert late.get_token() == other.get_token()
    assert len(authorization_server.token_requests) == before
    assert theirs != ours
    assert said.count("store_down") == 0
    redis_server.client.delete(f"conduit-oauth:{{{ours}}}")
    until(lambda: provider.invalidate() or (provider.get_token() and not settle(provider) and is_shared(redis_server)))


def is_shared(server: RedisServer) -> bool:
    return len([key for key in server.client.keys("conduit-oauth:*") if server.client.hexists(key, "v")]) == 2


def test_a_cluster_that_is_down_as_the_provider_is_made_is_a_store_that_is_down(
    make_provider: MakeProvider, said: Said
) -> None:
    seeds = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    provider = make_provider(store=f"redis+cluster://{seeds}")
    assert provider.get_token()
    said.wait_for("store_down")


def test_a_cluster_is_found_by_the_second_of_its_seeds(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, tmp_path: Path
) -> None:
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf") as server:
        server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
        url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{server.port}"
        first = make_provider(store=url)
        token = first.get_token()
        settle(first)
        assert make_provider(store=url + "/0?socket_keepalive=no").get_token() == token
        assert len(authorization_server.token_requests) == 1


def test_a_user_without_hello_shares(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    rights = ["allkeys", "allchannels", "allcommands", "-hello", "-client"]
    redis_server.client.acl_setuser("plain", enabled=True, passwords=["+word"], commands=None, reset=True)
    redis_server.client.execute_command("ACL", "SETUSER", "plain", *rights)
    url = redis_server.url.replace("redis://", "redis://plain:word@")
    first = make_provider(store=url)
    token = first.get_token()
    settle(first)
    assert make_provider(store=url + "?socket_keepalive=no").get_token() == token
    assert len(authorization_server.token_requests) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://127.0.0.1:1/0?sockt_timeout=1", "no URL that redis-py takes"),
        ("redis+ring://127.0.0.1:1", "+ring is unknown"),
        ("redis://127.0.0.1:1,127.0.0.1:2/0", "several servers"),
        ("redis://127.0.0.1:1/0?sentinel_user=a", "no Sentinel"),
        ("redis+sentinel://127.0.0.1:1/mymaster?nonsense=1", "no URL that redis-py takes"),
        ("redis+cluster://127.0.0.1:1?nonsense=1", "no URL that redis-py takes"),
        ("redis://127.0.0.1:x/0", "no URL that redis-py takes"),
        ("redis://127.0.0.1:1/0?decode_responses=true", "has decode_responses"),
        ("redis+cluster://127.0.0.1:1?encoding=latin-1", "has encoding"),
    ],
)
def test_what_a_url_says_that_nobody_understands_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace("+", r"\+")):
        open_store(url, 1.0)


def test_a_listener_that_breaks_down_and_news_of_another_format_leave_the_others_theirs(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer, said: Said
) -> None:
    redis_server.client.flushall()
    provider, other = (
        make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, beside(redis_server.url))
    )
    token = provider.get_token()
    settle(provider)
    assert other.get_token() == token

    class Broken:
        def heard(self, entry: Entry) -> None:
            raise LookupError("a fault of ours")

        def resync(self, *, distrust: bool = False) -> None: ...

    tier, broken = other.control.share.tier, Broken()  # pyright: ignore
    tier.subscribers.subscribe("another", broken, "")
    for told in (
        "",
        "conduit-oauth:{another} generation 1 2 -",
        "conduit-oauth:{",
        "\x00\xff",
        "conduit-oauth:{a} x y z",
        f"conduit-oauth:{{another}} generation 1 {'9' * 400} -",
        f"conduit-oauth:{{another}} generation 1 2 - 3 {'9' * 400} token",
    ):
        redis_server.client.publish("conduit-oauth:news", told)
    said.wait_for("store_thread_failed")
    provider.invalidate(token)
    until(lambda: not other.state().cached)
    assert tier.up
    assert said.count("store_deaf") == 0


def test_thirty_processes_that_begin_at_once_over_a_slow_handshake_make_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, line: Line, said: Said
) -> None:
    line.delay = 0.05
    authorization_server.set(latency=0.3)
    # Of the time limit, a connection has twenty times as much: its handshakes alone take more than one.
    providers = [make_provider(store=beside(line.url), store_timeout=0.2) for _ in range(10)]
    tokens: set[str] = set()
    threads = [threading.Thread(target=lambda each=each: tokens.add(each.get_token())) for each in providers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == len(authorization_server.token_requests) == 1, said.lines
    assert said.count("store_down") == 0


def test_what_is_invalidated_while_the_others_do_not_hear_is_gone_when_they_hear_again(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, line: Line, redis_server: RedisServer
) -> None:
    first, other = (make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, line.url))
    token = first.get_token()
    settle(first)
    assert other.get_token() == token
    until(lambda: other.control.share is not None and other.control.share.tier.up)
    line.frozen = True
    first.invalidate(token)
    first.control.settle(None)
    line.cut()
    line.frozen = False
    assert until(lambda: not other.state().cached) < 3.0


def test_what_is_invalidated_is_told_again_to_a_store_that_lost_it(
    make_provider: MakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/tokens.sqlite3"
    first, other = (make_provider(store=url, store_timeout=limit) for limit in (2.0, 3.0))
    token = first.get_token()
    settle(first)
    assert other.get_token() == token
    is_deaf = threading.Event()
    with monkeypatch.context() as deaf:
        deaf.setattr(other.control.share.tier.store, "listen", lambda seconds: is_deaf.set() or [])  # pyright: ignore
        is_deaf.wait()
        first.invalidate(token)
        first.control.settle(None)
        for file in tmp_path.glob("tokens.sqlite3*"):
            file.unlink()
    assert until(lambda: not other.state().cached) < 3.0


def test_a_dead_leader_is_replaced_soon_in_a_process_with_many_clients(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    provider = make_provider(store=redis_server.url)
    provider.get_token()
    settle(provider)
    share = provider.control.share
    assert share is not None
    for number in range(1000):
        # Of clients that looked once, and found what they wanted.
        share.tier.subscribers.ticket(f"another-{number}")
    provider.invalidate()
    provider.control.settle(None)
    # A process that took the lease and died.
    store = open_store(redis_server.url, 5.0)
    assert store is not None
    assert store.claim(share._key, Known(), 3.0, "dead").lease
    begun = time.monotonic()
    assert provider.get_token()
    store.close()
    assert time.monotonic() - begun < 5.5


class Queue(list[Any]):
    """Gives the oldest, where redis-py takes the latest."""

    def pop(self, index: Any = 0) -> Any:
        return super().pop(0)


# The look at the clocks takes a forgotten connection, too, and each of those costs a time limit: without one, and with
# one in each round.
@pytest.mark.parametrize(("between_looks", "within"), [(3600.0, 5.0), (0.0, 20.0)])
def test_a_subscription_that_is_half_open_is_noticed(
    between_looks: float,
    within: float,
    authorization_server: AuthorizationServer,
    make_provider: MakeProvider,
    line: Line,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("conduit_oauth.stores.redis.SILENCE", 1.0)
    monkeypatch.setattr("conduit_oauth.sharing.upkeep.PING", between_looks)
    first, other = (make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, line.url))

    def shared() -> str:
        token = first.get_token()
        settle(first)
        assert other.get_token() == token
        settle(other)
        return token

    def void(token: str) -> float:
        first.invalidate(token)
        first.control.settle(None)
        return until(lambda: not other.state().cached)

    # From then on it hears the news, and its first look after that is done.
    void(shared())
    token = shared()
    # Idle connections of operations that ran at once are forgotten, too, and any of them may be the next to be used.
    assert other.control.share is not None
    store: Any = other.control.share.tier.store
    pool = store._client.connection_pool
    for connection in [pool.get_connection() for _ in range(4)]:
        pool.release(connection)
    pool._available_connections = Queue(pool._available_connections)
    line.forget()
    assert void(token) < within


def test_who_may_not_publish_says_so_once_and_finds_what_is_void_by_looking(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer, said: Said
) -> None:
    redis_server.client.flushall()
    rights = ["on", ">word", "allkeys", "allchannels", "allcommands", "-publish"]
    redis_server.client.execute_command("ACL", "SETUSER", "mute", "reset", *rights)
    url = redis_server.url.replace("redis://", "redis://mute:word@")
    first, other = make_provider(store=url, store_timeout=2.0), make_provider(store=beside(url), store_timeout=2.0)
    token = first.get_token()
    settle(first)
    assert other.get_token() == token
    said.wait_for("store_deaf")
    first.invalidate(token)
    first.control.settle(None)
    assert until(lambda: not other.state().cached) < 3.0
    assert said.count("store_deaf") == 2  # one of each
    assert said.count("store_down") == 0


def test_an_empty_store_whose_clock_is_behind_costs_no_storm(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    """A restore, or another host: fences and floors of before say nothing of the new generation."""
    behind = 0.0
    store = MemoryStore(lambda: clock() - behind)
    fleet = [make_provider(store=store, store_timeout=5.0, clock=clock) for _ in range(4)]
    token = fleet[0].get_token()
    settle(fleet[0])
    fleet[0].invalidate()
    fleet[0].control.settle(None)
    store.close()
    behind = 600.0
    tokens = set()
    for provider in fleet:
        tokens.add(provider.get_token())
        settle(provider)
    assert token not in tokens
    assert len(tokens) == 1
    assert len(authorization_server.token_requests) == 2


def test_a_token_of_a_store_whose_clock_went_back_is_not_served_past_its_end(
    make_provider: MakeProvider, clock: FakeClock, said: Said
) -> None:
    behind = 0.0
    store = MemoryStore(lambda: clock() - behind)
    first = make_provider(store=store, store_timeout=5.0, clock=clock)
    token = first.get_token()
    settle(first)
    share = first.control.share
    assert share is not None
    share.tier._compare_clocks()
    behind = 600.0
    share.tier._compare_clocks()
    late = make_provider(store=store, store_timeout=5.0, clock=clock)
    assert late.get_token() == token
    assert abs(late.control.life.token.expires_at - first.control.life.token.expires_at) < 1.0


def test_news_that_somebody_made_up_cause_no_storm(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    provider = make_provider(store=redis_server.url)
    provider.get_token()
    settle(provider)
    share = provider.control.share
    assert share is not None
    before = len(authorization_server.token_requests)
    told = f"conduit-oauth:{{{share._key}}} {share._known.generation} {1 << 60} 0 -"
    redis_server.client.publish("conduit-oauth:news", told)
    near = f"conduit-oauth:{{{share._key}}} {share._known.generation} {share._known.last + 30_000} 0 -"
    redis_server.client.publish("conduit-oauth:news", near)
    until(lambda: not provider.state().cached)
    for _ in range(5):
        assert provider.get_token()
    # A look at the row says that the token is still good.
    assert len(authorization_server.token_requests) == before


def test_who_waits_believes_no_news_that_somebody_made_up(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    first, other = (make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, beside(redis_server.url)))
    authorization_server.hold()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(first.get_token)
        authorization_server.wait_for_token_requests(1)
        waits = pool.submit(other.get_token)
        share = other.control.share
        assert share is not None
        until(lambda: share._waiting)
        key, generation, far = share._key, share._known.generation, share._known.last + 50_000
        redis_server.client.publish(
            "conduit-oauth:news", f"conduit-oauth:{{{key}}} {generation} 0 {far} - {far} {far + 9_000_000} a-token"
        )
        # It has been heard when this has.
        redis_server.client.publish("conduit-oauth:news", f"conduit-oauth:{{{key}}} {generation} {far} 0 -")
        until(lambda: share._doubt[0] == far)
        authorization_server.release()
        assert asked.result(30) == waits.result(30)
    assert len(authorization_server.token_requests) == 1


def test_a_token_is_stored_though_somebody_made_up_news_as_it_landed(
    authorization_server: AuthorizationServer,
    make_provider: MakeProvider,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis_server.client.flushall()
    first, other = (make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, beside(redis_server.url)))
    publish = Share.publish

    def hear_and_publish(share: Share, token: AccessToken) -> None:
        known = share._known
        share.hear(Entry(floor=known.last + 50_000, generation=known.generation))
        publish(share, token)

    monkeypatch.setattr(Share, "publish", hear_and_publish)
    token = first.get_token()
    settle(first)
    assert other.get_token() == token
    assert len(authorization_server.token_requests) == 1


@pytest.mark.parametrize(
    "forged",
    [
        *({"f": number} for number in ("inf", "-inf", "nan", "1e300")),
        *({"l": 1, "w": "x", "u": number} for number in ("inf", "nan", "9e18")),
        {"l": "nan", "u": "9e18"},
        *({name: number} for name in ("x", "n", "o", "s") for number in ("inf", "-inf", "nan")),
        {"d": "a:" + "9" * 300},
    ],
    ids=str,
)
def test_numbers_of_a_record_that_somebody_made_up_keep_nobody_from_a_token(
    forged: dict[str, str],
    authorization_server: AuthorizationServer,
    make_provider: MakeProvider,
    redis_server: RedisServer,
) -> None:
    redis_server.client.flushall()
    first, other = (
        make_provider(store=url, store_timeout=2.0, timeout=10.0)
        for url in (redis_server.url, beside(redis_server.url))
    )
    first.get_token()
    settle(first)
    assert first.control.share is not None
    key = f"conduit-oauth:{{{first.control.share._key}}}"
    # With a lease, what is stored has ended.
    redis_server.client.hset(key, mapping=({"x": 1} if "u" in forged else {}) | forged)
    assert other.get_token()
    assert len(authorization_server.token_requests) <= 2


def test_an_old_record_that_is_put_back_is_worthless(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    first, other = (make_provider(store=url, store_timeout=2.0) for url in (redis_server.url, beside(redis_server.url)))
    void = first.get_token()
    settle(first)
    assert other.get_token() == void
    (key,) = [key for key in redis_server.client.keys("conduit-oauth:*") if redis_server.client.hexists(key, "v")]
    old = redis_server.client.hgetall(key)
    first.invalidate(void)
    first.control.settle(None)
    until(lambda: not other.state().cached)
    redis_server.client.delete(key)
    redis_server.client.hset(key, mapping=old)
    assert first.get_token() != void
    assert other.get_token() != void
    # Nor with other facts.
    for name, value in (("x", 9_999_999_999_999), ("f", int(old[b"f"]) + 1), ("g", "another")):
        redis_server.client.delete(key)
        redis_server.client.hset(key, mapping={**old, name.encode(): value, b"n": int(old[b"n"]) + 1})
        assert make_provider(store=beside(redis_server.url)).get_token() != void


def test_the_rights_that_the_page_names_are_enough(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer, said: Said
) -> None:
    redis_server.client.flushall()
    page = (Path(__file__).parents[2] / "docs/explanation/fleet.md").read_text()
    (rights,) = re.findall(r"^`(~conduit-oauth.*)`$", page, re.MULTILINE)
    redis_server.client.acl_log_reset()
    redis_server.client.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">word", *rights.split())
    url = redis_server.url.replace("redis://", "redis://narrow:word@")
    first, other = (
        make_provider(store=url, store_timeout=2.0),
        make_provider(store=url + "?socket_keepalive=no", store_timeout=2.0),
    )
    token = first.get_token()
    settle(first)
    assert other.get_token() == token
    first.invalidate(token)
    until(lambda: not other.state().cached)
    tier = first.control.share.tier  # pyright: ignore
    tier._compare_clocks()
    assert said.count("store_") == 0, said.lines
    assert redis_server.client.acl_log() == []
