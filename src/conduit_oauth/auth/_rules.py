"""What every adapter does alike: where the token may go, and which 401 is about it (RFC 6750 §2.1, §3, §5.3)."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..provider import TokenProvider
from ..urls import origin_of, parse_secure_url


class Destinations:
    """The origins that a provider's token may be sent to. Each is judged once, as the HTTP client itself read it."""

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._judged: set[tuple[str, str]] = set()

    def check(self, scheme: str, authority: str) -> None:
        """Raise `ConfigurationError` unless the token may go there: the provider's origin, over TLS or loopback."""
        destination = scheme, authority
        if destination in self._judged:
            return
        origin = origin_of(parse_secure_url(f"{scheme}://{authority}", "request URL"))
        if self._provider.origin not in (None, origin):
            raise ConfigurationError(
                "request URL",
                f"is at {origin}, and the token of {self._provider.name!r} was obtained for {self._provider.origin}",
                "Use a provider whose mcp_url or resource is at that origin.",
            )
        # A crawler's worth of origins would grow without bound; a service has a handful.
        if len(self._judged) < 256:
            self._judged.add(destination)


def bearer(token: str) -> str:
    """The value of the Authorization header."""
    return f"Bearer {token}"


def is_rejection(status: int, sent: object, token: str) -> bool:
    """Whether this answer rejects `token`: a 401 to a request that, after any redirects, still carried it."""
    return status == 401 and sent == bearer(token)
