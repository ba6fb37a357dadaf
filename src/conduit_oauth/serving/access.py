"""Who may use what listens on this machine, the bridge and the agent: nobody whom a browser was tricked into asking for
(DNS rebinding), and, where one is set, nobody without its own bearer token (RFC 6750)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """`hosts` are the names that this server is reached by; None on a Unix socket, where no browser comes."""

    hosts: frozenset[str] | None
    bearer: str | None = field(default=None, repr=False)

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
        if self.bearer is not None:
            given = [value for name, value in headers if name == b"authorization"]
            scheme, _, token = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.bearer.encode()):
                return 401, "this server wants its own bearer token"
        return None


@lru_cache(256)  # each request has one, and nearly always the same
def _host_of(url: bytes) -> str | None:
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:
        return None
