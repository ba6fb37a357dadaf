"""Requests without a proxy: which connections serve again, and what of an answer is taken."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth import ConfigurationError, TransportError
from conduit_oauth.client import direct
from conduit_oauth.client.transport import MAX_BYTES, Transport
from conduit_oauth.identity.tls import TlsFiles
from conduit_oauth.protocol.http import Request, Response
from tests.certificates import issue
from tests.conftest import FakeClock

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = [CHUNKED, b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.0 204 No\r\n", b"\r\n", b"2\r\n"]
PIECES += [b"Content-Length:", b"Transfer-Encoding:", b"-2\r\n", b"f" * 20, b"ok\r\n", b"0\r\n\r\n", b";", b" ", b"\0"]
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of what it is told, byte by byte as it stands."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/token"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while request := self._request(connection):
                self.requests.append(request)
                answer = self.answers.pop(0)
                with contextlib.suppress(OSError):  # the client had enough
                    connection.sendall(answer.removesuffix(b"<close>"))
                if answer.endswith(b"<close>"):
                    break
        self.closed.release()

    def _request(self, connection: socket.socket) -> bytes:
        taken = b""
        while not (head := taken.partition(b"\r\n\r\n"))[1] or len(head[2]) < 3 * (b"Content-Length: 3" in head[0]):
            try:
                more = connection.recv(65536)
            except OSError:
                return b""
            if not more:
                return b""
            taken += more
        return taken

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve(*answers: bytes) -> Server:
            server = Server(*answers)
            stack.callback(server.close)
            return server

        yield serve


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport()
    yield transport
    transport.close()


def ask(transport: Transport, server: Server, method: str = "POST", **options: Any) -> Response:
    content = b"x=1" if method == "POST" else b""
    return transport.send(Request(method, server.url, {}, content, **options), 10.0)


class TestConnections:
    def test_one_serves_again(self, serve: Serve, transport: Transport) -> None:
        server = serve(PLAIN, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", PLAIN)
        assert [ask(transport, server).content for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 1

    def test_two_requests_at_once_have_one_each(self, serve: Serve, transport: Transport) -> None:
        held, release = threading.Event(), threading.Event()

        class Held(list[bytes]):
            def pop(self, place: Any = -1) -> bytes:
                if not held.is_set():
                    held.set()
                    assert release.wait(10)
                return super().pop(place)

        server = serve()
        server.answers = Held([PLAIN, PLAIN])
        first = threading.Thread(target=ask, args=(transport, server))
        first.start()
        assert held.wait(10)
        assert ask(transport, server).content == b"ok"
        release.set()
        first.join()
        assert server.connections == 2

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\n\r\nok<close>",
            # Another answer that nobody asked for: it would be taken for that to the next request.
            PLAIN + PLAIN,
            PLAIN + b"x",
        ],
    )
    def test_one_that_may_be_out_of_step_does_not(self, serve: Serve, transport: Transport, answer: bytes) -> None:
        server = serve(answer, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
        assert ask(transport, server).content == b"ok"
        assert ask(transport, server).content == b"next"
        assert server.connections == 2

    def test_one_whose_answer_was_not_read_does_not(self, serve: Serve, transport: Transport) -> None:
        server = serve(PLAIN, PLAIN)
        assert ask(transport, server, reads="head").content == b""
        assert ask(transport, server).content == b"ok"
        assert server.connections == 2

    def test_an_answer_that_was_not_read_is_closed_before_its_connection(
        self, serve: Serve, transport: Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Later it has nothing to flush: Python 3.13 complains of that, on standard error."""
        left: list[bool] = []

        class Watched(direct.HTTPResponse):
            def flush(self) -> None:
                left.append(self.fp is not None and self.fp.closed)
                super().flush()

        monkeypatch.setattr(direct, "HTTPResponse", Watched)
        ask(transport, serve(PLAIN), reads="head")
        gc.collect()
        assert left
        assert not any(left)

    def test_one_that_the_server_closed_does_not(self, serve: Serve, transport: Transport) -> None:
        server = serve(PLAIN + b"<close>", PLAIN)
        assert ask(transport, server).content == b"ok"
        assert server.closed.acquire(timeout=10)
        assert ask(transport, server).content == b"ok"

    def test_one_that_idled_for_long_does_not(
        self, serve: Serve, transport: Transport, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve(PLAIN, PLAIN, PLAIN)
        ask(transport, server)
        ask(transport, server)
        assert server.connections == 1
        monkeypatch.setattr(direct.time, "monotonic", lambda now=direct.time.monotonic: now() + 5.0)
        ask(transport, server)
        assert server.connections == 2

    def test_few_are_kept(self, serve: Serve, transport: Transport) -> None:
        servers = [serve(PLAIN) for _ in range(25)]
        for server in servers:
            ask(transport, server)
        assert transport._direct is not None
        assert len(transport._direct._idle) == 20
        # The oldest goes first.
        assert servers[0].closed.acquire(timeout=10)
        assert not servers[-1].closed.acquire(blocking=False)

    def test_one_that_is_taken_while_another_is_put_back_stays_open(self, serve: Serve, transport: Transport) -> None:
        one, other = serve(PLAIN), serve(PLAIN)
        ask(transport, one)
        pool: Any = transport._direct
        ((origin, _),) = pool._idle
        taken: list[Any] = []

        class Lock:
            """Another thread gets the processor when it is let go."""

            def __enter__(self) -> None: ...

            def __exit__(self, *_: object) -> None:
                if len(pool._idle) == 2 and not taken:
                    taken.append(pool._take(origin))

        pool._lock = Lock()
        ask(transport, other)
        assert taken[0].is_alive()
        taken[0].close()

    def test_none_is_kept_after_the_end(self, serve: Serve, transport: Transport) -> None:
        server = serve(PLAIN)
        ask(transport, server)
        transport.close()
        assert server.closed.acquire(timeout=10)

    def test_none_that_was_in_use_at_the_end_is_kept(self, serve: Serve, transport: Transport) -> None:
        asked, closed = threading.Event(), threading.Event()

        class Held(list[bytes]):
            def pop(self, place: Any = -1) -> bytes:
                asked.set()
                assert closed.wait(10)
                return super().pop(place)

        server = serve()
        server.answers = Held([PLAIN])
        request = threading.Thread(target=ask, args=(transport, server))
        request.start()
        assert asked.wait(10)
        transport.close()
        closed.set()
        request.join()
        assert server.closed.acquire(timeout=10)

    def test_none_outlives_a_change_of_what_is_trusted(self, serve: Serve, tmp_path: Path) -> None:
        issue(tmp_path, "authority", ca=True)
        file = tmp_path / "authority.pem"
        transport = Transport(tls=TlsFiles(authorities=file))
        server = serve(PLAIN, PLAIN)
        ask(transport, server)
        os.utime(file, ns=(1, 1))
        ask(transport, server)
        assert server.connections == 2
        transport.close()


class TestAnswers:
    def test_hints_before_the_answer_are_read_over(self, serve: Serve, transport: Transport) -> None:
        hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        assert ask(transport, serve(hints + PLAIN)).content == b"ok"

    def test_a_field_that_comes_twice_is_one_list(self, serve: Serve, transport: Transport) -> None:
        head = (
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nwww-authenticate: DPoP\r\nContent-Length: 0\r\n"
        )
        answer = ask(transport, serve(head + b"\r\n"))
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Basic, DPoP"

    def test_a_refusal_that_comes_before_the_request_was_taken_is_heard(
        self, serve: Serve, transport: Transport
    ) -> None:
        server = serve(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n<close>")
        server._request = lambda connection: connection.recv(16)  # type: ignore[method-assign]
        # More than the buffers of both sides take: the client is at it when the server closes.
        assert transport.send(Request("POST", server.url, {}, b"x" * (1 << 24)), 10.0).status == 413

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok<close>",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nok<close>",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsize\r\nok<close>",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n-5\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\n folded: first\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 two hundred\r\n\r\n<close>",
            b"SSH-2.0-OpenSSH_9.6\r\n<close>",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n<close>",
            b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 101 + b"\r\n<close>",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + b"<close>",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 70_000 + b"\r\nx\r\n<close>",
        ],
    )
    def test_what_is_not_http_is_said_to_be_none(self, serve: Serve, transport: Transport, answer: bytes) -> None:
        with pytest.raises(TransportError, match="is not HTTP"):
            ask(transport, serve(answer))

    @given(data=st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=12).map(b"".join))
    def test_whatever_comes_is_an_answer_or_an_error(self, data: bytes) -> None:
        transport = Transport()
        with closing(transport), closing(Server(data + b"<close>")) as server, contextlib.suppress(TransportError):
            assert ask(transport, server).status >= 200

    @pytest.mark.parametrize("frame", ["length", "end", "chunks"])
    def test_no_body_is_endless(self, serve: Serve, transport: Transport, frame: str) -> None:
        size = MAX_BYTES + 1
        head, body = {
            "length": (b"Content-Length: %d" % size, b"x" * size),
            "end": (b"X: y", b"x" * size + b"<close>"),
            "chunks": (b"Transfer-Encoding: chunked", b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"),
        }[frame]
        with pytest.raises(TransportError, match=f"larger than {MAX_BYTES}"):
            ask(transport, serve(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body))

    def test_a_body_in_tiny_chunks_is_read_within_a_bound(self, serve: Serve, transport: Transport) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = ask(transport, serve(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"))
        assert len(answer.content) == 100_000
        with pytest.raises(TransportError):
            ask(transport, serve(head + (b"1;" + b"y" * 60_000 + b"\r\nx\r\n") * 200 + b"<close>"))


class TestRequests:
    def test_they_say_what_they_are(self, serve: Serve, transport: Transport) -> None:
        server = serve(PLAIN, PLAIN)
        ask(transport, server)
        ask(transport, server, "GET")
        post, get = (request.decode().lower().split("\r\n") for request in server.requests)
        host = server.url.removeprefix("http://").removesuffix("/token")
        assert post[0] == "post /token http/1.1"
        assert {f"host: {host}", "content-length: 3", "accept-encoding: identity"} < set(post)
        assert get[0] == "get /token http/1.1"
        assert not any(line.startswith("content-length") for line in get)

    @pytest.mark.parametrize("path", ["a b", "\u00e4"])
    def test_a_url_that_cannot_be_asked_is_said_to_be_none(self, serve: Serve, transport: Transport, path: str) -> None:
        with pytest.raises(ConfigurationError, match="can be asked"):
            transport.send(Request("GET", f"{serve().url}/{path}", {}), 5.0)
