"""Who may use what listens on this machine, the bridge and the agent: nobody whom a browser was tricked into asking for
(DNS rebinding), and, where one is set, nobody without its own bearer token (RFC 6750)."""

from __future__ import annotations

import hmac
import logging
import secrets
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..identity.sources import read_text

logger = logging.getLogger("conduit_oauth")
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts` are the names that this server is reached by; None on a Unix socket, where no browser comes.

    `bearer` is the token that clients must send, or what returns the one of now.
    """

    hosts: frozenset[str] | None
    bearer: str | Callable[[], str] | None = field(default=None, repr=False)

    def refusal(self, headers: RawHeaders) -> tuple[int, str] | None:
        """Status and reason where a request must not be served."""
        if self.hosts is not None:
            names = [_host_of(b"//" + value) for name, value in headers if name == b"host"]
            if len(names) != 1 or names[0] not in self.hosts:
                return 421, "this server is not reached by that Host"
            # RFC 6454: a page at another port of this machine is another origin.
            own = next(value.lower() for name, value in headers if name == b"host")
            if any(
                value.lower() not in (b"http://" + own, b"https://" + own)
                for name, value in headers
                if name == b"origin"
            ):
                return 403, "no page of that Origin may use this server"
            # Browsers say so of requests that have no Origin, too.
            if any(value not in (b"same-origin", b"none") for name, value in headers if name == b"sec-fetch-site"):
                return 403, "no page of another site may use this server"
        if (bearer := self.bearer() if callable(self.bearer) else self.bearer) is not None:
            given = [value for name, value in headers if name == b"authorization"]
            scheme, _, token = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), bearer.encode()):
                return 401, "this server wants its own bearer token"
        return None


@lru_cache(256)  # each request has one, and nearly always the same
def _host_of(url: bytes) -> str | None:
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:
        return None


class LocalToken:
    """The bearer token in a file, read anew where that has changed; while it cannot be read, nobody has it.

    Raises `ConfigurationError` at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._version: tuple[int, int, int] | None = None
        self._version = self._seen()
        self._token = self._read()

    def __call__(self) -> str:
        """The token of now."""
        if (version := self._seen()) != self._version:
            self._version = version
            try:
                self._token = self._read()
            except ConfigurationError as error:
                logger.warning("bearer_unreadable: %s", error)
                self._token = secrets.token_hex()
        return self._token

    def _read(self) -> str:
        return read_text(self._file, "local_token_file").strip()

    def _seen(self) -> tuple[int, int, int] | None:
        """Changes when the file does, or who may read it; never for a pipe, which can be read once only."""
        try:
            status = self._file.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return self._version
        return status.st_ctime_ns, status.st_size, status.st_ino
