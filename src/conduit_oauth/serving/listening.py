"""Listening on this machine: on loopback or a Unix socket unless told otherwise, and saying when signals are heeded.

Needs uvicorn (extras `agent`, `bridge`, `dev`).
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import uvicorn

from ..errors import ConfigurationError
from .access import LOOPBACK_NAMES, Access

if TYPE_CHECKING:
    # Both of uvicorn's protocols have what is used here.
    from uvicorn.protocols.http.h11_impl import H11Protocol as AutoHTTPProtocol
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

# Seconds for the head of a request, after those that uvicorn lets a connection be idle between two.
_HEAD_LIMIT = 10.0
_MOST_CONNECTIONS = 4096
# How many connections asyncio accepts before it lets one be closed.
_BACKLOG = 64
# Descriptors that connections leave alone.
_RESERVE = 2 * _BACKLOG + 32
_PRIVATE = 0o600
_ADVICE = "Write HOST:PORT, [::1]:PORT or unix:/path."

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and a port, or the path of a Unix socket, with its mode and group (-1: as it comes)."""

    host: str = ""
    port: int = 0
    path: Path | None = None
    mode: int = _PRIVATE
    gid: int = -1

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        return self.path is not None or self.host in LOOPBACK_NAMES

    def url(self, port: int) -> str:
        """The base URL of a server there, at `port`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"


def parse_address(text: str) -> Address:
    """Read HOST:PORT, [::1]:PORT or unix:/path. Raises `ConfigurationError`."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ConfigurationError("listen", "names no path", _ADVICE)
        return Address(path=Path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ConfigurationError("listen", f"{text!r} is no address", _ADVICE)
    return Address(host.removeprefix("[").removesuffix("]").lower(), int(port))


def access_of(
    address: Address, bearer: str | Callable[[], str] | None, names: Iterable[str], *, expose: bool
) -> Access:
    """Who may use a server there. Raises `ConfigurationError` for one that other machines reach unasked."""
    if not address.is_private and not expose:
        raise ConfigurationError(
            "listen",
            f"{address.host} is reached by other machines",
            "Listen on 127.0.0.1, or pass --expose (in a file: expose = true).",
        )
    own = {host_name(name, "allow_host") for name in names}
    return Access(None if address.path is not None else LOOPBACK_NAMES | own | {address.host}, bearer)


def host_name(name: str, field: str) -> str:
    """The name of a host as it is compared; an address of version 6 may have its brackets.

    Raises `ConfigurationError` naming `field`.
    """
    bare = name.lower().removeprefix("[").removesuffix("]")
    try:
        is_host = urlsplit(f"//[{bare}]" if ":" in bare else f"//{bare}").hostname == bare
    except ValueError:
        is_host = False
    if not is_host:
        raise ConfigurationError(field, f"{name!r} is no name of a host", "Write it without scheme and port.")
    return bare


class _Bounded(AutoHTTPProtocol):
    """A connection with a bounded time for the head of each request; one too many is closed at once."""

    most = 0
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._slow = self.loop.call_later(_HEAD_LIMIT, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            self._stop_timer()
        elif self._slow is None:
            self._slow = self.loop.call_later(_HEAD_LIMIT, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


def _most_connections() -> int:
    """How many connections leave descriptors for tokens: each may need another one, to the gateway."""
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows, which has no such limit
        return _MOST_CONNECTIONS
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(hard if hard != resource.RLIM_INFINITY else sys.maxsize, 2 * _MOST_CONNECTIONS + _RESERVE)
    soft = max(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(8, min(_MOST_CONNECTIONS, (soft - _RESERVE) // 2))


class AnnouncingServer(uvicorn.Server):
    """Calls `on_ready` once it is up."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


async def serve(app: Application, addresses: Sequence[Address], on_ready: Callable[[list[str]], object]) -> None:
    """Serve `app` until SIGTERM, or SIGINT, which ends in `KeyboardInterrupt`; `on_ready` is told the base URLs.

    Raises `ConfigurationError`.
    """
    listeners = [_listen(address) for address in addresses]
    # Another server may put its own socket there before this one ends.
    ours = {address.path: _identity(address.path) for address in addresses if address.path is not None}
    _Bounded.most = _most_connections()
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType] - uvicorn's own types name every key of each message
        http=_Bounded,
        backlog=_BACKLOG,
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )

    def ready() -> None:
        # What was loaded until now stays: a collection that walks all of it is a pause of 10 ms for whoever calls.
        gc.collect()
        gc.freeze()
        on_ready([where for _, where in listeners])

    server = AnnouncingServer(config, ready)
    # uvicorn ends in order, and then lets the signal have its way again.
    signal.signal(signal.SIGTERM, _end_without_complaint)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        await server.serve(sockets=[listener for listener, _ in listeners])
    finally:
        for path, identity in ours.items():
            if identity is not None and _identity(path) == identity:
                path.unlink(missing_ok=True)


def _end_without_complaint(number: int, frame: object) -> None:
    pass


def _listen(address: Address) -> tuple[socket.socket, str]:
    try:
        if address.path is None:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.create_server((address.host, address.port), family=family)
            return listener, address.url(listener.getsockname()[1])
        _remove_stale(address.path)
        listener = socket.socket(socket.AF_UNIX)
        # By the umask, and no link is followed: whoever owns the folder can put another file in the socket's place.
        before = os.umask(0o777 & ~address.mode)
        try:
            listener.bind(str(address.path))
        finally:
            os.umask(before)
        if address.gid != -1:
            os.chown(address.path, -1, address.gid, follow_symlinks=False)
        # Nobody is connected before this. At once: one that does not listen would be taken for what a killed server
        # left.
        listener.listen()
        return listener, f"unix:{address.path}"
    except OSError as error:
        # A path that is too long for a socket has no strerror.
        said = error.strerror or str(error)
        place = address.path or f"{address.host}:{address.port}"
        raise ConfigurationError("listen", f"{place}: {said}", "Choose another.") from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    """Take away the socket of a server that was killed; not that of one that lives, and no other file."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        # One that has no room for us lives, too.
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()
