from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TransportError
from conduit_oauth.grant import Request
from conduit_oauth.testing import AuthorizationServer
from conduit_oauth.transport import MAX_BYTES, Transport


@contextmanager
def raw_server(*pieces: bytes, apart: float = 0.0) -> Iterator[str]:
    """A socket that answers one request with these bytes, `apart` seconds between them, and then says no more."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
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
        send(url, 0.2)


def test_a_server_that_drips_is_left() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with raw_server(head, *[b"x"] * 1000, apart=0.02) as url, pytest.raises(TransportError, match="too slowly"):
        send(url, 0.3)


def test_a_half_answer_is_a_transport_error() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}") as url, pytest.raises(TransportError):
        send(url, 0.2)


def test_what_is_not_http_is_a_transport_error() -> None:
    with raw_server(b"\x15\x03\x01\x00\x02\x02\x28") as url, pytest.raises(TransportError):
        send(url, 0.5)


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
