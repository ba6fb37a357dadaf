"""Which proxy a request goes by: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, read as httpx2 reads them.

Invariant: each request of ours asks here, so that what works in one command works in all. A loopback address is never
reached by a proxy: its loopback is another machine's.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError
from ..protocol.urls import DEFAULT_PORTS, is_loopback
from ..runtime.process import undisturbed

if TYPE_CHECKING:
    import httpx2

_SOCKS = ("socks5", "socks5h")
_ADVICE = "Write http://host:port, or unset it."
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+)://")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9._\-]++)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it. Its user and password stay out of the repr."""

    url: str
    variable: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def speaks_http(self) -> bool:
        """Whether it is an HTTP proxy, not a SOCKS one."""
        return not self.url.startswith(_SOCKS)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 1080)

    def handshakes(self, url: str) -> int:
        """How many TLS handshakes end before the server of `url` reads what is sent; none where the proxy reads it."""
        return 0 if url.startswith("http:") else 2 if self.url.startswith("https:") else 1

    def __str__(self) -> str:
        return f"the proxy {self.url} ({self.variable})"

    def for_httpx2(self) -> httpx2.Proxy:
        """The same for the HTTP client. Raises `ConfigurationError` where a SOCKS proxy needs a package more."""
        import importlib.util

        import httpx2

        if not self.speaks_http and importlib.util.find_spec("socksio") is None:
            raise ConfigurationError(self.variable, "names a SOCKS proxy", "Install httpx2[socks], or use an HTTP one.")
        return httpx2.Proxy(self.url, auth=self.credentials)


def proxy_for(url: str) -> Proxy | None:
    """The proxy for `url`, None where it is reached directly. Raises `ConfigurationError` naming the variable."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return None
    if _none_is_named():
        return None
    with undisturbed():
        # Here, because it takes as long to load as a request over loopback.
        from urllib.request import getproxies

    said = getproxies()
    kind = next((kind for kind in (parts.scheme, "all") if said.get(kind)), None)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    if kind is None or _is_exempt(said.get("no", ""), parts.scheme, host, port):
        return None
    return _parse(said[kind].strip(), _variable(kind))


def _none_is_named() -> bool:
    """Whether the environment has no proxy, where that is the only place that could."""
    return sys.platform not in ("darwin", "win32") and not any(name.lower().endswith("_proxy") for name in os.environ)


def _is_exempt(no_proxy: str, scheme: str, host: str, port: int) -> bool:
    for entry in no_proxy.lower().split(","):
        wanted, _, place = entry.strip().rpartition("://")
        if wanted in ("", "all", scheme) and (place == "*" or (place and _names(place, host, port))):
            return True
    return False


def _names(place: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY (an address, a network, a name, its subdomains) is about this host and port."""
    try:
        network = ipaddress.ip_network(re.sub(r"[\[\]]", "", place), strict=False)
    except ValueError:
        pass
    else:
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    name, colon, number = place.rpartition(":")
    if not colon:
        name = place
    elif number != str(port):
        return False
    name = name.strip("[]")
    if name.startswith(("*.", ".")):
        return host.endswith(name.removeprefix("*"))
    name = name.removeprefix("*")
    return host == name or host.endswith("." + name)


def _parse(said: str, variable: str) -> Proxy:
    """Not by a URL parser: people put passwords there as they are, with `#`, `/` and letters beyond ASCII."""
    match = _SCHEME.match(said)
    scheme = match[1].lower() if match else "http"
    user_information, at, authority = said[match.end() if match else 0 :].rpartition("@")
    authority = authority.partition("/")[0]
    host_and_port = _HOST_AND_PORT.fullmatch(authority)
    # Nothing of the value is repeated: it may hold a password.
    if scheme not in ("http", "https", *_SOCKS):
        raise ConfigurationError(variable, "names a kind of proxy that is not known", _ADVICE)
    if host_and_port is None or not 0 < int(host_and_port[2] or 80) < 65536:
        raise ConfigurationError(variable, "is not the address of a proxy", _ADVICE)
    user, _, password = user_information.partition(":")
    return Proxy(f"{scheme}://{authority}", variable, (unquote(user), unquote(password)) if at else None)


def _variable(kind: str) -> str:
    # As getproxies() chooses: the one in lower case goes first.
    names = sorted((name for name in os.environ if name.lower() == f"{kind}_proxy"), reverse=True)
    return names[0] if names else f"the system's {kind} proxy"
