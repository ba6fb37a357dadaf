"""Connections of which no step outlasts one deadline: the HTTP client alone counts its timeout anew at every read.

Invariant: whatever a peer drips or floods, a read, a write or a handshake that has an `Until` ends at its deadline.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

SLOW_HANDSHAKE = "no end of the TLS handshake"


class Until(float):
    """Seconds for one step, and the moment at which the whole exchange ends.

    A float, because the HTTP client hands it on to the socket as the timeout of a step.
    """

    __slots__ = ("deadline",)
    deadline: float

    @classmethod
    def of(cls, seconds: float, deadline: float) -> Until:
        """`seconds` for a step; `deadline` by the monotonic clock."""
        until = cls(seconds)
        until.deadline = deadline
        return until


def bounded(client: httpx2.Client) -> httpx2.Client:
    """`client`, with its connections, those through proxies too, made here."""
    backend = _Backend()
    # httpcore2 takes a backend, and httpx2 has no parameter to hand one on by.
    for transport in (client._transport, *client._mounts.values()):  # pyright: ignore[reportPrivateUsage]
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = backend  # pyright: ignore[reportPrivateUsage]
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
        left = _left(timeout, httpcore2.ConnectTimeout)
        if left is not None and timeout is not None:
            left = min(left, timeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            left = _left(timeout, httpcore2.ConnectTimeout)
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))
        except httpcore2.ConnectTimeout:
            raise httpcore2.ConnectTimeout(SLOW_HANDSHAKE) from None

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None, error: type[httpcore2.TimeoutException]) -> float | None:
    """The timeout of the step that begins now. Raises `error` where the exchange is over."""
    if not isinstance(timeout, Until):
        return timeout
    left = timeout.deadline - time.monotonic()
    if left <= 0:
        raise error("the exchange is over")
    return left
