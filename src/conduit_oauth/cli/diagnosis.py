"""What an error of the library means for a person, as `doctor` tells it: which of the known troubles it is."""

from __future__ import annotations

import re

from ..errors import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    TokenRequestError,
    TransportError,
    without_query,
)
from ..masking import mask, redact
from ..protocol.challenge import bearer_challenge
from ..protocol.http import Response, location_of, parse_json_object, quoted, readable
from ..token import AccessToken
from .findings import Diagnosis, bad, good, warning

_LONGEST_PAGE = 4096
_TITLE = re.compile(r"<title>([^<]{1,200})</title>", re.IGNORECASE)
# The step that a refusal belongs to, where that is not the client's authentication.
_STEPS = {
    "error-unknown": "token request",
    "no-token-endpoint": "token request",
    "redirected": "token request",
    "request-refused": "token request",
    "scope-refused": "scopes",
    "server-in-trouble": "token request",
}


def of_configuration(error: ConfigurationError) -> Diagnosis:
    """Invalid settings."""
    return bad("settings", f"setting-{error.field.rpartition('.')[2]}", f"{error.field}: {error.problem}", error.advice)


def of_discovery(error: OAuthError) -> Diagnosis:
    """Why there is no token endpoint."""
    step = "discovery"
    if isinstance(error, ConfigurationError):
        return bad(step, "nothing-published", f"{error.field}: {error.problem}", error.advice)
    if not isinstance(error, DiscoveryError):
        return bad(step, "discovery-failed", str(error), "")
    return bad(step, error.cause, f"{error.url} {error.problem}; expected {error.expected}", error.advice)


def of_token_request(error: OAuthError) -> Diagnosis:
    """Why there is no token."""
    step = "client authentication"
    if isinstance(error, ConfigurationError):
        return bad(step, f"setting-{error.field}", f"{error.field}: {error.problem}", error.advice)
    if isinstance(error, TransportError):
        return bad("token request", "no-answer", f"{error.url}: {error.problem}", error.advice)
    if isinstance(error, InvalidTokenResponse):
        return bad("token request", "answer-not-a-token", f"{error.url}: {error.problem}", error.advice)
    if not isinstance(error, TokenRequestError):
        return bad("token request", "failed", str(error), "")
    said = f"{error.url} answered {error.status} {error.said}".rstrip()
    return bad(_STEPS.get(error.cause, step), error.cause, said, error.advice)


def _title(content: bytes, secrets: list[str]) -> str:
    """What a page for people calls itself, empty for anything else."""
    match = _TITLE.search(readable(content[:_LONGEST_PAGE]) or "")
    return redact(match[1], secrets) if match else ""


def of_resource(url: str, answer: Response, token: AccessToken, *, is_mcp: bool) -> Diagnosis:
    """What the resource says to the token."""
    where = without_query(url)
    step, said, secrets = "resource", f"{where} answered {answer.status}", [token.value]
    challenge = bearer_challenge(answer.headers.get("www-authenticate"))
    # Some resources say in the body what belongs into the challenge (RFC 6750 §3).
    body = parse_json_object(answer.content) or {}
    told = {name: text for name in ("error", "error_description", "scope") if isinstance(text := body.get(name), str)}
    told |= challenge.parameters if challenge else {}
    words = " ".join(quoted(told[name], secrets) for name in ("error", "error_description") if told.get(name))
    words = words or _title(answer.content, secrets)
    because = f" ({words})" if words else ""
    if answer.status == 400 and "certificate" in words.lower():
        advice = "Set client_certificate to the files of the certificate that this client is registered with."
        return bad(step, "client-certificate-wanted", said + because, advice)
    if answer.status == 401:
        return bad(
            step,
            "token-refused",
            said + because,
            "It does not take this server's tokens: the audience may be another's (see resource and audience, and "
            "`conduit-oauth inspect`), or it trusts another issuer.",
        )
    if answer.status == 403 and told.get("error") == "insufficient_scope":
        asked = (token.scope or "").split()
        needed = " ".join(dict.fromkeys([*asked, *mask(told.get("scope", ""), secrets).split()]))
        advice = f'Set scope = "{needed}".' if told.get("scope") else "Ask its operator which scope it wants."
        problem = f"{said}{because}: the scope {token.scope or '(none)'} does not suffice"
        return bad(step, "scope-too-narrow", problem, advice)
    if answer.status == 403:
        advice = "The token is good and this client may not: ask for permission."
        if challenge is None and not told:
            advice = "This may be a filter in front of the resource, not the resource: ask who runs it."
        return bad(step, "forbidden", said + because, advice)
    if answer.status >= 300:
        location = location_of(url, answer.headers.get("location", ""), secrets)
        return _of_status(step, said, because, location, answer.status)
    kind = answer.headers.get("content-type", "nothing").partition(";")[0].strip()
    if is_mcp and kind.lower() not in ("application/json", "text/event-stream"):
        problem = f"{said} with {redact(kind, secrets)}, which is no answer of an MCP server"
        return bad(step, "not-mcp", problem, "It may be a login page: check the URL, and what stands in front of it.")
    return good(step, f"{where} takes the token ({answer.status})")


def _of_status(step: str, said: str, because: str, location: str, status: int) -> Diagnosis:
    """What a status of 300 and above says that has nothing to do with the token."""
    if status == 404:
        return bad(step, "resource-not-there", said, "The token is good and the URL is not: check its path.")
    if 300 <= status < 400:
        return bad(step, "resource-moved", f"{said}, to {location}", "Configure that URL, if you know it.")
    if status >= 500:
        return bad(
            step, "resource-in-trouble", said + because, "The token is good, the resource is not: ask its operator."
        )
    advice = "It took the token, not the question: a real client may do better."
    return warning(step, "resource-odd", said + because, advice)
