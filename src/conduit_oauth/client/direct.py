"""Requests to servers that are reached without a proxy, by the HTTP client of the standard library.

It is there in a third of the time that httpx2 takes, which is most of a process's first token.

Invariant: no step outlasts the exchange, and no answer is read beyond a bound. A connection serves one exchange at a
time, and another one only if the answer before was read to its end and nothing came after it.
"""

from __future__ import annotations

import contextlib
import io
import selectors
import socket
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from email import errors
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..identity.tls import TlsFiles
from ..protocol.http import Request
from ..protocol.urls import DEFAULT_PORTS
from .network import Answer, Journey, reach, spare

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Scheme, host, port.
Origin = tuple[str, str, int]

# Seconds that a connection may idle: usual servers keep theirs for 5 s and longer.
_LONGEST_IDLE = 5.0
_MOST_IDLE = 20
# Bytes: of all that comes before a body, and of a body with what frames its chunks.
_LONGEST_HEAD = 1 << 17
_LONGEST_BODY = 1 << 23
_CHUNK = 1 << 16
# What the parser says of headers that are none. It judges bodies, too, which it does not get.
_DEFECTS = (
    errors.FirstHeaderLineIsContinuationDefect,
    errors.MissingHeaderBodySeparatorDefect,
    errors.InvalidHeaderDefect,
)


