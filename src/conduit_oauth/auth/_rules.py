"""What every adapter does alike: where the token may go, and which 401 is about it (RFC 6750 §2.1, §3, §5.3)."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..provider import TokenProvider
from ..urls import origin_of, parse_secure_url


def check_destination(provider: TokenProvider, url: str) -> None:
    """Raise `ConfigurationError` unless the token may be sent to `url`: the provider's origin, over TLS or loopback."""
    origin = origin_of(parse_secure_url(url, "request URL"))
    if provider.origin not in (None, origin):
        raise ConfigurationError(
            "request URL",
            f"is at {origin}, and the token of {provider.name!r} was obtained for {provider.origin}",
            "Use a provider whose mcp_url or resource is at that origin.",
        )


def bearer(token: str) -> str:
    """The value of the Authorization header."""
    return f"Bearer {token}"


def is_rejection(status: int, sent: object, token: str) -> bool:
    """Whether this answer rejects `token`: a 401 to a request that, after any redirects, still carried it."""
    return status == 401 and sent == bearer(token)
