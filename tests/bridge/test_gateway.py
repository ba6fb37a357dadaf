"""What the bridge does where the gateway forgot the session, or lost an answer."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conduit_oauth import TokenProvider
from conduit_oauth.bridge.exchange import Question
from conduit_oauth.bridge.gateway import Gateway
from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import StartBridge
from tests.certificates import issue
from tests.resource_server import ResourceServer
from tests.threaded import serving


def post(url: str, method: str, session: str | None = None, **parameters: str) -> httpx2.Response:
    headers = {"mcp-protocol-version": "2025-06-18", **({"mcp-session-id": session} if session else {})}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    return httpx2.post(url, json=message, headers=headers, timeout=20)


def said(request: dict[str, Any]) -> str:
    message = json.loads(request["body"])
    return " ".join([message["method"], *message.get("params", {}).values()])


def test_a_forgotten_session_is_begun_anew_as_the_client_had_it(
    start: StartBridge, resource_server: ResourceServer
) -> None:
    url = start(f"{resource_server.url}/session").url
    name = post(url, "initialize", who="the client").headers["mcp-session-id"]
    for method, parameters in (
        ("logging/setLevel", {"level": "debug"}),
        ("resources/subscribe", {"uri": "a"}),
        ("resources/subscribe", {"uri": "b"}),
        ("resources/unsubscribe", {"uri": "b"}),
        ("logging/setLevel", {"level": "error"}),
    ):
        assert post(url, method, name, **parameters).status_code == 200
    before = len(resource_server.requests)
    resource_server.sessions.clear()
    answer = post(url, "tools/call", name, name="add")
    assert (answer.status_code, answer.headers["mcp-session-id"]) == (200, name)
    since = resource_server.requests[before:]
    assert [said(request) for request in since] == [
        "tools/call add",
        "initialize the client",
        "notifications/initialized",
        "logging/setLevel error",
        "resources/subscribe a",
        "tools/call add",
    ]
    (now,) = {request["headers"].get("mcp-session-id") for request in since[2:]}
    assert now != name


def test_many_calls_begin_it_anew_once(start: StartBridge, resource_server: ResourceServer) -> None:
    url = start(f"{resource_server.url}/session").url
    name = post(url, "initialize").headers["mcp-session-id"]
    resource_server.sessions.clear()
    resource_server.refused_together = asyncio.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: post(url, "tools/call", name, name=str(n)), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert [said(request) for request in resource_server.requests].count("initialize") == 2


def test_a_stream_of_before_is_not_resumed_in_a_session_that_was_begun_anew(
    start: StartBridge, resource_server: ResourceServer
) -> None:
    url = start(f"{resource_server.url}/session").url
    name = post(url, "initialize").headers["mcp-session-id"]
    resource_server.sessions.clear()
    assert post(url, "tools/call", name).status_code == 200
    before = len(resource_server.requests)
    answer = httpx2.get(url, headers={"mcp-session-id": name, "last-event-id": "e1", "accept": "text/event-stream"})
    assert answer.status_code == 404
    assert "restarted" in answer.json()["error"]["message"]
    assert len(resource_server.requests) == before


def test_a_session_that_nobody_began_here_stays_unknown(start: StartBridge, resource_server: ResourceServer) -> None:
    url = start(f"{resource_server.url}/session").url
    assert post(url, "tools/call", "of-another-time").status_code == 404


def test_the_memory_for_sessions_is_bounded(start: StartBridge, resource_server: ResourceServer) -> None:
    bridge = start(f"{resource_server.url}/session")

    def resident() -> int:
        return int(Path(f"/proc/{bridge.pid}/statm").read_text().split()[1]) * 4096

    assert post(bridge.url, "initialize").status_code == 200
    before = resident()
    for number in range(100):
        # A session that says little is remembered, and one that says much is not.
        size = 4 << 20 if number % 10 == 0 else 900 << 10
        assert post(bridge.url, "initialize", name="x" * size).status_code == 200
        # The number of requests names the next session.
        resource_server.requests[-1].clear()
    assert resident() - before < 60 << 20


def test_a_body_that_ends_early_reaches_no_gateway(start: StartBridge, resource_server: ResourceServer) -> None:
    bridge = start(f"{resource_server.url}/echo")
    port = int(bridge.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}')
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert post(bridge.url, "ping").status_code == 200
    assert [said(request) for request in resource_server.requests] == ["ping"]


class Closing(socketserver.BaseRequestHandler):
    """Takes a request, and closes the connection without an answer."""

    seen: list[bytes]

    def handle(self) -> None:
        request = b""
        while not request.endswith(b"}"):
            request += self.request.recv(65536)
        self.seen.append(request)


@pytest.fixture
def closing() -> Iterator[str]:
    Closing.seen = []
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closing)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"


def test_what_could_do_its_work_twice_is_not_sent_twice(start: StartBridge, closing: str) -> None:
    url = start(closing, "--patience", "1").url
    answer = post(url, "tools/call", name="pay")
    assert answer.status_code == 502
    assert "lost" in answer.json()["error"]["message"]
    assert len(Closing.seen) == 1
    assert post(url, "tools/list").status_code == 502
    assert len(Closing.seen) > 2


def test_a_gateway_that_stays_away_is_said_in_time(start: StartBridge, resource_server: ResourceServer) -> None:
    url = start("http://127.0.0.1:1/mcp", "--patience", "0.5").url
    answer = post(url, "ping")
    assert answer.status_code == 502
    assert "cannot be reached: Connection refused" in answer.json()["error"]["message"]


def test_an_authorization_server_that_stays_away_is_said_in_time(
    start: StartBridge, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    bridge = start(f"{resource_server.url}/mcp", "--patience", "1", "--store", "memory:")
    authorization_server.drop(count=1000)
    begun = time.monotonic()
    answer = post(bridge.url, "ping")
    assert answer.status_code == 502
    # Without the bound it would be 30 s.
    assert time.monotonic() - begun < 10


def test_a_certificate_that_was_replaced_is_presented_to_the_gateway(
    authorization_server: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conduit_oauth.bridge.connecting.LOOK", 0.0)
    authority = issue(tmp_path, "authority", ca=True)
    issue(tmp_path, "server", authority)
    for number in ("one", "two"):
        issue(tmp_path, number, authority)
    wanted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "authority.pem")
    wanted.verify_mode = ssl.CERT_REQUIRED
    wanted.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    presented: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        certificate: Any = writer.get_extra_info("peercert")
        presented.append(dict(certificate["subject"][0])["commonName"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    def present(number: str) -> None:
        for part in (".pem", "-key.pem"):
            (tmp_path / f"{number}{part}").rename(tmp_path / f"client{part}")

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=wanted)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        present("one")
        with TokenProvider(
            authorization_server.client_id,
            authorization_server.client_secret,
            token_endpoint=authorization_server.token_endpoint(),
            mcp_url=url,
            resource=False,
            client_certificate=(tmp_path / "client.pem", tmp_path / "client-key.pem"),
            ca_file=tmp_path / "authority.pem",
        ) as provider:
            async with Gateway(provider, patience=0.0) as gateway:
                for number in ("two", "", None):
                    reply = await gateway.send(Question("GET", url, {}, b""))
                    assert reply.status == 200
                    await reply.drain()
                    if number:
                        present(number)
                    elif number is not None:
                        # While it is away, the one before is presented.
                        (tmp_path / "client.pem").unlink()
        server.close()

    asyncio.run(main())
    assert presented == ["one", "two", "two"]
