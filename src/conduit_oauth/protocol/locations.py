"""Where metadata may be, and what each of these locations says. Pure, as generators of requests.

Invariant: Trouble at one location does not keep the next one from being asked.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from urllib.parse import SplitResult

from ..errors import DiscoveryError, without_query
from .http import Request, Response
from .metadata import (
    RESOURCE_STEP,
    SERVER_STEP,
    Document,
    ServerMetadata,
    followed,
    judge_server,
    read_document,
    redirected,
)
from .urls import origin_of, parse_secure_url


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

    def note(self, step: str, url: str, outcome: str) -> None:
        """Remember a location that was asked."""
        self.findings.append(Finding(step, without_query(url), outcome))

    def secure(self, url: str, name: str) -> SplitResult:
        """As `parse_secure_url`."""
        return parse_secure_url(url, name, self.insecure_hosts)


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


def resource_metadata(url: str, named: str | None, search: Search) -> Generator[Request, Response, Document | None]:
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


def _fetch(step: str, url: str, search: Search, owner: str) -> Generator[Request, Response, Document | None]:
    response = yield Request("GET", url, {"Accept": "application/json"})
    # Within its origin, metadata may have moved: once, and nothing is sent along that another place should not have.
    if (moved := redirected(url, response)) is not None:
        response = yield Request("GET", moved, {"Accept": "application/json"})
    try:
        document, outcome = read_document(step, url, response, owner)
    except DiscoveryError:
        search.note(step, url, str(response.status))
        raise
    search.note(step, url, outcome)
    return document
