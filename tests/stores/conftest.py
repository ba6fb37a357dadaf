from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from conduit_oauth import TokenProvider
from conduit_oauth.stores import TokenStore, open_store
from conduit_oauth.stores.memory import MemoryStore
from tests.leaks import lasting
from tests.redis_server import RedisServer
from tests.stores.line import until

# Another connection to the same store, as another process has it.
Open = Callable[[], TokenStore]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    with lasting():
        server.start()
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tokens.sqlite3"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.client.flushall()
    return server.url


@pytest.fixture
def opened(store_url: str) -> Iterator[Open]:
    stores: list[TokenStore] = []

    def open_one() -> TokenStore:
        store = open_store(store_url, 5.0)
        assert store is not None
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TokenStore, TokenStore]]:
    """One store, as two processes see it."""
    if request.param == "memory":
        store = MemoryStore()
        yield store, store
        return
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/tokens.sqlite3"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.client.flushall()
        url = server.url
    first, second = open_store(url, 5.0), open_store(url, 5.0)
    assert first is not None
    assert second is not None
    yield first, second
    first.close()
    second.close()


def settle(provider: TokenProvider) -> None:
    """Wait until the store knows what the provider knows."""
    while provider.state().refreshing:
        pass


def close_stores(providers: Iterable[TokenProvider], *stores: TokenStore) -> None:
    """Close stores of a test's own, which providers leave open, once no thread of theirs uses them."""
    for provider in providers:
        provider.close()
    until(lambda: all(thread.name != "conduit-oauth-store" for thread in threading.enumerate()))
    for store in stores:
        store.close()
