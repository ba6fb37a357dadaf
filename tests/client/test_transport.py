from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TransportError
from conduit_oauth.client.locator import drive
from conduit_oauth.client.transport import MAX_BYTES, Transport
from conduit_oauth.identity.tls import TlsFiles
from conduit_oauth.protocol.discovery import Steps
from conduit_oauth.protocol.http import Request, Response
from conduit_oauth.testing import AuthorizationServer
from tests.addresses import resolve_to, silent_address
from tests.certificates import issue
from tests.threaded import serving


@contextmanager
def raw_server(*pieces: bytes, apart: float = 0.0, knocks: int = 0) -> Iterator[str]:
    """A socket that answers one request with these bytes, `apart` seconds between them, and then says no more.

    The first `knocks` connections are closed at once.
    """
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(knocks):
                listener.accept()[0].close()
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                        over.wait(apart)
                except OSError:
                    return
                over.wait(30)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/token"
        finally:
            over.set()
            # Where no request came, it still waits for one.
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join()


def send(url: str, timeout: float = 10.0, transport: Transport | None = None) -> int:
    transport = transport or Transport()
    try:
        return transport.send(Request("POST", url, {}, b"client_secret=very-secret"), timeout).status
    finally:
        transport.close()


def test_no_redirect_is_followed() -> None:
    head = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with raw_server(head) as url:
        assert send(url) == 307
    with raw_server(head) as url, httpx2.Client(follow_redirects=True) as client:
        assert send(url, transport=Transport(client)) == 307


