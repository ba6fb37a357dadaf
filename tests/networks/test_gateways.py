"""The bridge at a gateway behind a real balancer or proxy: what restarts, closes early or speaks TLS badly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import Bridge, StartBridge, bridge_environment, start, start_bridge
from tests.bridge.scripted import Exchange, ScriptedGateway, result
from tests.certificates import issue
from tests.conftest import COMMAND
from tests.networks.proxies import haproxy, nginx
from tests.ports import free_port

__all__ = ["bridge_environment", "start", "start_bridge"]
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "n"}}


def echo(exchange: Exchange, message: dict[str, Any]) -> None:
    exchange.answer(result(message, {}))


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway(echo) as gateway:
        yield gateway


def port_of(gateway: ScriptedGateway) -> int:
    return int(gateway.url.split(":")[2].split("/")[0])


def test_no_call_is_lost_where_a_balancer_closes_idle_connections(
    start: StartBridge, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    async def lane(client: httpx2.AsyncClient, url: str, idle: float) -> list[int]:
        statuses: list[int] = []
        for _ in range(8):
            statuses.append((await client.post(url, json=CALL)).status_code)
            # As long as the balancer waits: what is sent then meets its FIN.
            await asyncio.sleep(idle)
        return statuses

    async def main(url: str) -> list[list[int]]:
        async with httpx2.AsyncClient(timeout=30) as client:
            return await asyncio.gather(*(lane(client, url, 0.497 + each / 1000) for each in range(6)))

    with haproxy(tmp_path, port_of(gateway)) as port:
        bridge = start(f"http://127.0.0.1:{port}/mcp")
        statuses = asyncio.run(main(bridge.url))
        bridge.stop(15)
    assert statuses == [[200] * 8] * 6
    assert gateway.sent().count("tools/call") == 48


def test_a_gateway_that_restarts_behind_a_proxy_is_waited_for(
    start: StartBridge, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    late = free_port()
    with ExitStack() as stack:
        port = stack.enter_context(nginx(tmp_path, late))
        bridge = start(f"http://127.0.0.1:{port}/mcp", "--patience", "20")
        # What could do its work twice is not asked again.
        assert httpx2.post(bridge.url, json=CALL, timeout=30).status_code == 502
        client = stack.enter_context(httpx2.Client(timeout=30))

        async def main() -> httpx2.Response:
            asked = asyncio.create_task(asyncio.to_thread(client.post, bridge.url, json=PING))
            await asyncio.to_thread(wait_for_502, tmp_path)
            stack.enter_context(ScriptedGateway(echo, port=late))
            return await asked

        answer = asyncio.run(main())
        bridge.stop(15)
    assert (answer.status_code, answer.json()["result"]) == (200, {})


def wait_for_502(folder: Path) -> None:
    """Until the proxy has refused twice, by its log: once for the call, once for the ping."""
    give_up_at = time.monotonic() + 20
    while (folder / "error.log").read_text().count("Connection refused") < 2:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def tls(folder: Path, name: str = "server") -> str:
    return f"ssl_certificate {folder}/{name}.pem; ssl_certificate_key {folder}/{name}-key.pem;"


def message_of(bridge: Bridge) -> tuple[str, float]:
    began = time.monotonic()
    answer = httpx2.post(bridge.url, json=PING, timeout=30)
    assert answer.status_code == 502
    return answer.json()["error"]["message"], time.monotonic() - began


def test_a_certificate_that_is_refused_is_named_at_once(
    start: StartBridge, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    issue(tmp_path, "server")
    with nginx(tmp_path, port_of(gateway), listen="ssl", more=tls(tmp_path)) as port:
        bridge = start(f"https://127.0.0.1:{port}/mcp", "--patience", "20")
        said, took = message_of(bridge)
        bridge.stop(15)
    assert f"the certificate of 127.0.0.1:{port} is refused" in said
    assert "self-signed" in said
    assert took < 10


def test_plain_http_at_a_tls_port_is_named_at_once(start: StartBridge, gateway: ScriptedGateway) -> None:
    bridge = start(gateway.url.replace("http://", "https://"), "--patience", "20")
    said, took = message_of(bridge)
    assert f"TLS with 127.0.0.1:{port_of(gateway)} fails" in said
    assert took < 10


@pytest.fixture
def certified(gateway: ScriptedGateway, tmp_path: Path) -> Iterator[int]:
    """nginx that wants a certificate of the client's."""
    authority = issue(tmp_path, "authority", ca=True)
    issue(tmp_path, "server", authority)
    more = f"{tls(tmp_path)} ssl_client_certificate {tmp_path}/authority.pem; ssl_verify_client on;"
    with nginx(tmp_path, port_of(gateway), listen="ssl", more=more) as port:
        yield port


def test_the_stdio_client_sees_status_and_reason(
    certified: int, bridge_environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    url = f"https://127.0.0.1:{certified}/mcp"
    done = subprocess.run(
        [COMMAND, "bridge", "--mcp-url", url, "--token-endpoint", authorization_server.token_endpoint()],
        env={**bridge_environment, "SSL_CERT_FILE": str(tmp_path / "authority.pem")},
        input=json.dumps(PING) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    message = json.loads(done.stdout)["error"]["message"]
    assert "400" in message
    assert "No required SSL certificate was sent" in message


def test_doctor_shows_what_a_proxy_says_about_a_certificate(
    certified: int, bridge_environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    url = f"https://127.0.0.1:{certified}/mcp"
    done = subprocess.run(
        [COMMAND, "doctor", "--mcp-url", url, "--token-endpoint", authorization_server.token_endpoint()],
        env={**bridge_environment, "SSL_CERT_FILE": str(tmp_path / "authority.pem"), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "400 No required SSL certificate was sent" in done.stdout
    assert "client_certificate" in done.stdout
