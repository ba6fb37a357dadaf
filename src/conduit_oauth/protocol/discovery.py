"""Where the token endpoint is: read from metadata (RFC 9728, RFC 8414), or derived from the gateway's URL.

Pure: a step that needs the network is a generator that yields requests and is sent their responses. What an answer
leads to is checked before it is followed, and each failure names its step and its URL.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from urllib.parse import SplitResult

from ..errors import ConfigurationError, DiscoveryError
from ..masking import mask
from .challenge import bearer_challenge
from .grant import is_scope
from .http import Request, Response
from .metadata import (
    RESOURCE_STEP,
    SERVER_STEP,
    Document,
    ResourceMetadata,
    ServerMetadata,
    followed,
    judge_resource,
    judge_server,
    read_document,
    redirected,
    same_issuer,
)
from .urls import origin_of, parse_secure_url, parse_url

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
class Finding:
    """One location that was asked, and what came of it."""

    step: str
    url: str
    outcome: str


@dataclass(slots=True)
class Search:
    """What was asked so far; `insecure_hosts` may be asked without TLS."""

    insecure_hosts: frozenset[str] = frozenset()
    findings: list[Finding] = field(default_factory=list[Finding])

    def secure(self, url: str, name: str) -> SplitResult:
        """As `parse_secure_url`."""
        return parse_secure_url(url, name, self.insecure_hosts)


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
    document = yield from _resource_metadata(url, challenge.get("resource_metadata"), search)
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
    document = yield from _resource_metadata(url, named, search)
    return () if document is None else judge_resource(url, document).scopes


def server_metadata(issuer: str, search: Search) -> Generator[Request, Response, ServerMetadata | None]:
    """Ask each well-known location of `issuer` in order (RFC 8414 §3.1, §5); None where none has metadata.

    What is another issuer's (§3.3), or in trouble, does not keep the next location from being asked. Raises
    `DiscoveryError` for it where no location has the metadata, and at once where that names an unsafe endpoint.
    """
    parts = search.secure(issuer, "issuer")
    origin, path = origin_of(parts), parts.path.rstrip("/")
    locations = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
    ]
    if path:
        locations.append(f"{origin}{path}/.well-known/openid-configuration")
        # No RFC has this one, and django-oauth-toolkit's usual deployment publishes nothing elsewhere.
        locations.append(f"{origin}{path}/.well-known/oauth-authorization-server")
    failure: DiscoveryError | None = None
    for location in locations:
        try:
            document = yield from _fetch(SERVER_STEP, location, search, "issuer")
            if document is not None:
                return judge_server(issuer, document, search.insecure_hosts)
        except DiscoveryError as error:
            if not error.retryable and error.cause != "issuer-mismatch":
                raise
            # Trouble may pass, so it says less against the issuer than what another one published does.
            failure = failure if failure is not None and failure.retryable else error
    if failure is not None:
        raise failure
    return None


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
    search.findings.append(Finding("derived from the URL", derived, "nothing is published"))
    return Discovery(derived, lifetime=3600.0, scope=scope, derived=True)


def _probe(url: str, search: Search) -> Generator[Request, Response, dict[str, str]]:
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    # Only the head of the answer is looked at: a server that wants no token may begin a stream.
    response = yield Request("POST", url, headers, _PROBE, reads="head")
    challenge = bearer_challenge(response.headers.get("www-authenticate")) if response.status == 401 else None
    search.findings.append(Finding(_PROBE_STEP, url, "found" if challenge else f"{response.status}, no challenge"))
    return dict(challenge.parameters) if challenge else {}


def _resource_metadata(url: str, named: str | None, search: Search) -> Generator[Request, Response, Document | None]:
    """RFC 9728 §5.1: where the challenge says; else §3.1: at the well-known location of the path, then of the root."""
    if named is not None:
        location = followed(named, RESOURCE_STEP, url, search.insecure_hosts)
        document = yield from _fetch(RESOURCE_STEP, location, search, "resource")
        if document is None:
            raise DiscoveryError(
                RESOURCE_STEP,
                location,
                f"has no metadata ({search.findings[-1].outcome})",
                "what the challenge points to",
                cause="no-metadata",
            )
        return document
    parts = search.secure(url, "mcp_url")
    origin, path = origin_of(parts), parts.path.rstrip("/")
    # A path with a slash at its end is another one for some servers, and the same for others.
    tails = (parts.path if parts.path != "/" else "", path, "")
    failure: DiscoveryError | None = None
    for location in dict.fromkeys(f"{origin}/.well-known/oauth-protected-resource{tail}" for tail in tails):
        try:
            document = yield from _fetch(RESOURCE_STEP, location, search, "resource")
        except DiscoveryError as error:
            failure = error
            continue
        if document is not None:
            return document
    if failure is not None:
        raise failure
    return None


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


def _fetch(step: str, url: str, search: Search, owner: str) -> Generator[Request, Response, Document | None]:
    response = yield Request("GET", url, {"Accept": "application/json"})
    # Within its origin, metadata may have moved: once, and nothing is sent along that another place should not have.
    if (moved := redirected(url, response)) is not None:
        response = yield Request("GET", moved, {"Accept": "application/json"})
    try:
        document, outcome = read_document(step, url, response, owner)
    except DiscoveryError:
        search.findings.append(Finding(step, url, str(response.status)))
        raise
    search.findings.append(Finding(step, url, outcome))
    return document


def _known_scope(scope: str | None) -> str | None:
    """A published scope, None where it is empty or could not be sent as it is."""
    return scope if scope and is_scope(scope) else None
