"""Sends one request and reads one bounded answer: the only room of the core that touches the network.

Invariant: No redirect is followed, no answer is larger than `MAX_BYTES`, and no attempt outlives its time. No
exception of the HTTP client leaves this module, because it carries the request, and the request carries the secret.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from .._version import __version__
from ..errors import ConfigurationError, TransportError, without_query
from ..identity.tls import TlsFiles
from ..masking import mask
from ..protocol.http import Request, Response
from ..runtime.process import tell_end_of_thread, undisturbed
from .failures import failure_of, kinds
from .network import Answer, Journey
from .proxies import Proxy, proxy_for

if TYPE_CHECKING:
    import httpx2

    from .by_httpx2 import ByHttpx2
    from .direct import Direct

logger = logging.getLogger("conduit_oauth")
MAX_BYTES = 1 << 20
CONNECT_TIMEOUT = 5.0
_PLATFORM = TlsFiles()
_HEADERS = {"User-Agent": f"conduit-oauth/{__version__}", "Accept-Encoding": "identity"}


def tell_request(method: str, url: str, status: int, began: float) -> None:
    """Log a request that was answered, for who traces them."""
    if logger.isEnabledFor(logging.DEBUG):
        where = mask(without_query(url), ())
        logger.debug("request_answered %s %s: %d in %.3f s", method, where, status, time.monotonic() - began)


class Sender(Protocol):
    """What sends a request."""

    def send(self, request: Request, timeout: float) -> Response:
        """The answer to `request`, within `timeout` seconds. Raises `TransportError`."""
        ...


@functools.cache
def _load() -> None:
    """Import what a request may need, so that none of it is imported while a request is under way."""
    with undisturbed():
        for module in (
            "conduit_oauth.client.direct",
            *("encodings.idna", "encodings.utf_8_sig", "email.utils", "base64", "html"),
        ):
            import_module(module)


class Transport:
    """Our own connections, or a client that the caller injected and keeps the ownership of."""

    __slots__ = ("_by_proxy", "_direct", "_injected", "_is_ours", "_lock", "_version", "tls")

    def __init__(
        self,
        client: httpx2.Client | None = None,
        transport: httpx2.BaseTransport | None = None,
        tls: TlsFiles = _PLATFORM,
    ) -> None:
        if tls.is_set and (client is not None or transport is not None):
            raise ConfigurationError(
                "client_certificate" if tls.certificate else "ca_file",
                "is given beside http_client or transport",
                "Give it to that client instead.",
            )
        self._is_ours = client is None
        self._injected: ByHttpx2 | None = None
        if client is not None or transport is not None:
            _check_injected(client, transport)
            import httpx2

            from .by_httpx2 import ByHttpx2

            self._injected = ByHttpx2(httpx2.Client(transport=transport) if client is None else client)
        self.tls = tls
        self._lock = threading.Lock()
        self._direct: Direct | None = None
        # Made anew where the files of TLS changed: a connection keeps what it had.
        self._by_proxy: dict[Proxy, ByHttpx2] = {}
        self._version: tuple[int, ...] | None = None

    def in_child(self) -> Transport:
        """The transport of a forked child, which shares no socket with its parent."""
        return Transport(tls=self.tls) if self._injected is None else _Inherited()

    def prepare(self, url: str) -> None:
        """Load the HTTP client now: where a fleet waits for one process's answer, it should not wait for that."""
        _load()
        self._way(self._proxy_for(url))
        if self._injected is None and url.startswith("https:"):
            self.tls.context()

    def send(self, request: Request, timeout: float) -> Response:
        """The answer to `request`, within `timeout` seconds. Raises `TransportError`."""
        _load()
        tell_end_of_thread()
        from http.client import HTTPException, InvalidURL

        proxy = self._proxy_for(request.url)
        way = self._way(proxy)
        journey = Journey(timeout, 0 if proxy is None else proxy.handshakes(request.url))
        _under_way[thread := threading.get_ident()] = journey
        try:
            began = time.monotonic()
            with way.exchange(request, {**_HEADERS, **request.headers}, journey, CONNECT_TIMEOUT) as answer:
                content = _read(answer, request.url, journey.deadline) if request.reads_body(answer.status) else b""
            tell_request(request.method, request.url, answer.status, began)
            return Response(answer.status, answer.headers, content)
        except (InvalidURL, UnicodeError, *kinds("InvalidURL")):
            where = without_query(request.url)
            raise ConfigurationError("URL", "is none that can be asked", f"Check {where}.") from None
        except (HTTPException, OSError, *kinds("HTTPError", "StreamError")) as error:
            failure = failure_of(request.url, error, journey, proxy)
        except RuntimeError as error:
            # What httpx2 raises where the client was closed by its owner: no use in trying again.
            raise ConfigurationError("http_client", str(error), "Keep it open while the provider is.") from None
        finally:
            _under_way.pop(thread, None)
        raise failure

    def _proxy_for(self, url: str) -> Proxy | None:
        """The proxy for `url`; what was injected goes by proxies of its own."""
        return proxy_for(url) if self._injected is None else None

    def _way(self, proxy: Proxy | None) -> ByHttpx2 | Direct:
        """What sends by `proxy`, or without one."""
        if self._injected is not None:
            return self._injected
        # A flight, a wider scope's flight and a question about a token may all come here at once.
        with self._lock:
            if proxy is None:
                from .direct import Direct

                self._direct = self._direct or Direct(self.tls)
                return self._direct
            if self._version != (version := self.tls.version()):
                # A request that is under way on the old one fails, and is retried as any broken connection is.
                self._close_proxies()
                self._version = version
            if proxy not in self._by_proxy:
                with undisturbed():
                    from .by_httpx2 import by_proxy

                    self._by_proxy[proxy] = by_proxy(proxy, self.tls.context())
            return self._by_proxy[proxy]

    def _close_proxies(self) -> None:
        # One that a flight makes meanwhile is not among them.
        ways, self._by_proxy = self._by_proxy, {}
        for way in ways.values():
            way.close()

    def close(self) -> None:
        """Close the connections that are ours."""
        if self._injected is not None and self._is_ours:
            self._injected.close()
        if self._direct is not None:
            self._direct.close()
        self._close_proxies()


