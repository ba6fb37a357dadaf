"""Metadata documents and the judgement on them: whose they are, and what they may make us do. Pure.

Law: a document is believed only about the issuer (RFC 8414 §3.3) or the resource (RFC 9728 §3.3) that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from .errors import ConfigurationError, DiscoveryError
from .grant import Response, parse_json_object
from .urls import canonical_resource, is_private, origin_of, parse_secure_url, parse_url

SERVER_STEP = "authorization server metadata (RFC 8414)"
RESOURCE_STEP = "protected resource metadata (RFC 9728)"

_MAX_AGE = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
# Seconds. Below a minute metadata would be read for each token; beyond a day a change would go unseen.
_LIFETIMES = (60.0, 3600.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object that was published at `url`, to be relied on for `lifetime` seconds."""

    url: str
    body: dict[str, Any]
    lifetime: float


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What the checked metadata of an authorization server (RFC 8414 §2) says that a client needs."""

    issuer: str
    token_endpoint: str
    token_endpoint_auth_methods: tuple[str, ...]
    token_endpoint_auth_signing_algs: tuple[str, ...] | None
    lifetime: float
    endpoints: Mapping[str, str]
    mtls_endpoint_aliases: Mapping[str, str]

    def endpoint(self, name: str, *, mtls: bool) -> str | None:
        """An endpoint, None where it is not published; for a client with a certificate its alias goes first."""
        return (self.mtls_endpoint_aliases.get(name) if mtls else None) or self.endpoints.get(name)


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """What the checked metadata of a protected resource (RFC 9728 §2) says that a client needs."""

    resource: str
    authorization_servers: tuple[str, ...]
    scopes: tuple[str, ...]


def read_document(step: str, url: str, response: Response) -> tuple[Document | None, str]:
    """The document in a response, None where there is none, and the outcome in a word.

    Raises a retryable `DiscoveryError` for a server in trouble, which is not the same as one without metadata.
    """
    if response.status == 429 or response.status >= 500:
        raise DiscoveryError(step, url, f"answered {response.status}", "metadata or 404", retryable=True)
    if response.status != 200:
        return None, str(response.status)
    body = parse_json_object(response.content)
    # A page that is no JSON object is how many sites say 404; the next location is asked all the same.
    return (None, "not JSON") if body is None else (Document(url, body, _lifetime(response)), "found")


def judge_server(issuer: str, document: Document) -> ServerMetadata:
    """The metadata, if it is that of `issuer` and its token endpoint may be given a credential."""
    body = document.body
    if body.get("issuer") != issuer:
        raise DiscoveryError(SERVER_STEP, document.url, "names another issuer", f"issuer {issuer}")
    methods = body.get("token_endpoint_auth_methods_supported")
    # RFC 8705 §5: where the endpoints are for clients that present a certificate.
    aliases: object = body.get("mtls_endpoint_aliases")
    algorithms = body.get("token_endpoint_auth_signing_alg_values_supported")
    return ServerMetadata(
        issuer=issuer,
        token_endpoint=followed(body.get("token_endpoint"), SERVER_STEP, document.url),
        # RFC 8414 §2: left out, it means client_secret_basic.
        token_endpoint_auth_methods=("client_secret_basic",) if methods is None else tuple(_strings(methods)),
        token_endpoint_auth_signing_algs=None if algorithms is None else tuple(_strings(algorithms)),
        lifetime=document.lifetime,
        endpoints=_endpoints(body, document.url),
        mtls_endpoint_aliases=_endpoints(cast("dict[str, Any]", aliases), document.url)
        if isinstance(aliases, dict)
        else {},
    )


def _endpoints(published: dict[str, Any], location: str) -> dict[str, str]:
    names = ("token_endpoint", "introspection_endpoint", "revocation_endpoint", "jwks_uri")
    return {name: followed(published[name], SERVER_STEP, location) for name in names if published.get(name) is not None}


def followed(target: object, step: str, location: str) -> str:
    """`target`, if what stands at `location` may send us there: over TLS, and from no public host to a private one."""
    try:
        host = parse_secure_url(target, "URL").hostname or ""
    except ConfigurationError as error:
        raise DiscoveryError(step, location, f"names an unsafe {error}", "an https URL") from None
    if is_private(host) and not is_private(parse_url(location, "URL").hostname or ""):
        raise DiscoveryError(step, location, f"points into a private network ({host})", "a public address")
    return cast("str", target)


def judge_resource(url: str, document: Document) -> ResourceMetadata:
    """The metadata, if its `resource` covers `url`: the same origin, and the same path or one above it."""
    resource = document.body.get("resource")
    try:
        named = urlsplit(canonical_resource(parse_url(resource, "resource")))
    except ConfigurationError as error:
        raise DiscoveryError(RESOURCE_STEP, document.url, f"has a bad {error}", f"one that covers {url}") from None
    asked = urlsplit(canonical_resource(parse_url(url, "URL")))
    covers = asked.path == named.path or asked.path.startswith(named.path.rstrip("/") + "/")
    if origin_of(asked) != origin_of(named) or not covers:
        raise DiscoveryError(RESOURCE_STEP, document.url, "describes another resource", f"one that covers {url}")
    return ResourceMetadata(
        resource=cast("str", resource),
        authorization_servers=tuple(dict.fromkeys(_strings(document.body.get("authorization_servers")))),
        scopes=tuple(_strings(document.body.get("scopes_supported"))),
    )


def _lifetime(response: Response) -> float:
    shortest, usual, longest = _LIFETIMES
    age = _MAX_AGE.search(response.headers.get("cache-control", ""))
    return min(longest, max(shortest, float(age[1]))) if age else usual


def _strings(value: object) -> Iterator[str]:
    return (
        (item for item in cast("list[object]", value) if isinstance(item, str)) if isinstance(value, list) else iter(())
    )
