"""What two processes share and what not: two providers in one process, each with its own connection to the store."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from joserfc.jwk import ECKey

from conduit_oauth import ConfigurationError, DiscoveryError, TokenProvider, TokenRequestError
from conduit_oauth.sharing.gate import Busy
from conduit_oauth.stores import NOTHING, Entry, Known, News
from conduit_oauth.stores.memory import MemoryStore
from conduit_oauth.stores.redis import RedisStore
from conduit_oauth.testing import AuthorizationServer
from conduit_oauth.token import NO_TOKEN, AccessToken
from tests.conftest import FakeClock, MakeProvider
from tests.redis_server import RedisServer
from tests.stores.conftest import Open, close_stores, settle

Peer = Callable[..., TokenProvider]


@pytest.fixture
def peer(make_provider: MakeProvider, opened: Open) -> Peer:
    """A provider as another process of the fleet has it."""

    def make(**settings: Any) -> TokenProvider:
        return make_provider(store=opened(), store_timeout=5.0, **settings)

    return make


def test_the_second_process_asks_nobody_and_knows_all(authorization_server: AuthorizationServer, peer: Peer) -> None:
    one, other = peer(scope="mcp:write mcp:read"), peer(scope="mcp:read mcp:write")
    token = one.get_token()
    assert other.get_token() == token
    ours, theirs = one.state(), other.state()
    assert theirs.granted_scope == ours.granted_scope
    assert ours.expires_at is not None
    assert theirs.expires_at is not None
    assert abs((ours.expires_at - theirs.expires_at).total_seconds()) < 1
    assert (theirs.counts.adopted, theirs.counts.token_requests) == (1, 0)
    assert len(authorization_server.token_requests) == 1


def test_the_processes_of_a_fleet_do_not_refresh_all_at_once(peer: Peer, make_provider: MakeProvider) -> None:
    def window(provider: TokenProvider) -> float:
        """Seconds before expiry from which it refreshes."""
        provider.get_token()
        state = provider.state()
        assert state.expires_at is not None
        assert state.refresh_at is not None
        return (state.expires_at - state.refresh_at).total_seconds()

    windows = [window(peer()) for _ in range(5)]
    assert all(60 <= seconds <= 75 for seconds in windows)
    assert len(set(windows)) == 5
    assert window(make_provider()) == pytest.approx(60, abs=1e-3)


KEY, OTHER_KEY = (ECKey.generate_key("P-256").as_pem(private=True).decode() for _ in range(2))


@pytest.mark.parametrize(
    "different",
    [
        {"client_id": "other", "client_secret": "other-secret"},
        {"scope": "mcp:read"},
        {"resource": "{gateway}"},
        {"audience": "other"},
        {"extra_parameters": {"tenant": "other"}},
        {"mcp_url": "{gateway}"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_makes_tokens_different_makes_entries_different(
    authorization_server: AuthorizationServer, peer: Peer, different: dict[str, Any]
) -> None:
    authorization_server.add_client("other", "other-secret")
    different = {k: authorization_server.mcp_url() if v == "{gateway}" else v for k, v in different.items()}
    different.setdefault("token_endpoint", authorization_server.token_endpoint())
    tokens = {peer().get_token(), peer(**different).get_token(), peer(**different).get_token()}
    assert len(tokens) == 2
    assert len(authorization_server.token_requests) == 2


class BindingServer(httpx2.BaseTransport):
    """Gives each request another token, bound to the key of its proof."""

    def __init__(self) -> None:
        self.requests = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        token_type = "DPoP" if "dpop" in request.headers else "Bearer"
        return httpx2.Response(200, json={"access_token": f"token-{self.requests}", "token_type": token_type})


def test_dpop_tokens_are_shared_only_with_a_configured_key(peer: Peer) -> None:
    server = BindingServer()
    with pytest.raises(ConfigurationError, match="dpop"):
        peer(dpop=True)
    bound = [peer(dpop=key, transport=server).get_token() for key in (KEY, KEY, OTHER_KEY)]
    assert [*bound, peer(transport=server).get_token()] == ["token-1", "token-1", "token-2", "token-3"]


def test_a_client_without_a_credential_cannot_share(peer: Peer) -> None:
    with pytest.raises(ConfigurationError, match="credential"):
        peer(client_secret=None, token_endpoint_auth_method="none")


def test_a_rotated_secret_is_a_miss_and_no_error(
    authorization_server: AuthorizationServer, peer: Peer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("demo-secret\n", encoding="utf-8")
    rotating, fixed = peer(client_secret=secret), peer()
    assert rotating.get_token() == fixed.get_token()
    authorization_server.add_client("demo", "rotated-secret")
    secret.write_text("rotated-secret\n", encoding="utf-8")
    rotating.invalidate()
    token = rotating.get_token()
    assert peer(client_secret="rotated-secret").get_token() == token
    assert len(authorization_server.token_requests) == 2


def stored(store_url: str, redis_server: RedisServer) -> bytes:
    """All bytes that a thief of the store would have."""
    if not store_url.startswith("sqlite"):
        client = redis_server.client
        return b"".join(key + b"".join(k + v for k, v in client.hgetall(key).items()) for key in client.scan_iter())
    folder = Path(store_url.removeprefix("sqlite://")).parent
    return b"".join(file.read_bytes() for file in folder.iterdir())


def test_what_is_stored_tells_a_thief_nothing(
    authorization_server: AuthorizationServer, peer: Peer, store_url: str, redis_server: RedisServer
) -> None:
    provider = peer(mcp_url=authorization_server.mcp_url(), scope="mcp:read")
    token = provider.get_token()
    settle(provider)
    raw = stored(store_url, redis_server)
    assert len(raw) > len(token)
    for word in (token, token.split(".")[1], "demo-secret", "mcp:read", authorization_server.url):
        assert word.encode() not in raw


@pytest.mark.parametrize("store_url", ["redis"], indirect=True)
def test_redis_forgets_by_itself(
    authorization_server: AuthorizationServer, peer: Peer, redis_server: RedisServer
) -> None:
    authorization_server.set(lifetime=100)
    provider = peer()
    provider.get_token()
    settle(provider)
    lifetimes = [redis_server.client.ttl(key) for key in redis_server.client.scan_iter()]
    assert lifetimes
    assert all(0 < seconds <= 200 for seconds in lifetimes)


def test_a_wrong_secret_is_tried_once_by_the_fleet(authorization_server: AuthorizationServer, peer: Peer) -> None:
    for _ in range(3):
        with pytest.raises(TokenRequestError) as caught:
            peer(client_secret="wrong").get_token()
        assert caught.value.error == "invalid_client"
        assert "wrong" not in str(caught.value)
    # Once by each method.
    assert len(authorization_server.token_requests) == 2


def test_an_endpoint_in_trouble_is_left_alone_by_all_clients_of_the_fleet(
    authorization_server: AuthorizationServer, peer: Peer
) -> None:
    authorization_server.fail(503, retry_after=60)
    for client in range(4):
        with pytest.raises(TokenRequestError) as caught:
            peer(client_id=f"client-{client}", timeout=5).get_token()
        assert caught.value.status == 503
    assert len(authorization_server.token_requests) == 1


def test_a_fleet_waits_for_retry_after_together(authorization_server: AuthorizationServer, peer: Peer) -> None:
    authorization_server.fail(429, retry_after=60)
    for _ in range(3):
        with pytest.raises(TokenRequestError) as caught:
            peer(timeout=5).get_token()
        assert caught.value.status == 429
    assert len(authorization_server.token_requests) == 1


class OldNews(MemoryStore):
    """The thread that listens looks before a flight has the lease, and is told what it saw only after that."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.looked, self.told, self.taken_in, self.asked_again = (threading.Event() for _ in range(5))

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        is_look = lease == 0.0 and self.asked.is_set()
        if lease > 0:
            self.asked.set()
            self.looked.wait(10)
        entry = super().claim(key, known, lease, owner)
        if is_look and not self.looked.is_set():
            self.looked.set()
            self.told.wait(10)
        if lease > 0 and self.taken_in.is_set():
            self.asked_again.set()
        return entry

    def release(self, key: str, owner: str) -> None:
        super().release(key, owner)
        if not key.startswith("endpoint-"):
            # Whoever waits gets the lease that was given back.
            self.asked_again.wait(1)

    def listen(self, seconds: float) -> Sequence[News]:
        self.asked.wait(10)
        if self.told.is_set():
            self.taken_in.set()
        return super().listen(seconds) if self.looked.is_set() else [("", Entry())]


