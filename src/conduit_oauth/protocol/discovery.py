"""Where the token endpoint is: read from metadata (RFC 9728, RFC 8414), or derived from the gateway's URL.

Pure: a step that needs the network is a generator that yields requests and is sent their responses. What an answer
leads to is checked before it is followed, and each failure names its step and its URL.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from ..errors import ConfigurationError, DiscoveryError
from ..masking import mask
from .challenge import bearer_challenge
from .grant import is_scope
from .http import Request, Response
from .locations import Finding, Search, resource_metadata, server_metadata
from .metadata import (
    RESOURCE_STEP,
    SERVER_STEP,
    ResourceMetadata,
    ServerMetadata,
    followed,
    judge_resource,
    same_issuer,
)
from .urls import origin_of, parse_url

_SUFFIX = re.compile(r"/(?:mcp|jsonrpc)/?\Z")
# More than anybody has, and few enough to ask each.
MAX_SERVERS = 8
_PROBE_STEP = "challenge of the resource"
_CHOICE_STEP = "choice of the authorization server"
# What an MCP server that wants a token answers with 401, and one that wants none has no use for.
_PROBE = b'{"jsonrpc":"2.0","id":0,"method":"ping"}'


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
class Discovery:
    """Where tokens come from. What is None was not published; `lifetime` is how many seconds this may be relied on.

    `derived` tells that nothing is published, and that the token endpoint was derived from the gateway's URL.
    """

    token_endpoint: str
    lifetime: float
    issuer: str | None = None
    server: ServerMetadata | None = None
    resource: ResourceMetadata | None = None
    scope: str | None = None
    derived: bool = False


Steps = Generator[Request, Response, Discovery]


def discover_issuer(issuer: str, search: Search) -> Steps:
    """From an issuer that was configured to its token endpoint (RFC 8414)."""
    metadata = yield from _required_metadata(issuer, search)
    return Discovery(metadata.token_endpoint, metadata.lifetime, metadata.issuer, metadata)


def discover_resource(
    url: str, search: Search, *, authorization_server: str | None = None, method: str | None = None
) -> Steps:
    """From the URL of an MCP endpoint, or another protected resource, to its authorization server's token endpoint.

    In the order of the MCP authorization specification (2025-11-25): the resource's challenge, its metadata where the
    challenge says, or at the well-known locations of path and root; then the authorization server's metadata. Where
    the resource publishes nothing, the metadata of its origin counts (MCP 2025-03-26), and without that the derived
    endpoint. `authorization_server` and `method` decide between several.

    Raises `DiscoveryError` for what must not be followed, `ConfigurationError` where all of it leads nowhere.
    """
    search.secure(url, "mcp_url")
    challenge = yield from _probe(url, search)
    challenged = _known_scope(challenge.get("scope"))
    document = yield from resource_metadata(url, challenge.get("resource_metadata"), search)
    if document is None:
        if authorization_server is not None:
            metadata = yield from _required_metadata(authorization_server, search)
        else:
            metadata = yield from _metadata_of_origin(url, search)
        if metadata is None:
            return _derived(url, challenged, search)
        return Discovery(metadata.token_endpoint, metadata.lifetime, metadata.issuer, metadata, scope=challenged)
    resource = judge_resource(url, document)
    metadata = yield from _choose(resource.authorization_servers, document.url, search, authorization_server, method)
    return Discovery(
        metadata.token_endpoint,
        min(document.lifetime, metadata.lifetime),
        metadata.issuer,
        metadata,
        resource,
        challenged or _known_scope(" ".join(resource.scopes)),
    )


def discover_any(url: str, search: Search) -> Steps:
    """From a URL that is an issuer or a protected resource, for whoever cannot tell which."""
    refused: DiscoveryError | None = None
    if derive_token_endpoint(url) == url:
        try:
            metadata = yield from server_metadata(url, search)
        except DiscoveryError as error:
            # What another issuer publishes here says nothing against a resource.
            metadata, refused = None, error
        if metadata is not None:
            return Discovery(metadata.token_endpoint, metadata.lifetime, metadata.issuer, metadata)
    try:
        return (yield from discover_resource(url, search))
    except ConfigurationError as error:
        if refused is not None:
            raise refused from None
        if derive_token_endpoint(url) != url:
            raise
        raise DiscoveryError(
            SERVER_STEP, url, f"publishes no metadata: {_asked_for(search.findings)}", "an issuer, or an MCP endpoint"
        ) from error


def resource_scopes(url: str, named: str | None, search: Search) -> Generator[Request, Response, tuple[str, ...]]:
    """The `scopes_supported` of a protected resource's metadata (RFC 9728 §2), empty where it publishes none.

    `named` is where a challenge of the resource says that its metadata is. Raises `DiscoveryError` for metadata that
    must not be believed.
    """
    document = yield from resource_metadata(url, named, search)
    return () if document is None else judge_resource(url, document).scopes


def _required_metadata(issuer: str, search: Search) -> Generator[Request, Response, ServerMetadata]:
    """As `server_metadata`, where there has to be some."""
    before = len(search.findings)
    metadata = yield from server_metadata(issuer, search)
    if metadata is not None:
        return metadata
    raise DiscoveryError(
        SERVER_STEP,
        issuer,
        f"publishes none: {_asked_for(search.findings[before:])}",
        "metadata at a well-known location",
        cause="no-metadata",
        advice="Check the issuer, or configure token_endpoint to do without discovery.",
    )


def _asked_for(findings: list[Finding]) -> str:
    """Each location that was asked, with what came of it."""
    return "; ".join(f"{finding.url} ({finding.outcome})" for finding in findings)


def _metadata_of_origin(url: str, search: Search) -> Generator[Request, Response, ServerMetadata | None]:
    """The metadata of the resource's origin, where that is an issuer itself (MCP 2025-03-26, §2.3)."""
    try:
        return (yield from server_metadata(origin_of(search.secure(url, "mcp_url")), search))
    except DiscoveryError as error:
        if error.cause != "issuer-mismatch":
            raise
        # The origin also serves another issuer, which was not asked for.
        return None


