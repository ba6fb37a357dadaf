"""What listens on this machine, and who of its users and their browsers may come."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from conduit_oauth import ConfigurationError
from conduit_oauth.serving.listening import access_of, parse_address
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND
from tests.ports import free_port
from tests.resource_server import ResourceServer

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class Bridge:
    """`conduit-oauth bridge --listen` as its user starts it: with no word about who may come."""

    def __init__(self, environment: dict[str, str], url: str) -> None:
        found = "--token-endpoint", environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"]
        command = [COMMAND, "bridge", "--mcp-url", url, *found, "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first, second = self.process.stderr.readline(), self.process.stderr.readline()
        self.token_file = Path(first.removeprefix("Clients send the bearer token in ").strip())
        self.url = second.removeprefix("Listening on ").strip()

    def stop(self) -> None:
        with self.process as process:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


@pytest.fixture
def environment(client_environment: dict[str, str], authorization_server: AuthorizationServer) -> dict[str, str]:
    return {
        **client_environment,
        "CONDUIT_OAUTH_STORE": "memory:",
        "CONDUIT_OAUTH_RESOURCE": authorization_server.mcp_url(),
        "CONDUIT_OAUTH_TOKEN_ENDPOINT": authorization_server.token_endpoint(),
        "COLUMNS": "300",
    }


def test_the_bridge_by_tcp_wants_the_token_that_it_made(
    environment: dict[str, str], resource_server: ResourceServer
) -> None:
    tokens: set[str] = set()
    for _ in range(2):
        bridge = Bridge(environment, f"{resource_server.url}/echo")
        try:
            token = bridge.token_file.read_text().strip()
            assert httpx2.post(bridge.url, json=PING).status_code == 401
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx2.post(bridge.url, json=PING, headers=headers).status_code == 200
        finally:
            bridge.stop()
        tokens.add(token)
    # It stays the same, so that what clients were configured with goes on working.
    assert len(tokens) == 1
    assert stat.S_IMODE(bridge.token_file.stat().st_mode) == 0o600
    assert len(resource_server.requests) == 2


def test_a_token_of_the_bridge_that_is_replaced_counts_at_once(
    environment: dict[str, str], resource_server: ResourceServer
) -> None:
    bridge = Bridge(environment, f"{resource_server.url}/echo")

    def asked_with(token: str) -> int:
        return httpx2.post(bridge.url, json=PING, headers={"Authorization": f"Bearer {token}"}).status_code

    try:
        before = bridge.token_file.read_text().strip()
        assert asked_with(before) == 200
        bridge.token_file.write_text("another\n")
        assert (asked_with(before), asked_with("another")) == (401, 200)
        bridge.token_file.unlink()
        assert asked_with("another") == 401
        bridge.token_file.write_text("a third\n")
        assert asked_with("a third") == 200
    finally:
        bridge.stop()


def test_a_token_of_the_bridge_that_comes_by_a_pipe_stays(
    environment: dict[str, str], resource_server: ResourceServer, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [COMMAND, "bridge", "--mcp-url", f"{resource_server.url}/echo", "--listen", "127.0.0.1:0"]
    command += ["--token-endpoint", environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"], "--local-token-file", str(pipe)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            pipe.write_text("from-a-pipe\n")
            assert process.stderr is not None
            url = process.stderr.readline().removeprefix("Listening on ").strip()
            # What is said of the pipe changes when its writer leaves.
            os.utime(pipe)
            headers = {"Authorization": "Bearer from-a-pipe"}
            assert [httpx2.post(url, json=PING, headers=headers).status_code for _ in range(2)] == [200, 200]
        finally:
            process.terminate()


@pytest.mark.parametrize("client", ["claude-code", "codex", "cursor", "gemini", "vscode", "windsurf", "zed"])
def test_the_configuration_for_http_carries_it(client: str, environment: dict[str, str]) -> None:
    port = free_port()
    command = [COMMAND, "bridge", "--print-config", client, "--listen", f"127.0.0.1:{port}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert f"http://127.0.0.1:{port}/mcp" in done.stdout
    found = re.search(r"Bearer ([\w-]{40,})", done.stdout)
    assert found is not None
    file = re.search(r"bearer token in (\S+)", done.stderr)
    assert file is not None
    assert Path(file[1]).read_text().strip() == found[1]
    if client != "codex":
        json.loads(done.stdout)


def test_a_client_that_knows_no_http_is_said(environment: dict[str, str]) -> None:
    command = [COMMAND, "bridge", "--print-config", "claude-desktop", "--listen", "127.0.0.1:8900"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "Leave --listen out" in done.stderr


@pytest.fixture
def agent(
    environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> Iterator[tuple[int, Path]]:
    """An agent with 200 descriptors, for a token of 8 s; its port, and its output."""
    authorization_server.set(lifetime=8)
    (tmp_path / "secret").write_text(authorization_server.client_secret)
    (tmp_path / "agent.toml").write_text(
        f"""
        [providers.billing]
        client_id = "{authorization_server.client_id}"
        client_secret = {{ file = "secret" }}
        token_endpoint = "{authorization_server.token_endpoint()}"
        store = "memory:"
        [agent]
        listen = "127.0.0.1:0"
        [[agent.outputs]]
        provider = "billing"
        file = "token"
        """
    )
    command = ["sh", "-c", f"ulimit -n 200; exec {COMMAND} agent --config {tmp_path}/agent.toml"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = None
        while found is None:
            found = re.search(r"Listening on http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        yield int(found[1]), tmp_path / "token"
        process.terminate()


def test_idle_connections_take_no_token_away_and_end(
    agent: tuple[int, Path], authorization_server: AuthorizationServer
) -> None:
    port, output = agent
    held: list[socket.socket] = []
    for _ in range(260):
        try:
            held.append(socket.create_connection(("127.0.0.1", port), 1))
        except OSError:
            break
    # One that begins a head, and never ends it.
    slow = next(each for each in reversed(held) if not is_closed(each))
    slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    before = len(authorization_server.token_requests)
    authorization_server.wait_for_token_requests(before + 3)
    assert output.exists()
    assert all(ends(each) for each in held), "idle connections stay open"
    assert httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    for each in held:
        each.close()


# Serves at a socket in whose place a link is put as soon as it is there.
RACED = """
import asyncio, os, pathlib, signal, socket, sys
from conduit_oauth.serving.listening import Address, serve