class Direct:
    """Connections by the origin that they lead to."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        # Those that were used last come last.
        self._idle: list[tuple[Origin, _Connection]] = []
        # What was connected before the last change of it is used no more; nor is what was, before `close`.
        self._version: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def exchange(
        self, request: Request, headers: dict[str, str], journey: Journey, connect: float
    ) -> Generator[Answer]:
        """The answer to `request`. Raises `OSError`, or `HTTPException` for what is not HTTP."""
        parts = urlsplit(request.url)
        origin = parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        if (version := self._tls.version()) != self._version:
            self.close()
            self._version = version
        connection = self._take(origin) or self._connect(origin, journey, connect)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.ask(request, target, {"Host": parts.netloc} | headers, journey)
            yield connection.answer(request.method)
            is_reusable = connection.is_done() and version == self._version
        except BaseException:
            connection.close()
            raise
        if is_reusable:
            self._keep(origin, connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what idles, and later what is in use."""
        with self._lock:
            idle, self._idle, self._version = self._idle, [], None
        for _, connection in idle:
            connection.close()

    def _take(self, origin: Origin) -> _Connection | None:
        while True:
            with self._lock:
                found = next((each for each in reversed(self._idle) if each[0] == origin), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if found[1].is_alive():
                return found[1]
            found[1].close()

    def _keep(self, origin: Origin, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            idle = [*self._idle, (origin, connection)]
            self._idle = [each for each in idle[-_MOST_IDLE:] if each[1].is_fresh()]
            dropped = [each for each in idle if each not in self._idle]
        for _, each in dropped:
            each.close()

    def _connect(self, origin: Origin, journey: Journey, seconds: float) -> _Connection:
        scheme, host, port = origin

        def attempt(address: str, seconds: float | None) -> socket.socket:
            return socket.create_connection((address, port), seconds)

        connected = reach(host, port, min(seconds, journey.left()), attempt, journey)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                context = self._tls.context()
                with contextlib.ExitStack() as kept:
                    journey.enter("TLS", spare(connected, kept))
                    connected.settimeout(journey.left())
                    connected = context.wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise
        return _Connection(connected)


class _Reader(io.BufferedReader):
    def close(self) -> None:
        """Nothing: an answer that was read closes what it was read from, and the connection is for another one."""


class _Connection(io.RawIOBase):
    """What the HTTP client takes for a socket, and reads from."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__()
        self._socket = connected
        self._journey: Journey | None = None
        self._answer: HTTPResponse | None = None
        self._outgoing: list[bytes] = []
        self._reader = _Reader(self)
        # How many bytes more may be read.
        self._left = 0
        self.idle_since = 0.0

    def ask(self, request: Request, target: str, headers: Mapping[str, str], journey: Journey) -> None:
        """Send `request`."""
        self._journey = journey
        self._outgoing.clear()
        client: Any = HTTPConnection("")
        client.sock = self
        client.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            client.putheader(name, value)
        if request.content or request.method == "POST":
            client.putheader("Content-Length", str(len(request.content)))
        client.endheaders(request.content or None)
        left = memoryview(b"".join(self._outgoing))
        try:
            while left:
                left = left[self._step("request").send(left) :]
        except TimeoutError:
            raise
        except OSError:
            # Who refuses a request may have said why without reading it: the answer tells, or the same error again.
            pass

    def answer(self, method: str) -> Answer:
        """The final answer, of which the head is read."""
        self._left = _LONGEST_HEAD
        while True:
            answer = self._answer = HTTPResponse(self, method=method)  # pyright: ignore[reportArgumentType]
            answer.begin()
            if any(isinstance(defect, _DEFECTS) for defect in answer.headers.defects):
                raise HTTPException("a header is none")
            if answer.status >= 200:
                break
        self._left = _LONGEST_BODY
        names = dict.fromkeys(name.lower() for name in answer.headers)
        # RFC 9110 §5.3.
        headers = {name: ", ".join(answer.headers.get_all(name, ())) for name in names}
        _check_framing(answer)
        return Answer(answer.status, headers, self._chunks(answer))

    def _chunks(self, answer: HTTPResponse) -> Iterable[bytes]:
        while chunk := self._read(answer):
            yield chunk
        if answer.length:
            raise HTTPException("the body breaks off")

    def _read(self, answer: HTTPResponse) -> bytes:
        try:
            return answer.read(_CHUNK)
        except ValueError:
            raise HTTPException("the length of a chunk is none") from None

    def is_done(self) -> bool:
        """Whether the answer was read to its end, and another one may come on this connection."""
        self._journey = None
        answer = self._answer
        return answer is not None and answer.isclosed() and not answer.will_close and not self._reader.peek(1)

    def is_fresh(self) -> bool:
        """Whether it idles for so short a time that the server has it still."""
        return time.monotonic() < self.idle_since + _LONGEST_IDLE

    def is_alive(self) -> bool:
        """Whether it may be used: nothing came, and nobody closed it."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                return self.is_fresh() and not selector.select(0)
        except OSError:
            return False

    def sendall(self, data: bytes) -> None:
        """As a socket's; it is sent at once with all the rest."""
        self._outgoing.append(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What answers are read from, as a socket's."""
        return self._reader

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As a file's, within the exchange; after it there is nothing to read."""
        if self._journey is None:
            return 0
        size = self._step("answer").recv_into(memoryview(buffer)[: self._left + 1])
        self._left -= size
        if self._left < 0:
            raise HTTPException("the answer is too long")
        return size

    def close(self) -> None:
        """Close the socket."""
        if self._answer is not None:
            # One that was not read to its end flushes what it is read from, which must be open still.
            self._answer.close()
        self._socket.close()
        super().close()

    def _step(self, phase: str) -> socket.socket:
        assert self._journey is not None  # noqa: S101 - an exchange is under way
        self._journey.enter(phase, self._socket)
        self._socket.settimeout(self._journey.left())
        return self._socket


def _check_framing(answer: HTTPResponse) -> None:
    """Raise `HTTPException` where nobody can say how long the body is (RFC 9112 §6.3)."""
    if "transfer-encoding" in answer.headers:
        if not answer.chunked or len(answer.headers.get_all("transfer-encoding", ())) > 1:
            raise HTTPException("the transfer coding is unknown")
        return
    lengths = set(answer.headers.get_all("content-length", ("0",)))
    if len(lengths) > 1 or not lengths.pop().strip().isdecimal():
        raise HTTPException("the length of the body is none")
