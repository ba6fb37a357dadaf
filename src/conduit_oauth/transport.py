"""Sends one request and reads one bounded answer: the only room of the core that touches the network.

Law: no redirect is followed, no answer grows past `MAX_BYTES`, no attempt outlives its time, and no exception of the
HTTP client leaves here: those carry the request, and the request carries the secret.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import ConfigurationError, TransportError
from .grant import Request, Response
from .tls import ClientCertificate

if TYPE_CHECKING:
    import httpx2

MAX_BYTES = 1 << 20
CONNECT_TIMEOUT = 5.0


class Transport:
    """An HTTP client of our own, or one that the caller injected and keeps the ownership of."""

    __slots__ = ("_certificate", "_client", "_injected", "_lock", "_transport", "_version")

    def __init__(
        self,
        client: httpx2.Client | None = None,
        transport: httpx2.BaseTransport | None = None,
        certificate: ClientCertificate | None = None,
    ) -> None:
        if certificate is not None and (client is not None or transport is not None):
            raise ConfigurationError(
                "client_certificate", "is given beside http_client or transport", "Give it to that client instead."
            )
        if client is not None or transport is not None:
            _check_injected(client, transport)
        self._injected = client
        self._transport = transport
        self._client = client
        self._certificate = certificate
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None

    def in_child(self) -> Transport:
        """The transport of a forked child, which shares no socket with its parent."""
        if self._injected is None and self._transport is None:
            return Transport(certificate=self._certificate)
        return _Inherited()

    def prepare(self) -> None:
        """Load the HTTP client now: where a fleet waits for one process's answer, it should not wait for that."""
        self._current_client()

    def send(self, request: Request, timeout: float) -> Response:
        """The answer to `request`, within about `timeout` seconds. Raises `TransportError`."""
        import httpx2

        client = self._current_client()
        give_up_at = time.monotonic() + timeout
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        # Built here and not by the client, so that an injected client's default headers add no second credential.
        outgoing = httpx2.Request(
            request.method,
            request.url,
            headers={"User-Agent": f"conduit-oauth/{__version__}", "Accept-Encoding": "identity", **request.headers},
            content=request.content or None,
            extensions={"timeout": limits.as_dict()},
        )
        try:
            answer = client.send(outgoing, stream=True, auth=None, follow_redirects=False)
            try:
                content = _read(answer, request.url, give_up_at) if request.reads_body(answer.status_code) else b""
            finally:
                answer.close()
            return Response(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, content)
        except httpx2.TimeoutException:
            problem = f"no whole answer within {timeout:.3g} s"
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        except RuntimeError as error:
            # What httpx2 raises where the client was closed by its owner: no use in trying again.
            raise ConfigurationError("http_client", str(error), "Keep it open while the provider is.") from None
        raise TransportError(request.url, problem)

    def _current_client(self) -> httpx2.Client:
        """Our client, made anew where the certificate's files have changed: a connection keeps what it began with."""
        import httpx2

        # A flight, a wider scope's flight and a question about a token may all come here at once.
        with self._lock:
            if self._certificate is not None and self._version != (version := self._certificate.version()):
                # A request that is under way on the old one fails, and is retried as any broken connection is.
                self.close()
                self._client = httpx2.Client(verify=self._certificate.context())
                self._version = version
            if self._client is None:
                self._client = httpx2.Client(transport=self._transport)
            return self._client

    def close(self) -> None:
        """Close the client if it is ours."""
        if self._injected is None and self._client is not None:
            self._client.close()


class SharedTransport(Transport):
    """One HTTP client, and so one pool of connections per origin, for many providers: none of them closes it."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def in_child(self) -> Transport:
        """This one, with a client of the child's own."""
        if self._process != os.getpid():
            SharedTransport.__init__(self)
        return self

    def close(self) -> None:
        """Nothing: the others still use it."""

    def shut(self) -> None:
        """Close the client, after the last of them."""
        super().close()


def transport_of(
    client: httpx2.Client | SharedTransport | None,
    transport: httpx2.BaseTransport | None,
    certificate: ClientCertificate | None,
) -> Transport:
    """What a provider sends with. A certificate or a transport of its own needs connections of its own."""
    if not isinstance(client, SharedTransport):
        return Transport(client, transport, certificate)
    return client if certificate is None and transport is None else Transport(None, transport, certificate)


def _check_injected(client: object, transport: object) -> None:
    import httpx2

    advice = "Token requests run on a thread of the provider's own, whoever waits for them: inject a synchronous one."
    if client is not None and not isinstance(client, httpx2.Client):
        raise ConfigurationError("http_client", "is not an httpx2.Client", advice)
    if transport is not None and not isinstance(transport, httpx2.BaseTransport):
        raise ConfigurationError("transport", "is not an httpx2.BaseTransport", advice)
    if client is not None and transport is not None:
        raise ConfigurationError("transport", "is given beside http_client", "Give the client that transport instead.")


class _Inherited(Transport):
    """An injected client after a fork: its sockets are the parent's, and we cannot make another of its kind."""

    __slots__ = ()

    def send(self, request: Request, timeout: float) -> Response:
        raise ConfigurationError(
            "http_client", "was injected before this process was forked", "Create the TokenProvider after the fork."
        )


def _read(answer: httpx2.Response, url: str, give_up_at: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in answer.iter_bytes():
        size += len(chunk)
        if size > MAX_BYTES:
            raise TransportError(url, f"the answer is larger than {MAX_BYTES} bytes")
        # The client's own timeout counts from byte to byte: a server that drips would never meet it.
        if time.monotonic() > give_up_at:
            raise TransportError(url, "the answer came too slowly")
        chunks.append(chunk)
    return b"".join(chunks)