def _derived(url: str, scope: str | None, search: Search) -> Discovery:
    derived = derive_token_endpoint(url)
    if derived == url:
        raise ConfigurationError(
            "mcp_url",
            "publishes no metadata, and ends in neither /mcp nor /jsonrpc",
            "Pass token_endpoint or issuer too.",
        )
    search.note("derived from the URL", derived, "nothing is published")
    return Discovery(derived, lifetime=3600.0, scope=scope, derived=True)


def _probe(url: str, search: Search) -> Generator[Request, Response, dict[str, str]]:
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    # Only the head of the answer is looked at: a server that wants no token may begin a stream.
    response = yield Request("POST", url, headers, _PROBE, reads="head")
    challenge = bearer_challenge(response.headers.get("www-authenticate")) if response.status == 401 else None
    search.note(_PROBE_STEP, url, "found" if challenge else f"{response.status}, no challenge")
    return dict(challenge.parameters) if challenge else {}


def _choose(
    servers: tuple[str, ...], location: str, search: Search, wanted: str | None, method: str | None
) -> Generator[Request, Response, ServerMetadata]:
    """The metadata of the one authorization server that the settings leave no doubt about."""
    # RFC 9728 §2: the list is optional, so a resource without one leaves the choice to the settings.
    if wanted is not None and not servers:
        return (yield from _required_metadata(wanted, search))
    listed = mask(", ".join(servers), ()) or "none"
    if wanted is not None and not any(same_issuer(wanted, server) for server in servers):
        raise _undecided(location, f"lists {listed}", f"the configured authorization_server {wanted}")
    if wanted is None and len(servers) > MAX_SERVERS:
        raise _undecided(location, f"lists {len(servers)} servers", f"at most {MAX_SERVERS}, or authorization_server")
    if wanted is not None or len(servers) == 1:
        chosen = followed(wanted or servers[0], RESOURCE_STEP, location, search.insecure_hosts)
        return (yield from _required_metadata(chosen, search))
    candidates: list[ServerMetadata] = []
    for server in servers:
        candidate = followed(server, RESOURCE_STEP, location, search.insecure_hosts)
        metadata = yield from server_metadata(candidate, search)
        if metadata is not None and method in metadata.auth_methods["token_endpoint"]:
            candidates.append(metadata)
    if len(candidates) != 1:
        raise _undecided(
            location,
            f"lists {listed}, of which {len(candidates)} can be used",
            "one with metadata; choose between several by authorization_server",
        )
    return candidates[0]


def _undecided(location: str, problem: str, expected: str) -> DiscoveryError:
    return DiscoveryError(
        _CHOICE_STEP,
        location,
        problem,
        expected,
        cause="several-servers",
        advice="Set authorization_server to the one that knows this client.",
    )


def _known_scope(scope: str | None) -> str | None:
    """A published scope, None where it is empty or could not be sent as it is."""
    return scope if scope and is_scope(scope) else None
