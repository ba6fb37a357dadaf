"""Sends one request and reads one bounded answer: the only room of the core that touches the network.

Law: no redirect is followed, no answer grows past `MAX_BYTES`, no attempt outlives its time, and no exception of the
HTTP client leaves here: those carry the request, and the request carries the secret.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from ._version import __version__
from .errors import ConfigurationError, TransportError, mask
from .grant import Request, Response
from .tls import ClientCertificate, trusted
from .urls import is_loopback

if TYPE_CHECKING:
    import ssl

    import httpx2

MAX_BYTES = 1 << 20
CONNECT_TIMEOUT = 5.0
# For an HTTP client: no proxy for any URL. Each key replaces one that the environment sets.
_NO_PROXY: dict[str, None] = {"all://": None, "http://": None, "https://": None}
_HEADERS = {"User-Agent": f"conduit-oauth/{__version__}", "Accept-Encoding": "identity"}


class Sender(Protocol):
    """What sends a request."""

    def send(self, request: Request, timeout: float) -> Response:
        """The answer to `request`, within `timeout` seconds. Raises `TransportError`."""
        ...


class Transport:
    """An HTTP client of our own, or one that the caller injected and keeps the ownership of."""

    __slots__ = ("_certificate", "_clients", "_injected", "_lock", "_transport", "_version")

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
        # By whether they go past the environment's proxies.
        self._clients: dict[bool, httpx2.Client] = {}
        self._certificate = certificate
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None

    def in_child(self) -> Transport:
        """The transport of a forked child, which shares no socket with its parent."""
        if self._injected is None and self._transport is None:
            return Transport(certificate=self._certificate)
        return _Inherited()

    def prepare(self, url: str) -> None:
        """Load the HTTP client now: where a fleet waits for one process's answer, it should not wait for that."""
        self._client_for(url)

    def send(self, request: Request, timeout: float) -> Response:
        """The answer to `request`, within `timeout` seconds. Raises `TransportError`."""
        import httpx2

        from .network import SLOW_HANDSHAKE, Until

        client = self._client_for(request.url)
        give_up_at = time.monotonic() + timeout
        connect = min(timeout, CONNECT_TIMEOUT)
        step = Until.of(timeout, give_up_at)
        limits = {"connect": Until.of(connect, give_up_at), "read": step, "write": step, "pool": timeout}
        try:
            # Built here and not by the client, so that an injected client's default headers add no second credential.
            outgoing = httpx2.Request(
                request.method,
                request.url,
                headers={**_HEADERS, **request.headers},
                content=request.content or None,
                extensions={"timeout": limits},
            )
            answer = client.send(outgoing, stream=True, auth=None, follow_redirects=False)
            try:
                content = _read(answer, request.url, give_up_at) if request.reads_body(answer.status_code) else b""
            finally:
                answer.close()
            return Response(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, content)
        except httpx2.InvalidURL:
            raise ConfigurationError("URL", "is none that can be asked", f"Check {request.url}.") from None
        except httpx2.ConnectTimeout as error:
            if str(error) == SLOW_HANDSHAKE:
                failure = TransportError(request.url, f"{SLOW_HANDSHAKE} within {timeout:.3g} s")
            else:
                failure = TransportError(request.url, f"no connection within {connect:.3g} s")
        except httpx2.TimeoutException:
            failure = TransportError(request.url, f"no whole answer within {timeout:.3g} s")
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            failure = failure_of(request.url, error)
        except RuntimeError as error:
            # What httpx2 raises where the client was closed by its owner: no use in trying again.
            raise ConfigurationError("http_client", str(error), "Keep it open while the provider is.") from None
        raise failure

    def _client_for(self, url: str) -> httpx2.Client:
        """Our client for `url`, made anew where the certificate's files have changed: a connection keeps what it had.

        A loopback address has a client of its own: a proxy of the environment is elsewhere, and would reach another.
        """
        if self._injected is not None:
            return self._injected
        import httpx2

        from .network import bounded

        direct = self._transport is None and is_loopback(urlsplit(url).hostname or "")
        # A flight, a wider scope's flight and a question about a token may all come here at once.
        with self._lock:
            if self._certificate is not None and self._version != (version := self._certificate.version()):
                # A request that is under way on the old one fails, and is retried as any broken connection is.
                self.close()
                self._version = version
            if direct not in self._clients:
                if self._transport is not None:
                    client = httpx2.Client(transport=self._transport)
                else:
                    verify = trusted() if self._certificate is None else self._certificate.context()
                    # Each connection has a thread of its caller's: a limit would only let one server starve another.
                    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
                    client = bounded(httpx2.Client(verify=verify, limits=limits, mounts=_NO_PROXY if direct else None))
                self._clients[direct] = client
            return self._clients[direct]

    def close(self) -> None:
        """Close the clients that are ours."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


class Errand:
    """Requests on behalf of one caller, none of which outlasts `seconds` from now."""

    __slots__ = ("_over_at", "_transport")

    def __init__(self, transport: Sender, seconds: float) -> None:
        self._transport = transport
        self._over_at = time.monotonic() + seconds

    def send(self, request: Request, timeout: float) -> Response:
        """As `Transport.send`, in what time is left."""
        left = self._over_at - time.monotonic()
        if left <= 0:
            raise TransportError(request.url, "was not asked: the time is over")
        return self._transport.send(request, min(timeout, left))


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


def failure_of(url: str, error: Exception) -> TransportError:
    """What went wrong with a request, without a word that the peer may have put into it."""
    import ssl

    import httpx2

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    # A connection that is cut in a handshake says nothing of certificates.
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _tls_failure(url, cause)
    if isinstance(error, httpx2.ProtocolError) and not str(error).startswith("Server disconnected"):
        # The client's message quotes what came, and an echo brings the credential back.
        return TransportError(url, "the answer is not HTTP")
    return TransportError(url, mask(f"{type(error).__name__}: {error}".rstrip(": "), ()))


def _tls_failure(url: str, error: ssl.SSLError) -> TransportError:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError(
            url,
            f"the server's certificate is refused ({error.verify_message})",
            "If an authority of your own signed it, let SSL_CERT_FILE name that authority's certificate. "
            "`conduit-oauth doctor` shows the certificate.",
            retryable=False,
        )
    return TransportError(
        url,
        f"TLS failed ({error.reason or 'no reason given'})",
        "Check that the server speaks TLS at this port, and whether it wants a client certificate.",
        retryable=False,
    )


def _read(answer: httpx2.Response, url: str, give_up_at: float) -> bytes:
    import httpx2

    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        # A few bytes can grow to gigabytes, and were not asked for.
        raise TransportError(
            url,
            f"the answer ({answer.status_code}) is compressed, which nobody asked for",
            "Switch compression off for this URL, at the server or at the proxy before it.",
            retryable=answer.status_code >= 500,
        )
    chunks: list[bytes] = []
    size = 0
    for chunk in answer.iter_bytes():
        size += len(chunk)
        if size > MAX_BYTES:
            raise TransportError(url, f"the answer is larger than {MAX_BYTES} bytes")
        # An injected client's timeout counts from byte to byte: a server that drips would never meet it.
        if time.monotonic() > give_up_at:
            raise httpx2.ReadTimeout("the exchange is over")
        chunks.append(chunk)
    return b"".join(chunks)
