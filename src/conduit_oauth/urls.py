"""What a URL must be like before a credential or a token is sent to it. Pure: nothing is resolved or fetched."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from .errors import ConfigurationError

# Parsers disagree about these, and a URL that two parsers read differently is how secrets reach the wrong host.
_AMBIGUOUS = re.compile(r"[^\x21-\x7e]|\\")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_url(url: object, field: str) -> SplitResult:
    """Split an absolute http(s) URL, or raise `ConfigurationError` naming `field`."""
    advice = "Give an absolute URL such as https://gateway.example/servers/42/mcp."
    if not isinstance(url, str) or not url:
        raise ConfigurationError(field, "is missing or empty", advice)
    if _AMBIGUOUS.search(url):
        raise ConfigurationError(
            field,
            "has a space, control character, backslash or non-ASCII character",
            "Percent-encode the path, and write an international host name in its xn-- form.",
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(field, f"is not a URL ({error})", advice) from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ConfigurationError(field, "is not an absolute http or https URL", advice)
    if "@" in parts.netloc:
        raise ConfigurationError(field, "holds user information", "Pass the credential as client_id and client_secret.")
    return parts


def parse_secure_url(url: object, field: str) -> SplitResult:
    """As `parse_url`, and the URL is https, or http on a loopback host (RFC 6749 §3.2, RFC 6750 §5.3)."""
    parts = parse_url(url, field)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            field, f"is plain http to {parts.hostname}", "Use https: only a loopback host may be reached without TLS."
        )
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_private(host: str) -> bool:
    """Whether a host is, by its own words, not on the public network. Names are not resolved."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        name = host.rstrip(".").lower()
        last = name.rpartition(".")[2]
        # An address in disguise (127.1, 0x7f000001), one label alone, or a name kept for inside (RFC 6761, 6762, 8375).
        disguised = last.isdigit() or last.startswith("0x")
        return disguised or "." not in name or name.endswith((".localhost", ".local", ".internal", ".home.arpa"))


def origin_of(parts: SplitResult) -> str:
    """Scheme, host and port (RFC 6454 §4), the port left out where it is the scheme's own."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


def canonical_resource(parts: SplitResult) -> str:
    """The resource indicator of a URL: scheme and host in lower case, no fragment (RFC 8707 §2), no lone slash."""
    query = f"?{parts.query}" if parts.query else ""
    return origin_of(parts) + parts.path.rstrip("/") + query
