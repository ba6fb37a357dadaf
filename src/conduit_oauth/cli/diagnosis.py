"""What an error of the library means for a person, as `doctor` tells it: which of the known troubles it is."""

from __future__ import annotations

from ..challenge import bearer_challenge
from ..discovery import Discovery
from ..errors import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    TokenRequestError,
    TransportError,
    clean,
)
from ..grant import Response
from .checks import Diagnosis, bad, good, warning

_REFUSALS = {
    "invalid_client": (
        "client-refused",
        "The server does not know this client, or not this credential. Check the client identifier and the "
        "credential (a secret pasted with a blank at its end?), and which authentication method it is registered for.",
    ),
    "unauthorized_client": (
        "grant-not-allowed",
        "The client is known and may not use this grant: have client_credentials allowed in its registration.",
    ),
    "unsupported_grant_type": (
        "grant-unknown",
        "The server has no client_credentials grant at this endpoint: check that this is the right server.",
    ),
    "invalid_grant": (
        "grant-refused",
        "The assertion or token to exchange is refused: see its audience and end.",
    ),
    "invalid_target": (
        "resource-unknown",
        "The server knows no such resource: check mcp_url and resource, or set audience where it wants one.",
    ),
    "invalid_dpop_proof": ("proof-refused", "The DPoP proof is refused: check this machine's clock, and the key."),
}


def of_configuration(error: ConfigurationError) -> Diagnosis:
    """Settings that will not do."""
    return bad("settings", f"setting-{error.field.rpartition('.')[2]}", f"{error.field}: {error.problem}", error.advice)


def of_discovery(error: OAuthError) -> Diagnosis:
    """Why there is no token endpoint."""
    step = "discovery"
    if isinstance(error, ConfigurationError):
        return bad(step, "nothing-published", f"{error.field}: {error.problem}", error.advice)
    if not isinstance(error, DiscoveryError):
        return bad(step, "discovery-failed", str(error), "")
    mend = "Mend the metadata, or configure token_endpoint to do without it."
    said = str(error).partition("; expected")[0].partition(": ")[2]
    if "another issuer" in said:
        advice = f"Both must be the same to the letter; expected {error.expected}."
        return bad(step, "issuer-mismatch", said, advice)
    if error.retryable:
        return bad(step, "metadata-unavailable", said, "The server is in trouble: try again, or ask its operator.")
    if "authorization_server" in error.expected:
        return bad(step, "several-servers", said, "Say which one: set authorization_server.")
    if "publishes none" in said or "has no metadata" in said:
        return bad(step, "no-metadata", said, f"Expected {error.expected}. {mend}")
    return bad(step, "metadata-not-believed", said, f"Expected {error.expected}. {mend}")


def of_token_request(error: OAuthError, found: Discovery | None) -> Diagnosis:
    """Why there is no token."""
    step = "client authentication"
    if isinstance(error, ConfigurationError):
        return bad(step, f"setting-{error.field}", f"{error.field}: {error.problem}", error.advice)
    if isinstance(error, TransportError):
        return bad("token request", "no-answer", f"{error.url}: {error.problem}", "Look at the server's log.")
    if isinstance(error, InvalidTokenResponse):
        return bad(
            "token request",
            "answer-not-a-token",
            str(error).partition(". Is this URL")[0],
            "This is not the token endpoint, or something before it (a login page, a proxy) answered: check the URL.",
        )
    if not isinstance(error, TokenRequestError):
        return bad("token request", "failed", str(error), "")
    said = f"{error.url} answered {error.status}"
    if error.error:
        said += f" {clean(error.error)}" + (f" ({clean(error.error_description)})" if error.error_description else "")
    if error.status == 429:
        pause = f" for {error.retry_after:g} s" if error.retry_after else ""
        return bad(step, "too-many-requests", said, f"Too many were sent: wait{pause}, and share tokens by a store.")
    if error.status >= 500:
        return bad("token request", "server-in-trouble", said, "The server is in trouble: ask its operator.")
    if 300 <= error.status < 400:
        return bad("token request", "redirected", said, "A credential follows no redirect: configure the final URL.")
    if error.error == "invalid_scope":
        published = f" It publishes: {found.scope}." if found and found.scope else ""
        return bad("scopes", "scope-refused", said, f"Ask for scopes that this client was granted.{published}")
    if error.error is None and error.status in (404, 405):
        return bad(
            "token request", "no-token-endpoint", said, "It is not there: check token_endpoint, mcp_url or issuer."
        )
    cause, advice = _REFUSALS.get(error.error or "", ("refused", "Ask the server's operator what it wants."))
    return bad(step, cause, said, advice)


def of_resource(url: str, answer: Response, wanted: str | None) -> Diagnosis:
    """What the resource says to the token."""
    step, said = "resource", f"{url} answered {answer.status}"
    challenge = bearer_challenge(answer.headers.get("www-authenticate"))
    told = dict(challenge.parameters) if challenge else {}
    because = f" ({clean(told.get('error_description') or told.get('error') or '')})" if told.get("error") else ""
    if answer.status == 401:
        return bad(
            step,
            "token-refused",
            said + because,
            "It does not take this server's tokens: the audience may be another's (see resource and audience, and "
            "`conduit-oauth inspect`), or it trusts another issuer.",
        )
    if answer.status == 403 and told.get("error") == "insufficient_scope":
        needed = told.get("scope")
        advice = f'Set scope = "{clean(needed)}".' if needed else "Ask its operator which scope it wants."
        return bad(step, "scope-too-narrow", f"{said}: the scope {wanted or '(none)'} does not suffice", advice)
    if answer.status == 403:
        return bad(step, "forbidden", said + because, "The token is good and this client may not: ask for permission.")
    if answer.status == 404:
        return bad(step, "resource-not-there", said, "The token is good and the URL is not: check its path.")
    if 300 <= answer.status < 400:
        where = clean(answer.headers.get("location", ""))
        return bad(step, "resource-moved", f"{said}, to {where}", "Configure that URL, if you know it.")
    if answer.status >= 500:
        return bad(step, "resource-in-trouble", said, "The token is good, the resource is not: ask its operator.")
    if answer.status >= 400:
        return warning(step, "resource-odd", said, "It took the token, not the question: a real client may do better.")
    return good(step, f"{url} takes the token ({answer.status})")
