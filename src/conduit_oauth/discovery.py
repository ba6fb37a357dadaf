"""Where the token endpoint is: derived from the gateway's URL, or read from metadata (RFC 8414, RFC 9728).

Pure: a step that needs the network is a generator that yields requests and is sent their responses.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from .errors import ConfigurationError, DiscoveryError
from .grant import Request, Response, parse_json_object
from .urls import canonical_resource, origin_of, parse_secure_url, parse_url

_SUFFIX = re.compile(r"/(?:mcp|jsonrpc)/?\Z")
_SERVER_STEP = "authorization server metadata (RFC 8414)"
_RESOURCE_STEP = "protected resource metadata (RFC 9728)"


def derive_token_endpoint(url: str) -> str:
    """The token endpoint beside a gateway's MCP or JSON-RPC endpoint.

    A trailing `/mcp` or `/jsonrpc`, with or without a final slash, becomes `/oauth/token`; query and fragment are
    dropped. A URL with neither suffix comes back unchanged. Raises `ConfigurationError` for what is no http(s) URL.
    """
    suffix = _SUFFIX.search(parse_url(url, "mcp_url").path)
    if suffix is None:
        return url
    return re.split(r"[?#]", url, maxsplit=1)[0].removesuffix(suffix.group()) + "/oauth/token"


@dataclass(frozen=True, slots=True)
class Finding:
    """One location that was asked, and what came of it."""

    step: str
    url: str
    outcome: str


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What the checked metadata of an authorization server (RFC 8414 §2) says that a client needs."""

    issuer: str
    token_endpoint: str
    token_endpoint_auth_methods: tuple[str, ...]
    scopes: tuple[str, ...]


@dataclass(slots=True)
class Discovery:
    """All that is published about a protected resource; `token_endpoint` is None where nothing leads to one."""

    url: str
    token_endpoint: str | None = None
    resource: str | None = None
    authorization_servers: tuple[str, ...] = ()
    servers: list[ServerMetadata] = field(default_factory=list[ServerMetadata])
    findings: list[Finding] = field(default_factory=list[Finding])


def server_metadata(issuer: str, findings: list[Finding]) -> Generator[Request, Response, ServerMetadata | None]:
    """Ask each well-known location of `issuer` in order (RFC 8414 §3.1, §5); None where none has metadata.

    Raises `DiscoveryError` where the metadata is another issuer's (§3.3) or names an unsafe token endpoint.
    """
    parts = parse_secure_url(issuer, "issuer")
    origin, path = origin_of(parts), parts.path.rstrip("/")
    locations = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
    ]
    if path:
        locations.append(f"{origin}{path}/.well-known/openid-configuration")
    for url in locations:
        body = yield from _fetch(_SERVER_STEP, url, findings)
        if body is not None:
            return _judge_server(issuer, url, body)
    return None


def discover(url: str) -> Generator[Request, Response, Discovery]:
    """Read the metadata of the protected resource at `url` and of its authorization servers.

    Asks the path's well-known location, then the root's (RFC 9728 §3.1). Falls back on the derived endpoint.
    """
    parts = parse_secure_url(url, "URL")
    found = Discovery(url)
    origin, path = origin_of(parts), parts.path.rstrip("/")
    for location in dict.fromkeys(f"{origin}/.well-known/oauth-protected-resource{tail}" for tail in (path, "")):
        body = yield from _fetch(_RESOURCE_STEP, location, found.findings)
        if body is not None:
            found.resource = _judge_resource(url, location, body)
            found.authorization_servers = tuple(_strings(body.get("authorization_servers")))
            break
    for issuer in found.authorization_servers:
        metadata = yield from server_metadata(_secure(issuer, _RESOURCE_STEP, url), found.findings)
        if metadata is not None:
            found.servers.append(metadata)
    derived = derive_token_endpoint(url)
    if found.servers:
        found.token_endpoint = found.servers[0].token_endpoint
    elif derived != url:
        found.token_endpoint = derived
        found.findings.append(Finding("derived from the URL", derived, "no metadata leads elsewhere"))
    return found


def _fetch(step: str, url: str, findings: list[Finding]) -> Generator[Request, Response, dict[str, Any] | None]:
    response = yield Request("GET", url, {"Accept": "application/json"})
    if response.status == 429 or response.status >= 500:
        raise DiscoveryError(step, url, f"answered {response.status}", "metadata or 404", retryable=True)
    # A page that is no JSON object is how many sites say 404; the next location is asked all the same.
    body = parse_json_object(response.content) if response.status == 200 else None
    outcome = "found" if body is not None else "not JSON" if response.status == 200 else str(response.status)
    findings.append(Finding(step, url, outcome))
    return body


def _judge_server(issuer: str, url: str, body: dict[str, Any]) -> ServerMetadata:
    if body.get("issuer") != issuer:
        raise DiscoveryError(_SERVER_STEP, url, "names another issuer", f"issuer {issuer}")
    methods = body.get("token_endpoint_auth_methods_supported")
    return ServerMetadata(
        issuer=issuer,
        token_endpoint=_secure(body.get("token_endpoint"), _SERVER_STEP, url),
        # RFC 8414 §2: left out, it means client_secret_basic.
        token_endpoint_auth_methods=("client_secret_basic",) if methods is None else tuple(_strings(methods)),
        scopes=tuple(_strings(body.get("scopes_supported"))),
    )


def _judge_resource(url: str, location: str, body: dict[str, Any]) -> str:
    resource = body.get("resource")
    if isinstance(resource, str) and resource.startswith(("http://", "https://")):
        asked, named = urlsplit(canonical_resource(urlsplit(url))), urlsplit(canonical_resource(urlsplit(resource)))
        covers = asked.path == named.path or asked.path.startswith(named.path.rstrip("/") + "/")
        if origin_of(asked) == origin_of(named) and covers:
            return resource
    raise DiscoveryError(_RESOURCE_STEP, location, "describes another resource", f"a resource that covers {url}")


def _secure(url: object, step: str, location: str) -> str:
    try:
        parse_secure_url(url, "URL")
    except ConfigurationError as error:
        raise DiscoveryError(step, location, f"names an unsafe {error}", "an https URL") from None
    return cast("str", url)


def _strings(value: object) -> Iterator[str]:
    return (
        (item for item in cast("list[object]", value) if isinstance(item, str)) if isinstance(value, list) else iter(())
    )
