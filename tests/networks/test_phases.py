"""IPv6 literals in every adapter and in the bridge; errors that tell which phase took how long."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from conduit_oauth import TokenProvider, TransportError
from conduit_oauth.cli.checks import check_way
from conduit_oauth.cli.findings import Verdict
from conduit_oauth.client.transport import Transport
from tests.addresses import silent_address
from tests.auth.test_auth import SENDERS
from tests.bridge.conftest import Bridge
from tests.certificates import issue
from tests.client.test_transport import raw_server
from tests.conftest import COMMAND
from tests.scripted_server import Asked, ScriptedServer

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def answer(asked: Asked) -> None:
    if asked.path == "/token":
        asked.answer({"access_token": "good-token", "token_type": "Bearer", "expires_in": 3600})
    else:
        asked.answer({"jsonrpc": "2.0", "id": 1, "result": {}})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(answer, "::1") as server:
        yield server


@pytest.mark.parametrize("sender", SENDERS)
def test_an_address_of_version_6_in_each_adapter(sender: str, server: ScriptedServer) -> None:
    found = {"token_endpoint": f"{server.url}/token", "mcp_url": f"{server.url}/mcp"}
    with TokenProvider("me", "secret", **found) as provider:  # type: ignore[arg-type]
        assert SENDERS[sender](provider, "GET", f"{server.url}/mcp").status == 200
    assert server.seen[-1][1]["authorization"] == "Bearer good-token"


def test_an_address_of_version_6_in_the_bridge(server: ScriptedServer, tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "CONDUIT_OAUTH_CLIENT_ID": "me",
        "CONDUIT_OAUTH_CLIENT_SECRET": "secret",
        "CONDUIT_OAUTH_STORE": "memory:",
    }
    found = "--token-endpoint", f"{server.url}/token", "--mcp-url", f"{server.url}/mcp"
    bridge = Bridge(environment, "--listen", "[::1]:0", "--no-local-token", *found)
    try:
        assert httpx2.post(bridge.url, json=PING).json()["result"] == {}
    finally:
        bridge.stop(signal.SIGTERM)


def failure(url: str, timeout: float) -> str:
    with TokenProvider("me", "secret", token_endpoint=url, timeout=timeout) as provider:
        with pytest.raises(TransportError) as caught:
            provider.get_token()
        return str(caught.value)


def test_an_answer_that_does_not_come_is_said() -> None:
    with raw_server() as url:
        assert re.search(r"no whole answer within \S+ s \(.*answer \S+ s\)", failure(url, 1.0))


def test_a_name_that_is_not_resolved_in_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        over.wait(20)
        return []

    own = SimpleNamespace(**{**vars(socket), "getaddrinfo": getaddrinfo})
    monkeypatch.setattr("conduit_oauth.client.network.socket", own)
    try:
        assert re.search(
            r"the name is not resolved within \S+ s \(.*name \S+ s\)", failure("https://as.example/token", 3.0)
        )
        (told,) = check_way("https://as.example/", Transport(), seconds=5.0, signs=False, client_context=None)
        assert (told.cause, "no answer within 5.0 s" in told.said) == ("name-unknown", True)
    finally:
        over.set()


def test_a_handshake_that_does_not_end_is_said() -> None:
    with raw_server() as url:
        assert re.search(r"no end of the TLS handshake .*TLS \S+ s", failure(url.replace("http:", "https:"), 1.0))


@contextmanager
def slow_handshakes(folder: Path, knocks: int = 0) -> Iterator[str]:
    """A server whose handshakes take longer than a connection may take; its certificate is in `folder`.

    The first `knocks` connections only look whether anybody listens.
    """
    issue(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    with ScriptedServer(answer) as server:
        accept, go_on = server._server.socket.accept, threading.Event()
        earlier = itertools.count()

        def slowly() -> object:
            connection, address = accept()
            if next(earlier) >= knocks:
                go_on.wait(5.5)
            return context.wrap_socket(connection, server_side=True), address

        server._server.get_request = slowly  # type: ignore[method-assign, assignment]
        yield f"https://127.0.0.1:{server.port}"


def test_a_slow_handshake_has_the_time_of_the_request(tmp_path: Path) -> None:
    with (
        slow_handshakes(tmp_path) as url,
        TokenProvider(
            "me", "s", token_endpoint=f"{url}/token", ca_file=tmp_path / "server.pem", timeout=30
        ) as provider,
    ):
        assert provider.get_token() == "good-token"


def test_a_slow_handshake_has_the_time_of_the_client_with_doctor(tmp_path: Path) -> None:
    with slow_handshakes(tmp_path, knocks=1) as url:
        context = ssl.create_default_context(cafile=tmp_path / "server.pem")
        told = check_way(f"{url}/token", Transport(), seconds=30.0, signs=False, client_context=context)
        found = next(each for each in told if each.step == "TLS")
    assert found.verdict is not Verdict.BAD


@contextmanager
def bridge_to(url: str, server: ScriptedServer, env: dict[str, str], *options: str) -> Iterator[Callable[[bytes], Any]]:
    """Asks a stdio bridge to the gateway at `url`, which is ready by then."""
    command = [COMMAND, "bridge", "--mcp-url", url, "--token-endpoint", f"{server.url}/token", *options]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bridge:

        def ask(line: bytes) -> Any:
            assert bridge.stdin is not None
            assert bridge.stdout is not None
            bridge.stdin.write(line + b"\n")
            bridge.stdin.flush()
            return json.loads(bridge.stdout.readline())

        assert "error" in ask(b"no message")
        yield ask


def test_a_slow_handshake_of_the_gateway_has_the_time_of_the_patience(
    tmp_path: Path, server: ScriptedServer, environment: dict[str, str]
) -> None:
    trusting = {**environment, "SSL_CERT_FILE": str(tmp_path / "server.pem")}
    with slow_handshakes(tmp_path) as url, bridge_to(f"{url}/mcp", server, trusting) as ask:
        assert ask(json.dumps(PING).encode()) == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_a_gateway_behind_a_silent_firewall_is_given_up_when_the_patience_ends(
    server: ScriptedServer, environment: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    with silent_address(port, "127.0.0.1"), bridge_to(url, server, environment, "--patience", "1") as ask:
        begun = time.monotonic()
        said = ask(json.dumps(PING).encode())["error"]["message"]
        # A connection has 5 s elsewhere.
        assert time.monotonic() - begun < 4.5
    assert re.search(r"cannot be reached: no connection within \d\.\d s \(.*connection [\d.]+ s\)", said)


@pytest.fixture
def environment(tmp_path: Path, server: ScriptedServer) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "CONDUIT_OAUTH_CLIENT_ID": "me",
        "CONDUIT_OAUTH_CLIENT_SECRET": "secret",
        "CONDUIT_OAUTH_STORE": "memory:",
        "CONDUIT_OAUTH_TOKEN_ENDPOINT": f"{server.url}/token",
        "COLUMNS": "200",
    }


def test_request_to_a_mute_server_says_what_it_waits_for(environment: dict[str, str]) -> None:
    with raw_server() as url:
        begun = time.monotonic()
        done = subprocess.run(
            [COMMAND, "request", "GET", url, "--resource", url, "--wait", "0.5"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 4
    said = re.search(r"no whole answer within (\S+) s \(.*answer (\S+) s\)", done.stderr)
    # What it took is measured: on a busy machine a wait lasts longer.
    assert said, done.stderr
    assert 0.4 < float(said[2]) <= float(said[1]) + 0.05 < 5, done.stderr
    assert time.monotonic() - begun < 30
