"""Connections of redis-py whose answers end, and whose TLS is set up once: what redis-py leaves open to a bad server.

Invariant: An answer has a largest size. It arrives within the time limit of the socket, counted from its first byte.
"""

from __future__ import annotations

import errno
import math
import socket
import ssl
from pathlib import Path
from typing import Any, cast

from redis.connection import Connection, SSLConnection
from redis.sentinel import SentinelManagedConnection

from ..clock import elapsed
from ..runtime.process import undisturbed
from .row import LONGEST_VALUE


class _Measured:
    """A socket as redis-py uses one, with an end to each answer."""

    def __init__(self, inner: socket.socket, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Allow an answer more."""
        self._left = LONGEST_VALUE
        self._over_at: float | None = None

    def recv(self, *arguments: int) -> bytes:
        data = self._inner.recv(*arguments)
        self._count(len(data))
        return data

    def recv_into(self, buffer: bytearray, *arguments: int) -> int:
        size = self._inner.recv_into(buffer, *arguments)
        self._count(size)
        return size

    def _count(self, size: int) -> None:
        now = elapsed()
        if self._over_at is None:
            self._over_at = now + self._seconds
        self._left -= size
        if self._left < 0:
            raise OSError(errno.EMSGSIZE, f"an answer of more than {LONGEST_VALUE} bytes")
        if now > self._over_at:
            raise OSError(errno.ETIMEDOUT, f"an answer that is not whole after {self._seconds:.2g} s")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class StoreConnection(Connection):
    """A connection whose answers end."""

    def _connect(self) -> Any:
        return _Measured(cast("Any", super())._connect(), self.socket_timeout or math.inf)

    def read_response(self, *arguments: Any, **how: Any) -> Any:
        """As redis-py's."""
        self._begin()
        return cast("Any", super()).read_response(*arguments, **how)

    def can_read(self, timeout: float = 0) -> bool:
        """As redis-py's."""
        self._begin()
        return cast("Any", super()).can_read(timeout)

    def _begin(self) -> None:
        if isinstance(self._sock, _Measured):
            self._sock.begin()


# The contexts of this process's connections, by the settings that they are made of, with the times of their files.
_contexts: dict[tuple[str, ...], tuple[list[int], ssl.SSLContext]] = {}
_FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_ca_path")


class SecureConnection(StoreConnection, SSLConnection):
    """A connection with TLS: all of a process share the context, which redis-py makes for each, in 25 ms."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {name: value for name, value in sorted(settings.items()) if name.startswith("ssl_")}
        cast("Any", super()).__init__(**settings)

    def context(self) -> ssl.SSLContext:
        """The context, made anew when a file of it changed. Raises `OSError` for files that cannot be used."""
        named = [Path(file) for name in _FILES if (file := self._settings.get(name)) is not None]
        version = [file.stat().st_mtime_ns for file in named]
        made_of = tuple(f"{name}={value}" for name, value in self._settings.items())
        before, context = _contexts.get(made_of, (None, None))
        if context is None or before != version:
            # A socket that is not connected asks for no handshake.
            with undisturbed(), socket.socket() as idle, self._wrapped(idle) as secured:
                context = secured.context
            _contexts[made_of] = version, context
        return context

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        if self.ssl_validate_ocsp or self.ssl_validate_ocsp_stapled:
            return self._wrapped(sock)
        return self.context().wrap_socket(sock, server_hostname=self.host)

    def _wrapped(self, sock: socket.socket) -> ssl.SSLSocket:
        return cast("Any", super())._wrap_socket_with_ssl(sock)


class MasterConnection(SentinelManagedConnection, StoreConnection):
    """A connection to whichever server the Sentinels call the master."""


class SecureMasterConnection(SentinelManagedConnection, SecureConnection):
    """The same with TLS."""
