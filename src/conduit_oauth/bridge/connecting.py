"""How the bridge's HTTP client connects: by sockets that notice that a peer is gone, in phases that errors name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp

from ..errors import ConfigurationError
from ..identity.tls import TlsFiles

# Seconds after which a peer that acknowledges nothing is taken for gone, and between two probes of an idle one; how
# often a knock is repeated, which takes some 7 s. Then the name is resolved anew.
_SILENCE, _PROBE, _KNOCKS = 20, 10, 2
# Seconds between two looks at files.
LOOK = 1.0


class CurrentTls:
    """What the token endpoint's client trusts, and presents, as the files of `tls` are now."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._version = tls.version()
        self._context = tls.context()
        self._look_at = time.monotonic() + LOOK

    def context(self) -> ssl.SSLContext:
        """The context for a new connection; the one before, while a file cannot be read."""
        if (now := time.monotonic()) < self._look_at:
            return self._context
        self._look_at = now + LOOK
        with contextlib.suppress(ConfigurationError):
            version = self._tls.version()
            # Of those that present no certificate, `TlsFiles` keeps one itself.
            if self._tls.certificate is None or version != self._version:
                self._context = self._tls.context()
            self._version = version
        return self._context


def phases() -> aiohttp.TraceConfig:
    """What has the journey of each request know its phase; TLS is a part of the connection."""

    def entering(phase: str) -> Callable[..., Awaitable[None]]:
        async def enter(_session: object, context: SimpleNamespace, _said: object) -> None:
            context.trace_request_ctx.enter(phase)

        return enter

    traces = aiohttp.TraceConfig()
    traces.on_dns_resolvehost_start.append(entering("name"))
    traces.on_dns_resolvehost_end.append(entering("connection"))
    traces.on_connection_create_start.append(entering("connection"))
    traces.on_connection_create_end.append(entering("answer"))
    traces.on_connection_reuseconn.append(entering("answer"))
    return traces


def watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices when its peer is gone without a word, as behind a NAT that forgot the connection."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _PROBE),
        ("TCP_KEEPINTVL", _PROBE),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", _SILENCE * 1000),
        ("TCP_SYNCNT", _KNOCKS),
    ):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
