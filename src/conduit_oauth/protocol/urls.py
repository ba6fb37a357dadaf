"""What a URL must be like before a credential or a token is sent to it. Pure: nothing is resolved or fetched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError

# In characters; no server takes a longer one.
_LONGEST = 8192
# Parsers disagree about these, and a URL that two parsers read differently is how secrets reach the wrong host.
_AMBIGUOUS = re.compile(r"[^\x21-\x7e]|\\")
# A name or an address of version 4, or one of version 6 in brackets, and a port: urlsplit takes more than that.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.%]++\]|[^\[\]@:/]++)(?::\d*+)?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_url(url: object, field: str) -> SplitResult:
    """Split an absolute http(s) URL, or raise `ConfigurationError` naming `field`."""
    advice = "Give an absolute URL such as https://gateway.example/servers/42/mcp."
    if not isinstance(url, str) or not url:
        raise ConfigurationError(field, "is missing or empty", advice)
    if len(url) > _LONGEST:
        raise ConfigurationError(field, f"is longer than {_LONGEST} characters", advice)
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
    if parts.scheme not in DEFAULT_PORTS or not host:
        raise ConfigurationError(field, "is not an absolute http or https URL", advice)
    if not _AUTHORITY.fullmatch(parts.netloc.rpartition("@")[2]):
        raise ConfigurationError(field, "has a host that no server can have", advice)
    if "@" in parts.netloc:
        raise ConfigurationError(field, "holds user information", "Pass the credential as client_id and client_secret.")
    return parts


def parse_secure_url(url: object, field: str, insecure_hosts: Collection[str] = ()) -> SplitResult:
    """As `parse_url`, and the URL is https, or http on a loopback host (RFC 6749 §3.2, RFC 6750 §5.3).

    `insecure_hosts` are further hosts that may be reached without TLS, by the user's word.
    """
    parts = parse_url(url, field)
    host = parts.hostname or ""
    if parts.scheme == "http" and not is_loopback(host) and host not in insecure_hosts:
        raise ConfigurationError(
            field,
            f"is plain http to {host}",
            "Use https: only a loopback host, and a private one in insecure_hosts, may be reached without TLS.",
        )
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its own words."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Kept for inside (RFC 6761, 6762, 8375), and by custom.
_INSIDE = (".localhost", ".local", ".internal", ".home.arpa", ".svc", ".lan", ".corp", ".home", ".intranet", ".private")
# Addresses that lead to an IPv4 address within them: NAT64 (RFC 6052, RFC 8215).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# What is given out of IPv6 (RFC 4291 §2.4): the rest is for inside, or leads to an IPv4 address by an old form.
_UNICAST = ipaddress.IPv6Network("2000::/3")


def is_private(host: str) -> bool:
    """Whether a host is, by its own words, not on the public network. Names are not resolved."""
    try:
        return not _is_public(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        name = host.rstrip(".").lower()
        last = name.rpartition(".")[2]
        # An address in disguise (127.1, 0x7f000001), one label alone, or a name kept for inside.
        disguised = last.isdigit() or last.startswith("0x")
        return disguised or "." not in name or name.endswith(_INSIDE)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        within = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if within is None and any(address in network for network in _NAT64):
            within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return _is_public(within)
        if address not in _UNICAST:
            return False
    # RFC 6890 §2.2.2 has 192.0.0.0/24 for protocols; parts of it count as global.
    return address.is_global and not address.is_multicast and address not in ipaddress.ip_network("192.0.0.0/24")


def origin_of(parts: SplitResult) -> str:
    """Scheme, host and port (RFC 6454 §4), the port left out where it is the scheme's own."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port
    return f"{parts.scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}")


def canonical_resource(parts: SplitResult) -> str:
    """The resource indicator of a URL: scheme and host in lower case, no fragment (RFC 8707 §2), no lone slash."""
    query = f"?{parts.query}" if parts.query else ""
    return origin_of(parts) + parts.path.rstrip("/") + query


def origins_of_token(
    mcp_url: str | None, resources: Sequence[str] | None, insecure_hosts: Collection[str] = ()
) -> tuple[str, ...]:
    """The origins that a token may be sent to, none where the settings do not tell."""
    if mcp_url is not None:
        return (origin_of(parse_secure_url(mcp_url, "mcp_url", insecure_hosts)),)
    urls = [resource for resource in resources or () if resource.lower().startswith(("http://", "https://"))]
    return tuple(dict.fromkeys(origin_of(parse_url(url, "resource")) for url in urls))
