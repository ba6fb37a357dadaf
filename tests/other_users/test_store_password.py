"""The password of a shared store is not in its URL, which settings, processes and logs show."""

from __future__ import annotations

import socketserver
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from conduit_oauth import ConfigurationError
from conduit_oauth.identity.sources import public_environment
from conduit_oauth.stores import NOTHING, StoreError, TokenStore, hide_password, open_store
from conduit_oauth.stores.redis import RedisStore
from tests.conftest import COMMAND, MakeProvider, Said
from tests.redis_server import RedisServer
from tests.threaded import serving

PASSWORD = "store-password-31"


def test_it_is_read_from_a_file_or_a_variable(
    make_provider: MakeProvider, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    monkeypatch.setenv("CACHE_PASSWORD", PASSWORD)
    with RedisServer(tmp_path, "--requirepass", PASSWORD) as server:
        sources = f"password_file={tmp_path}/password", "password_environment=CACHE_PASSWORD&prefix=conduit-oauth"
        users = f"default@127.0.0.1:{server.port}", f"127.0.0.1:{server.port}"
        urls = [f"redis://{user}/0?{source}" for user in users for source in sources]
        tokens = {make_provider(store=url, store_timeout=5.0).get_token() for url in urls}
        # The same store for all of them, so the same token.
        assert len(tokens) == 1
        assert said.count("store_down") == 0
        assert "CACHE_PASSWORD" not in public_environment()
        (tmp_path / "password").write_text("another")
        store = open_store(urls[0], 5.0)
        assert store is not None
        # Redis refuses the one that the file holds by now.
        with pytest.raises(StoreError) as caught:
            store.claim("key", NOTHING, 0.0)
        assert "another" not in str(caught.value)
        (tmp_path / "password").write_text(PASSWORD)
        assert store.claim("key", NOTHING, 0.0).value is None
        store.close()


def test_a_server_that_says_it_again_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    # Redis quotes what it does not understand.
    with (
        RedisServer(tmp_path, "--rename-command", "AUTH", "") as server,
        Redis(port=server.port, password=PASSWORD, protocol=2) as own,
    ):
        urls = f":{PASSWORD}@127.0.0.1:{server.port}", f"127.0.0.1:{server.port}/0?password_file={tmp_path}/password"
        stores: list[TokenStore | None] = [open_store(f"redis://{url}", 5.0) for url in urls]
        stores.append(RedisStore(own))
        for store in stores:
            assert store is not None
            with pytest.raises(StoreError) as caught:
                store.claim("key", NOTHING, 0.0)
            store.close()
            assert "unknown command 'AUTH'" in str(caught.value)
            assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("kind", [b"-", b"?"])
def test_what_a_hostile_server_says_is_cut_and_shows_no_password(kind: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(kind + b"ERR \x1b[2J " + PASSWORD.encode() + b" " + b"x y " * 10_000 + b"\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        store = open_store(f"redis://:{PASSWORD}@127.0.0.1:{server.server_address[1]}", 5.0)
        assert store is not None
        with pytest.raises(StoreError) as caught:
            store.claim("key", NOTHING, 0.0)
        store.close()
    assert PASSWORD not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("source", ["password_file=/absent", "password_environment=CONDUIT_ABSENT"])
def test_what_cannot_be_read_is_an_error_at_once(source: str) -> None:
    with pytest.raises(ConfigurationError, match=r"store password|CONDUIT_ABSENT"):
        open_store(f"redis://127.0.0.1:1/0?{source}", 1.0)


@pytest.mark.parametrize(("place", "status"), [("option", 2), ("variable", 0)])
def test_the_configuration_of_an_mcp_client_does_not_hold_it(
    place: str, status: int, client_environment: dict[str, str]
) -> None:
    url = f"redis://app:{PASSWORD}@cache.example/0"
    command = [COMMAND, "bridge", "--print-config", "vscode", "--mcp-url", "https://gateway.example/mcp"]
    command += ["--store", url] if place == "option" else []
    environment = client_environment | ({"CONDUIT_OAUTH_STORE": url} if place == "variable" else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status
    assert PASSWORD not in done.stdout + done.stderr
    assert ("password_file" if place == "option" else "CONDUIT_OAUTH_STORE in its environment") in done.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://app:{}@cache/0", "redis://app:***@cache/0"),
        ("redis://app:{}@one,app:{}@two/0", "redis://app:***@two/0"),
        # What is special in a URL, and should have been encoded.
        ("redis://app:a/{}@cache/0", "redis://app:***@cache/0"),
        ("redis://app:12/{}@cache/0", "redis://app:***@cache/0"),
        ("redis://app:a?{}@cache/0", "redis://app:***@cache/0"),
        ("redis://app:a#{}@cache/0", "redis://app:***@cache/0"),
        ("redis://cache/0?password={}", "redis://cache/0?password=***"),
        ("redis://cache/0?passw%6Frd={}&db=1", "redis://cache/0?passw%6Frd=***&db=1"),
        ("redis://cache/0?Password={}", "redis://cache/0?Password=***"),
        ("rediss://cache/0?ssl_password={}", "rediss://cache/0?ssl_password=***"),
        # None is there.
        ("redis://cache:6379/0?client_name=me@work", "redis://cache:6379/0?client_name=me@work"),
        ("redis://[::1]:6379?client_name=me@work", "redis://[::1]:6379?client_name=me@work"),
        ("redis://cache/0?password_file=/run/password", "redis://cache/0?password_file=/run/password"),
        ("sqlite:////home/me@work/tokens", "sqlite:////home/me@work/tokens"),
    ],
)
def test_a_url_is_shown_without_it(url: str, shown: str) -> None:
    assert hide_password(url.replace("{}", PASSWORD)) == shown