class Raced(socket.socket):
    def bind(self, address):
        super().bind(address)
        os.unlink(address)
        os.symlink(sys.argv[2], address)

socket.socket = Raced
address = Address(path=pathlib.Path(sys.argv[1]), mode=0o660, gid=int(sys.argv[3]))
asyncio.run(serve(None, [address], lambda where: os.kill(os.getpid(), signal.SIGTERM)))
"""


def test_a_link_in_the_sockets_place_leads_no_right_to_another_file(tmp_path: Path) -> None:
    precious = tmp_path / "shadow"
    precious.touch(0o600)
    before = precious.stat()
    group = 65534 if os.geteuid() == 0 else os.getegid()
    arguments = [str(tmp_path / "agent.sock"), str(precious), str(group)]
    subprocess.run([sys.executable, "-c", RACED, *arguments], check=True, timeout=60)
    after = precious.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def ends(connection: socket.socket) -> bool:
    """Whether the other side closes it within the time for a head, and some more."""
    connection.settimeout(20)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize(
    ("name", "compared"), [("Gateway", "gateway"), ("[::2]", "::2"), ("::2", "::2"), ("10.0.0.1", "10.0.0.1")]
)
def test_a_further_name_is_compared_as_a_host(name: str, compared: str) -> None:
    assert compared in (access_of(parse_address("127.0.0.1:0"), None, [name], expose=False).hosts or ())


@pytest.mark.parametrize("name", ["gateway:8900", "[::2]:8900", "http://gateway", "gateway/mcp", ""])
def test_a_further_name_that_would_have_no_effect_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name of a host"):
        access_of(parse_address("127.0.0.1:0"), None, [name], expose=False)
