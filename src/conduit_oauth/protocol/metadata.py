"""Metadata documents and the judgement on them: whose they are, and what they may make us do. Pure.

Invariant: A document speaks only for the issuer (RFC 8414 §3.3) or the resource (RFC 9728 §3.3) that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urldefrag, urljoin, urlsplit

from ..errors import ConfigurationError, DiscoveryError, without_query
from ..masking import mask
from .http import Response, location_of, parse_json_object
from .urls import canonical_resource, is_private, origin_of, parse_secure_url, parse_url

SERVER_STEP = "authorization server metadata (RFC 8414)"
RESOURCE_STEP = "protected resource metadata (RFC 9728)"
# The endpoints at which the client authenticates.
_AUTHENTICATED = ("token_endpoint", "introspection_endpoint", "revocation_endpoint")

# Characters of Cache-Control that are looked at.
_LONGEST_CACHE_CONTROL = 8192
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
    """What the checked metadata of an authorization server (RFC 8414 §2) says that a client needs.

    `auth_methods` and `signing_algorithms` are by endpoint; an endpoint is left out where the server does not say.
    """

    issuer: str
    token_endpoint: str
    lifetime: float
    endpoints: Mapping[str, str]
    mtls_endpoint_aliases: Mapping[str, str]
    auth_methods: Mapping[str, tuple[str, ...]]
    signing_algorithms: Mapping[str, tuple[str, ...]]
    dpop_algorithms: tuple[str, ...] | None
    scopes: tuple[str, ...]

    def endpoint(self, name: str, *, mtls: bool) -> str | None:
        """An endpoint, None where it is not published; for a client with a certificate its alias goes first."""
        return (self.mtls_endpoint_aliases.get(name) if mtls else None) or self.endpoints.get(name)

    def methods_at(self, endpoint: str) -> tuple[str, ...] | None:
        """The authentication methods of `endpoint`; without a list of its own, those of the token endpoint (§2)."""
        return self.auth_methods.get(endpoint, self.auth_methods["token_endpoint"])

    def algorithms_at(self, endpoint: str) -> tuple[str, ...] | None:
        """The algorithms of client assertions at `endpoint`, None where the server does not say."""
        return self.signing_algorithms.get(endpoint, self.signing_algorithms.get("token_endpoint"))


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """What the checked metadata of a protected resource (RFC 9728 §2) says that a client needs."""

    resource: str
    authorization_servers: tuple[str, ...]
    scopes: tuple[str, ...]
    dpop_algorithms: tuple[str, ...] | None
    dpop_required: bool


def read_document(step: str, url: str, response: Response, owner: str) -> tuple[Document | None, str]:
    """The document in a response, None where there is none, and the outcome in a few words.

    `owner` is the member that each such document has to have: `issuer` or `resource`. Raises a retryable
    `DiscoveryError` for a server in trouble, which is not the same as one without metadata.
    """
    if response.status == 429 or response.status >= 500:
        raise DiscoveryError(
            step,
            url,
            f"answered {response.status}",
            "metadata or 404",
            retryable=True,
            cause="metadata-unavailable",
            advice="The server is in trouble: try again, or ask its operator.",
        )
    if 300 <= response.status < 400:
        location = location_of(url, response.headers.get("location", ""), ())
        return None, f"{response.status}, redirects to {location or 'nowhere'}"
    if response.status != 200:
        return None, str(response.status)
    body = parse_json_object(response.content)
    # A page that is no JSON object is how many sites say 404; the next location is asked all the same.
    if body is None:
        return None, "not JSON"
    # And some answer every path with JSON of their own.
    if owner not in body:
        return None, f"no {owner} in it"
    return Document(url, body, _lifetime(response)), "found"


def redirected(url: str, response: Response) -> str | None:
    """Where a redirect of metadata leads within the origin of `url`, None for any other answer."""
    location = response.headers.get("location")
    if response.status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        target = urljoin(url, location)
        same = origin_of(parse_url(target, "Location")) == origin_of(parse_url(url, "URL"))
    except (ConfigurationError, ValueError):
        return None
    return urldefrag(target)[0] if same else None


def same_issuer(one: str, other: str) -> bool:
    """Whether two issuers are the same to the letter; an empty path and `/` are the same (RFC 3986 §6.2.3)."""
    return one == other or (one.rstrip("/") == other.rstrip("/") and urlsplit(one).path in ("", "/"))


def judge_server(issuer: str, document: Document, insecure_hosts: Collection[str] = ()) -> ServerMetadata:
    """The metadata, if it is that of `issuer` and its token endpoint may be given a credential."""
    body = document.body
    named = body.get("issuer")
    if not isinstance(named, str) or not same_issuer(issuer, named):
        raise _another_issuer(issuer, named, document.url)
    # RFC 8705 §5: where the endpoints are for clients that present a certificate.
    aliases: object = body.get("mtls_endpoint_aliases")
    methods = _by_endpoint(body, "auth_methods_supported")
    return ServerMetadata(
        issuer=named,
        token_endpoint=followed(body.get("token_endpoint"), SERVER_STEP, document.url, insecure_hosts),
        lifetime=document.lifetime,
        endpoints=_endpoints(body, document.url, insecure_hosts),
        mtls_endpoint_aliases=_endpoints(cast("dict[str, Any]", aliases), document.url, insecure_hosts)
        if isinstance(aliases, dict)
        else {},
        # RFC 8414 §2: left out, it means client_secret_basic.
        auth_methods={"token_endpoint": ("client_secret_basic",), **methods},
        signing_algorithms=_by_endpoint(body, "auth_signing_alg_values_supported"),
        dpop_algorithms=_listed(body, "dpop_signing_alg_values_supported"),
        scopes=_listed(body, "scopes_supported") or (),
    )


def _another_issuer(issuer: str, named: object, location: str) -> DiscoveryError:
    shown = mask(named, ()) if isinstance(named, str) else "no text"
    advice = "Both must be the same to the letter (RFC 8414 §3.3)."
    if isinstance(named, str) and named.rstrip("/") == issuer.rstrip("/"):
        advice = f"Only the slash at the end differs: configure issuer as {shown}."
    elif isinstance(named, str):
        advice += f" If {shown} is the issuer that you mean, configure it as issuer."
    return DiscoveryError(
        SERVER_STEP,
        location,
        f"names another issuer, {shown}",
        f"issuer {issuer}",
        cause="issuer-mismatch",
        advice=advice,
    )


def _by_endpoint(body: dict[str, Any], what: str) -> dict[str, tuple[str, ...]]:
    found = {name: _listed(body, f"{name}_{what}") for name in _AUTHENTICATED}
    return {name: listed for name, listed in found.items() if listed is not None}


def _endpoints(published: dict[str, Any], location: str, insecure_hosts: Collection[str]) -> dict[str, str]:
    return {
        name: followed(published[name], SERVER_STEP, location, insecure_hosts)
        for name in (*_AUTHENTICATED, "jwks_uri")
        if published.get(name) is not None
    }


def followed(target: object, step: str, location: str, insecure_hosts: Collection[str] = ()) -> str:
    """`target`, if what stands at `location` may send us there: over TLS, and from no public host to a private one."""
    try:
        host = parse_secure_url(target, "URL", insecure_hosts).hostname or ""
    except ConfigurationError as error:
        raise DiscoveryError(step, location, f"names an unsafe {mask(str(error), ())}", "an https URL") from None
    if is_private(host) and not is_private(parse_url(location, "URL").hostname or ""):
        raise DiscoveryError(step, location, f"points into a private network ({mask(host, ())})", "a public address")
    return cast("str", target)


def judge_resource(url: str, document: Document) -> ResourceMetadata:
    """The metadata, if its `resource` covers `url`: the same origin, and the same path or one above it."""
    resource = document.body.get("resource")
    wanted = f"one that covers {without_query(url)}"
    try:
        named = urlsplit(canonical_resource(parse_url(resource, "resource")))
    except ConfigurationError as error:
        raise DiscoveryError(RESOURCE_STEP, document.url, f"has a bad {mask(str(error), ())}", wanted) from None
    asked = urlsplit(canonical_resource(parse_url(url, "URL")))
    covers = asked.path == named.path or asked.path.startswith(named.path.rstrip("/") + "/")
    if origin_of(asked) != origin_of(named) or not covers:
        raise DiscoveryError(RESOURCE_STEP, document.url, "describes another resource", wanted)
    return ResourceMetadata(
        resource=cast("str", resource),
        authorization_servers=tuple(dict.fromkeys(_strings(document.body.get("authorization_servers")))),
        scopes=_listed(document.body, "scopes_supported") or (),
        dpop_algorithms=_listed(document.body, "dpop_signing_alg_values_supported"),
        dpop_required=document.body.get("dpop_bound_access_tokens_required") is True,
    )


def _lifetime(response: Response) -> float:
    shortest, usual, longest = _LIFETIMES
    age = _MAX_AGE.search(response.headers.get("cache-control", "")[:_LONGEST_CACHE_CONTROL])
    return min(longest, max(shortest, float(age[1]))) if age else usual


def _listed(body: dict[str, Any], name: str) -> tuple[str, ...] | None:
    """The texts in a list of the metadata, None where there is no such member."""
    return None if body.get(name) is None else tuple(_strings(body[name]))


def _strings(value: object) -> Iterator[str]:
    return (
        (item for item in cast("list[object]", value) if isinstance(item, str)) if isinstance(value, list) else iter(())
    )