def test_an_answer_without_end_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    with (
        raw_server(head, *[b"x" * 65536] * (MAX_BYTES // 65536 + 2)) as url,
        pytest.raises(TransportError, match="larger"),
    ):
        send(url)


def test_a_server_that_sends_nothing_is_left() -> None:
    with raw_server() as url, pytest.raises(TransportError, match="no whole answer"):
        send(url, 1.5)


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "a body": [HEAD + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 1000],
    "a header": [HEAD + b"X-A: ", *[b"x"] * 1000],
    "answers before the answer": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 1000,
    "a trailer": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: ", *[b"x"] * 1000],
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_server_that_drips_is_left(drip: str) -> None:
    with (
        raw_server(*DRIPS[drip], apart=0.02) as url,
        pytest.raises(TransportError, match=r"no whole answer within 1\.5 s"),
    ):
        send(url, 1.5)


@pytest.mark.parametrize("drip", DRIPS)
def test_an_injected_client_leaves_a_server_that_drips(drip: str) -> None:
    with (
        raw_server(*DRIPS[drip], apart=0.02) as url,
        httpx2.Client() as client,
        pytest.raises(TransportError, match=r"no whole answer within 1\.5 s"),
    ):
        send(url, 1.5, Transport(client))


def test_a_proxy_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(*DRIPS["a header"], apart=0.02) as proxy:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/token"))
        with pytest.raises(TransportError, match=r"no whole answer within 1\.5 s"):
            send("http://as.example/token", 1.5)


def test_a_server_that_shakes_no_hands_is_left() -> None:
    with raw_server() as url, pytest.raises(TransportError, match=r"no end of the TLS handshake within 1\.5 s"):
        send(url.replace("http:", "https:"), 1.5)


@pytest.mark.parametrize("status", [200, 400, 502])
def test_an_answer_that_is_compressed_is_refused(status: int) -> None:
    head = f"HTTP/1.1 {status} \r\nContent-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n".encode()
    with raw_server(head) as url, pytest.raises(TransportError, match="is compressed") as caught:
        send(url)
    assert caught.value.retryable == (status == 502)


def test_the_steps_of_a_discovery_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow:
        def __init__(self) -> None:
            self.allowed: list[float] = []

        def send(self, request: Request, timeout: float) -> Response:
            self.allowed.append(timeout)
            now[0] += 2.0
            return Response(404, {}, b"")

    def steps() -> Steps:
        while True:
            yield Request("GET", "https://as.example/", {})

    slow = Slow()
    with pytest.raises(TransportError, match="no time is left"):
        drive(steps(), slow, 5.0)
    assert slow.allowed == [5.0, 3.0, 1.0]


ANSWER = HEAD + b"Content-Length: 2\r\n\r\n{}"


def test_dead_addresses_before_the_good_one_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, three addresses would take all the time that there is."""
    dead = [f"127.0.0.{last}" for last in (2, 3, 4)]
    with raw_server(ANSWER) as url, ExitStack() as stack:
        port = int(url.rpartition(":")[2].partition("/")[0])
        for address in dead:
            stack.enter_context(silent_address(port, address))
        resolve_to(monkeypatch, *dead, "127.0.0.1")
        assert send(f"http://as.example:{port}/token", 4.0) == 200


def test_of_addresses_that_all_refuse_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    with pytest.raises(TransportError, match=r"127\.0\.0\.2: .*refused; 127\.0\.0\.3: .*refused"):
        send("http://as.example:1/token")


def test_of_addresses_that_are_all_silent_none_holds_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused, ExitStack() as stack:
        port = unused.getsockname()[1]
        for address in ("127.0.0.2", "127.0.0.3"):
            stack.enter_context(silent_address(port, address))
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3")
        with pytest.raises(TransportError, match=r"no connection within 1\.5 s"):
            send(f"http://as.example:{port}/token", 1.5)


def test_a_half_answer_is_a_transport_error() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}") as url, pytest.raises(TransportError):
        send(url, 1.5)


def test_what_is_not_http_is_a_transport_error() -> None:
    with raw_server(b"\x15\x03\x01\x00\x02\x02\x28") as url, pytest.raises(TransportError):
        send(url, 1.5)


def test_an_injected_client_that_was_closed_is_not_tried_again(authorization_server: AuthorizationServer) -> None:
    client = httpx2.Client()
    client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        send(authorization_server.token_endpoint(), transport=Transport(client))


def test_errors_hold_neither_the_request_nor_its_frames() -> None:
    with pytest.raises(TransportError) as caught:
        send("http://127.0.0.1:1/token")
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "very-secret" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize("line", [b"client_secret=very-secret", b"client_secret=very-secret " + b"A" * 100_000])
def test_a_peer_that_echoes_and_speaks_no_http_is_not_quoted(line: bytes) -> None:
    with raw_server(line + b"\r\n\r\n") as url, pytest.raises(TransportError) as caught:
        send(url)
    assert "very-secret" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("url", ["http://[::1]evil.example/token", "https://a.example:port/", "https://[as.example]/"])
def test_a_host_that_no_server_can_have_is_an_error_of_the_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError):
        TokenProvider("me", "secret", token_endpoint=url)


def counting_tls_server(context: ssl.SSLContext, stack: ExitStack) -> tuple[str, list[int]]:
    """A server over TLS, and a number that grows with each connection."""
    connections = [0]

    class Counting(HTTPServer):
        def get_request(self) -> Any:
            connections[0] += 1
            return super().get_request()

        def handle_error(self, *_: object) -> None:
            pass

    server = Counting(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=True)
    stack.enter_context(serving(server))
    return f"https://127.0.0.1:{server.server_address[1]}/token", connections


def test_a_certificate_that_is_not_trusted_is_final_at_once(tmp_path: Path) -> None:
    issue(tmp_path, "itself")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "itself.pem", tmp_path / "itself-key.pem")
    with ExitStack() as stack:
        url, connections = counting_tls_server(context, stack)
        provider = stack.enter_context(TokenProvider("me", "secret", token_endpoint=url, timeout=30))
        with pytest.raises(TransportError) as caught:
            provider.get_token()
        assert connections == [1]
    assert not caught.value.retryable
    assert "the server's certificate is refused" in str(caught.value)
    assert "set ca_file (or SSL_CERT_FILE)" in str(caught.value)
    assert "server is up" not in str(caught.value)


def test_a_certificate_that_python_refuses_since_3_13_is_told_from_one_of_another_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(make: Callable[..., ssl.SSLContext] = ssl.create_default_context, **options: Any) -> ssl.SSLContext:
        context = make(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    issue(tmp_path, "server", issue(tmp_path, "authority", ca=True), names_issuer=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    monkeypatch.setattr(ssl, "create_default_context", strict)
    with ExitStack() as stack:
        url, _ = counting_tls_server(context, stack)
        settings: dict[str, Any] = {"token_endpoint": url, "ca_file": tmp_path / "authority.pem"}
        provider = stack.enter_context(TokenProvider("me", "secret", **settings))
        with pytest.raises(TransportError, match="Missing Authority Key Identifier") as caught:
            provider.get_token()
    assert "RFC 5280" in str(caught.value)
    assert "ca_file" not in str(caught.value)


def test_a_port_that_speaks_no_tls_is_final_at_once(authorization_server: AuthorizationServer) -> None:
    url = authorization_server.token_endpoint().replace("http:", "https:")
    with TokenProvider("me", "secret", token_endpoint=url) as provider, pytest.raises(TransportError) as caught:
        provider.get_token()
    assert "TLS failed (" in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_authorities_that_are_not_there_are_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    endpoint = authorization_server.token_endpoint()
    secure = endpoint.replace("http:", "https:")
    with (
        TokenProvider("demo", "demo-secret", token_endpoint=secure) as provider,
        pytest.raises(ConfigurationError) as caught,
    ):
        provider.get_token()
    assert caught.value.field == variable
    assert str(tmp_path / "gone") in str(caught.value)
    # Without TLS nobody needs them.
    with TokenProvider("demo", "demo-secret", token_endpoint=endpoint) as provider:
        assert provider.get_token()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_loopback_address_is_never_reached_by_a_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch, authorization_server: AuthorizationServer
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    endpoint = authorization_server.token_endpoint().replace("127.0.0.1", host)
    with TokenProvider("demo", "demo-secret", token_endpoint=endpoint) as provider:
        assert provider.get_token()


def test_every_process_of_a_fleet_is_told_of_the_certificate(tmp_path: Path) -> None:
    issue(tmp_path, "itself")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "itself.pem", tmp_path / "itself-key.pem")
    store: dict[str, Any] = {"store": f"sqlite:///{tmp_path}/tokens.sqlite3", "store_timeout": 5.0}
    with ExitStack() as stack:
        url, _ = counting_tls_server(context, stack)
        for _process in range(3):
            provider = stack.enter_context(TokenProvider("me", "secret", token_endpoint=url, timeout=6, **store))
            with pytest.raises(TransportError, match="the server's certificate is refused") as caught:
                provider.get_token()
            assert not caught.value.retryable


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_an_empty_variable_leaves_the_authorities_of_the_platform(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "")
    assert TlsFiles().new_context().cert_store_stats()["x509_ca"] > 0