def test_a_look_from_before_the_lease_does_not_end_it(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    store = OldNews()
    one, other = (make_provider(store=store, store_timeout=5.0) for _ in range(2))
    authorization_server.hold()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(one.get_token)
        authorization_server.wait_for_token_requests(1)
        store.told.set()
        assert store.taken_in.wait(30)
        waits = pool.submit(other.get_token)
        assert store.asked_again.wait(30)
        store.asked_again.clear()
        authorization_server.release()
        assert asked.result(30) == waits.result(30)
    assert len(authorization_server.token_requests) == 1


class Gateway(httpx2.BaseTransport):
    """A gateway at https://gateway.example that leads to the authorization server `issuer`."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.entrusted: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if b"grant_type" in request.read():
            self.entrusted.append(request.url.host)
            token = {"access_token": "a-token", "token_type": "Bearer", "expires_in": 1}
            return httpx2.Response(200, json=token)
        if "oauth-protected-resource" in request.url.path:
            page = {"resource": "https://gateway.example/mcp", "authorization_servers": [self.issuer]}
        elif "oauth-authorization-server" in request.url.path:
            page = {"issuer": self.issuer, "token_endpoint": f"{self.issuer}/token"}
        else:
            return httpx2.Response(404)
        return httpx2.Response(200, content=json.dumps(page))


def test_the_authorization_server_that_one_process_found_is_pinned_for_all(peer: Peer) -> None:
    mcp_url = "https://gateway.example/mcp"
    good, evil = Gateway("https://as.example"), Gateway("https://evil.example")
    assert peer(mcp_url=mcp_url, transport=good).get_token() == "a-token"
    later = peer(mcp_url=mcp_url, transport=evil)
    later.invalidate()
    with pytest.raises(DiscoveryError, match="pinned"):
        later.get_token()
    assert evil.entrusted == []
    # A move that is meant is said by name, which is another entry.
    moved = peer(mcp_url=mcp_url, transport=evil, authorization_server="https://evil.example")
    assert moved.get_token() == "a-token"


class Counting(RedisStore):
    """Counts what it is asked about the token."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.looks = 0
        self.waits = threading.Event()
        # Set when it has subscribed, and has told that what came before was missed.
        self.listens = threading.Event()
        self._subscribed = False

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        entry = super().claim(key, known, lease, owner)
        if lease >= 1 and not key.startswith("endpoint-"):
            self.looks += 1
            self.waits.set()
        return entry

    def listen(self, seconds: float) -> Sequence[News]:
        if self._subscribed:
            self.listens.set()
        news = super().listen(seconds)
        self._subscribed = True
        return news


def test_a_fleet_that_waits_on_redis_is_told_the_token_and_need_not_ask_for_it(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    redis_server.client.flushall()
    stores = [Counting(redis_server.client) for _ in range(4)]
    fleet = [make_provider(store=store, store_timeout=5.0) for store in stores]
    assert all(store.listens.wait(10) for store in stores)
    authorization_server.hold()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(provider.get_token) for provider in fleet]
        authorization_server.wait_for_token_requests(1)
        assert all(store.waits.wait(10) for store in stores)
        before = [store.looks for store in stores]
        authorization_server.release()
        assert len({each.result() for each in waiting}) == 1
    assert [store.looks for store in stores] == before
    assert len(authorization_server.token_requests) == 1
    close_stores(fleet, *stores)


def test_news_are_as_old_as_the_last_look_of_who_waits_for_them_and_no_use_to_others(
    make_provider: MakeProvider, clock: FakeClock
) -> None:
    store = MemoryStore(clock)
    sleeper = make_provider(store=store, store_timeout=5.0, clock=clock)
    share = sleeper.control.share
    assert share is not None
    assert share.look(NO_TOKEN) is None
    share.leave()

    def news() -> Entry:
        fence, generation, now = 10**15, share._known.generation, clock()
        record = {"token": {"value": f"token-{fence}", "scope": None, "before": 0.0, "window": 60.0}}
        sealed = share._seal.close(json.dumps(record).encode(), generation, fence, now + 3600)  # type: ignore[union-attr]
        return Entry(sealed, fence, now + 3600.0, generation=generation, now=now)

    # Nobody waited when they came: what they tell of the token's age would be wrong.
    share.tier.subscribers._told[share._key] = news()
    clock.step(1000)
    store.claim(share._key, NOTHING, 60.0, "another")
    assert isinstance(share.look(NO_TOKEN), Busy)
    waiting_since = clock()
    share.tier.subscribers._told[share._key] = news()
    # A sleep.
    clock.step(1000)
    found = share.look(NO_TOKEN)
    assert isinstance(found, AccessToken)
    assert found.expires_at == waiting_since + 3600
    store.release(share._key, "another")


def test_closing_the_last_provider_of_a_store_ends_its_thread_and_connections(
    make_provider: MakeProvider, redis_server: RedisServer
) -> None:
    url = f"{redis_server.url}?prefix=closing"
    one, other = (make_provider(store=url, store_timeout=5.0) for _ in range(2))
    assert one.get_token() == other.get_token()
    share = one.control.share
    assert share is not None
    thread = share.tier._thread
    assert thread is not None
    del share
    one.close()
    assert thread.is_alive()
    other.close()
    thread.join(10)
    assert not thread.is_alive()
    assert redis_server.client.pubsub_numsub("closing:news") == [(b"closing:news", 0)]


_THREADS = """
import json, sys, threading
from conduit_oauth import TokenProvider
with TokenProvider(**json.loads(sys.argv[1])) as provider:
    provider.get_token()
    print(sorted(type(each).__name__ for each in threading.enumerate()))
"""


def test_a_process_lists_no_thread_of_ours_that_ended(
    authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    settings = {
        "client_id": authorization_server.client_id,
        "client_secret": authorization_server.client_secret,
        "token_endpoint": authorization_server.token_endpoint(),
        "store": f"sqlite://{tmp_path}/tokens.sqlite3",
    }
    command = [sys.executable, "-c", _THREADS, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    # The store's own, and no `_DummyThread`.
    assert done.stdout == "['Thread', '_MainThread']\n"


def test_a_store_whose_last_provider_closed_can_be_used_again(make_provider: MakeProvider) -> None:
    store = MemoryStore()
    one = make_provider(store=store, store_timeout=5.0)
    token, share = one.get_token(), one.control.share
    assert share is not None
    # Frames of a failed request may hold the tier for a while.
    tier = share.tier
    first = tier._thread
    one.close()
    assert first is not None
    first.join(10)
    assert not first.is_alive()
    other = make_provider(store=store, store_timeout=5.0)
    assert other.control.share is not None
    assert other.control.share.tier is tier
    assert other.get_token() == token
    assert tier._thread is not None
    # Closing twice counts once.
    one.close()
    assert tier._thread.is_alive()


def test_a_token_that_was_refused_does_not_come_back_with_a_store_that_lost_its_memory(
    make_provider: MakeProvider, clock: FakeClock
) -> None:
    store = MemoryStore(clock)
    one, other = (make_provider(store=store, store_timeout=5.0, clock=clock) for _ in range(2))
    refused = one.get_token()
    assert other.get_token() == refused
    one.invalidate(refused)
    one.control.settle(None)
    # It knows nothing any more, and is given what another process still holds.
    store.close()
    other.control.resync()
    assert one.get_token() != refused


class Voiding(MemoryStore):
    """Has the token refused while it is being written."""

    refuse: Callable[[], object] | None = None

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        written = super().write(key, value, fence, expires, generation)
        if self.refuse is not None:
            refuse, self.refuse = self.refuse, None
            refuse()
        return written


@pytest.mark.parametrize("when", ["before it is stored", "while it is stored"])
def test_a_token_that_is_refused_before_it_has_a_fence_is_not_shared(
    when: str, make_provider: MakeProvider, clock: FakeClock
) -> None:
    store = Voiding(clock)
    provider, other = (make_provider(store=store, store_timeout=5.0, clock=clock) for _ in range(2))
    share = provider.control.share
    assert share is not None
    provider.get_token()
    settle(provider)
    # As if it had been asked for while the store was out of reach.
    token = dataclasses.replace(provider.control.life.token, value="without.a.fence")
    share.landed(token)
    assert share.fence_of(token) == 0
    if when == "before it is stored":
        share.forget(token, everything=False)
    else:
        store.refuse = lambda: share.forget(token, everything=False)
    clock.step(1.0)
    share.publish(token)
    assert other.get_token() != token.value


def test_a_token_that_is_refused_while_its_refresh_gets_the_lease_costs_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    class Refusing(MemoryStore):
        def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
            entry = super().claim(key, known, lease, owner)
            if lease > 0 and not key.startswith("endpoint") and refused:
                provider.invalidate(refused.pop())
            return entry

    refused: list[str] = []
    provider = make_provider(store=Refusing(clock), store_timeout=5.0, clock=clock)
    first = provider.get_token()
    settle(provider)
    refused.append(first)
    clock.step(3600)
    second = provider.get_token()
    settle(provider)
    assert refused == []
    assert provider.get_token() == second != first
    assert len(authorization_server.token_requests) == 2


def test_nobody_spins_while_a_token_that_is_void_already_is_being_stored(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    """An event loop goes on, and the next token is there as soon as the store has heard of the last one."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
            if value and not key.startswith("endpoint"):
                writing.set()
                assert go_on.wait(20)
            return super().write(key, value, fence, expires, generation)

    provider = make_provider(store=Slow())

    async def main() -> list[str]:
        first = await provider.get_token_async()
        assert writing.wait(20)
        provider.invalidate(first)
        second = asyncio.create_task(provider.get_token_async())
        used = time.process_time()
        for _ in range(50):
            await asyncio.sleep(0.01)
        assert time.process_time() - used < 0.4
        go_on.set()
        return [first, await second]

    assert len(set(asyncio.run(main()))) == 2
