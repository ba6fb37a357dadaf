"""Requests by httpx2: through a proxy, and with a client that the caller injected.

Invariant: whatever a peer drips or floods, a read, a write or a handshake that has an `Until` ends at its deadline.
httpx2 alone counts its timeout anew at every read.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Generator, Iterable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore2
import httpx2

from ..protocol.http import Request
from .network import Answer, Journey, reach, spare
from .proxies import Proxy


class Until(float):
    """Seconds for one step, and the exchange that it belongs to.

    A float, because the HTTP client hands it on to the socket as the timeout of a step.
    """

    __slots__ = ("journey",)
    journey: Journey


def limits(journey: Journey, connect: float) -> dict[str, float]:
    """The HTTP client's timeouts, each handed on to a step of `journey`; `connect` is for a connection."""
    seconds = journey.seconds
    step, first = Until(seconds), Until(min(connect, seconds))
    step.journey = first.journey = journey
    return {"connect": first, "read": step, "write": step, "pool": seconds}


def bounded(client: httpx2.Client) -> httpx2.Client:
    """`client`, with its connections, those through proxies too, made here; a backend of its user's own stays."""
    # httpcore2 takes a backend, and httpx2 has no parameter to hand one on by.
    for transport in (client._transport, *client._mounts.values()):  # pyright: ignore[reportPrivateUsage]
        if isinstance(transport, httpx2.HTTPTransport):
            pool = transport._pool  # pyright: ignore[reportPrivateUsage]
            if type(pool._network_backend) is httpcore2.SyncBackend:  # pyright: ignore[reportPrivateUsage]
                pool._network_backend = _Backend()  # pyright: ignore[reportPrivateUsage]
    return client


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        connect = super().connect_tcp

        def attempt(address: str, seconds: float | None) -> httpcore2.NetworkStream:
            try:
                return connect(address, port, seconds, local_address, socket_options)
            except httpcore2.ConnectTimeout as error:
                raise TimeoutError(str(error)) from error
            except httpcore2.ConnectError as error:
                raise OSError(str(error)) from error

        try:
            return _Stream(reach(host, port, timeout, attempt, _journey_of(timeout)))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._connection: socket.socket | None = stream.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        _enter(timeout, "answer", self._connection)
        return self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _enter(timeout, "request", self._connection)
        self._stream.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        with contextlib.ExitStack() as kept:
            _enter(timeout, "TLS", spare(self._connection, kept))
            left = _left(timeout, httpcore2.ConnectTimeout)
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _journey_of(timeout: float | None) -> Journey | None:
    return timeout.journey if isinstance(timeout, Until) else None


def _enter(timeout: float | None, phase: str, connection: socket.socket | None = None) -> None:
    if (journey := _journey_of(timeout)) is not None:
        journey.enter(phase, connection)


def _left(timeout: float | None, kind: type[httpcore2.TimeoutException]) -> float | None:
    """The timeout of the step that begins now. Raises `kind` where no time is left."""
    if (journey := _journey_of(timeout)) is None:
        return timeout
    try:
        return journey.left()
    except TimeoutError as error:
        raise kind(str(error)) from None


class ByHttpx2:
    """What sends by a client of httpx2, which its owner closes."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = bounded(client)

    @contextlib.contextmanager
    def exchange(
        self, request: Request, headers: dict[str, str], journey: Journey, connect: float
    ) -> Generator[Answer]:
        """The answer to `request`. Raises what httpx2 raises."""
        # Built here and not by the client, so that an injected client's default headers add no second credential.
        outgoing = httpx2.Request(
            request.method,
            request.url,
            headers=headers,
            content=request.content or None,
            extensions={"timeout": limits(journey, connect)},
        )
        answer = self._client.send(outgoing, stream=True, auth=None, follow_redirects=False)
        try:
            yield Answer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.iter_bytes())
        finally:
            answer.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


def by_proxy(proxy: Proxy, verify: ssl.SSLContext) -> ByHttpx2:
    """What sends by `proxy`."""
    # Each connection has a thread of its caller's: a limit would only let one server starve another.
    pool = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    # One session at a server would tie the clients together that share these connections.
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    via = proxy.for_httpx2()
    return ByHttpx2(httpx2.Client(verify=verify, limits=pool, proxy=via, cookies=cookies, trust_env=False))