# The exchange that each thread is at.
_under_way: dict[int, Journey] = {}


class Errand:
    """Requests on behalf of one caller, none of which outlasts `seconds` from now."""

    __slots__ = ("_over_at", "_thread", "_transport")

    def __init__(self, transport: Sender, seconds: float) -> None:
        self._transport = transport
        self._over_at = time.monotonic() + seconds
        self._thread = threading.get_ident()

    def cut(self) -> None:
        """End the request that is under way, and send none any more."""
        self._over_at = -math.inf
        if (journey := _under_way.get(self._thread)) is not None:
            journey.cut()

    @property
    def is_unreached(self) -> bool:
        """Whether there is no connection to cut yet, only one that is being made."""
        return self.phase in ("name", "connection")

    @property
    def phase(self) -> str:
        """What the request that is under way waits for, empty where there is none."""
        journey = _under_way.get(self._thread)
        return "" if journey is None else journey.phase

    def send(self, request: Request, timeout: float) -> Response:
        """As `Transport.send`, in what time is left."""
        left = self._over_at - time.monotonic()
        if left <= 0:
            raise TransportError(request.url, "was not asked: no time is left")
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
    tls: TlsFiles,
) -> Transport:
    """What a provider sends with. A transport or TLS of its own needs connections of its own."""
    if not isinstance(client, SharedTransport):
        return Transport(client, transport, tls)
    return Transport(None, transport, tls) if tls.is_set or transport is not None else client


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


def _read(answer: Answer, url: str, give_up_at: float) -> bytes:
    if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
        # A few bytes can grow to gigabytes, and were not asked for.
        raise TransportError(
            url,
            f"the answer ({answer.status}) is compressed, which nobody asked for",
            "Switch compression off for this URL, at the server or at the proxy before it.",
            retryable=answer.status >= 500,
        )
    content = bytearray()
    for chunk in answer.chunks:
        content += chunk
        if len(content) > MAX_BYTES:
            raise TransportError(url, f"the answer is larger than {MAX_BYTES} bytes")
        # An injected client's timeout counts from byte to byte: a server that drips would never meet it.
        if time.monotonic() > give_up_at:
            raise TimeoutError("the time of the exchange has ended")
    return bytes(content)
