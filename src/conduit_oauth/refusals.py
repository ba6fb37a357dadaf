"""What an error answer of an authorization server means, and what to do about it. Pure: values in, words out.

Invariant: the words name what was sent (method, grant, audience, scope), never a secret.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .masking import mask

# The error codes that RFCs define: 6749, 6750, 7009, 7591, 8628, 8707, 9449, 9470. Three of them are for the
# authorization endpoint, and token endpoints use them, too.
REGISTERED_ERRORS = frozenset(
    {
        "access_denied",
        "authorization_pending",
        "expired_token",
        "insufficient_scope",
        "insufficient_user_authentication",
        "invalid_client",
        "invalid_client_metadata",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "invalid_token",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unsupported_token_type",
        "use_dpop_nonce",
    }
)
# What a server says that is unwell, whatever the status.
TROUBLE = frozenset({"server_error", "temporarily_unavailable"})
_EXCHANGE = "token-exchange"
_JWT_BEARER = "jwt-bearer"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request was. `tried` are the authentication methods in the order in which they were sent."""

    endpoint: str = "token_endpoint"
    grant_type: str = "client_credentials"
    tried: tuple[str, ...] = ()
    # Whether a setting chose the method.
    configured: bool = False
    # What the server's metadata lists; None where nothing is known.
    published: tuple[str, ...] | None = None
    # The header and the audience of a client assertion, as in "alg ES256, kid 1, aud https://as.example".
    assertion: str = ""
    scope: str | None = None
    scopes_supported: tuple[str, ...] = ()
    dpop: bool = False
    # What the request was signed with.
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def shown(self, words: str) -> str:
        """Words of the server's metadata or challenge, fit to be shown."""
        return mask(words, self.secrets)

    @property
    def grant(self) -> str:
        """The grant in a word: `client_credentials`, `token-exchange` or `jwt-bearer`."""
        return self.grant_type.rpartition(":")[2]


# Of a request that nothing is known of: another process sent it.
UNKNOWN = Asked()


@dataclass(frozen=True, slots=True)
class Explanation:
    """`cause` names the trouble for a program, `advice` says what to do."""

    cause: str
    advice: str


def is_refused_client(status: int, error: str | None) -> bool:
    """Whether the server refused the client's authentication: by the code, or by a 401 or 403 without a known one."""
    return error == "invalid_client" or (status in (401, 403) and error not in REGISTERED_ERRORS)


def explain(
    status: int,
    error: str | None,
    asked: Asked,
    *,
    retry_after: float | None = None,
    location: str = "",
) -> Explanation:
    """The meaning of an error answer (RFC 6749 §5.2, RFC 7009 §2.2.1, RFC 7662 §2.3)."""
    if status == 429:
        pause = f" {retry_after:g} s" if retry_after else ""
        return Explanation(
            "too-many-requests",
            f"The server limits the number of requests. Wait{pause}, and share tokens between processes by a store.",
        )
    if status >= 500 or error in TROUBLE:
        return Explanation("server-in-trouble", "The server is in trouble; try again later.")
    if 300 <= status < 400:
        where = f"Configure {location} as {asked.endpoint}, if you trust it" if location else "Configure the final URL"
        return Explanation("redirected", f"Redirects are never followed with credentials. {where}.")
    if error is None and status in (404, 405):
        missing = f"no-{asked.endpoint.replace('_', '-')}"
        return Explanation(missing, f"There is no {_named(asked)} at this URL. Check {_settings(asked)}.")
    if error in _MEANINGS:
        return _MEANINGS[error](asked)
    if error is not None and error not in REGISTERED_ERRORS:
        return Explanation(
            "error-unknown",
            f"No RFC defines this error code. Is this URL a {_named(asked)}? If it is, the code is the server's own: "
            f"look it up in its documentation. {_facts(asked)}",
        )
    if error is None:
        return Explanation("refused-without-reason", f"The server gave no reason. {_facts(asked)}")
    return Explanation("refused", f"Check the client's registration at the server. {_facts(asked)}")


def _named(asked: Asked) -> str:
    return asked.endpoint.replace("_", " ")


def _settings(asked: Asked) -> str:
    return "token_endpoint, mcp_url or issuer" if asked.endpoint == "token_endpoint" else asked.endpoint


def _facts(asked: Asked) -> str:
    """What was sent, and what the server publishes about it, as sentences."""
    said: list[str] = []
    if asked.tried:
        said.append(f"The client authenticated by {', then by '.join(asked.tried)}")
        if asked.published is not None:
            said[-1] += f"; the server publishes {asked.shown(', '.join(asked.published)) or 'no method'}"
    if asked.assertion:
        said.append(f"The assertion has {asked.assertion}")
    if asked.grant not in ("", "client_credentials"):
        said.append(f"The request used the grant {asked.grant_type}")
    if asked.endpoint == "token_endpoint":
        said.append(
            f"The request asked for the scope {asked.shown(asked.scope)}"
            if asked.scope
            else "The request sent no scope"
        )
        if not asked.scope:
            said[-1] += ", and some servers require one"
    return "".join(f"{sentence}. " for sentence in said).rstrip()


def _invalid_client(asked: Asked) -> Explanation:
    last = asked.tried[-1] if asked.tried else ""
    if asked.assertion:
        key = "the same client_secret" if last == "client_secret_jwt" else "the public key of this client (kid)"
        return Explanation(
            "assertion-refused",
            f"Check that the server has {key}, expects this algorithm (alg) and this audience (aud: see "
            f"assertion_audience), and that the clocks agree. {_facts(asked)}",
        )
    if last.endswith("tls_client_auth"):
        return Explanation(
            "certificate-refused",
            f"Check that the client is registered for {last} with this certificate. {_facts(asked)}",
        )
    if last == "none":
        return Explanation("client-refused", "The client sent no credential. Register it as public, or configure one.")
    advice = "The server does not know this client, or not this credential. Check client_id and client_secret "
    advice += "(does the secret end with a blank?)."
    if asked.configured:
        advice += " Without token_endpoint_auth_method, client_secret_basic and client_secret_post are both tried."
    return Explanation("client-refused", f"{advice} {_facts(asked)}")


def _invalid_grant(asked: Asked) -> Explanation:
    what = {_EXCHANGE: "subject token", _JWT_BEARER: "assertion"}.get(asked.grant)
    if what is None:
        return Explanation("grant-refused", f"Check that the client may use the grant {asked.grant_type}.")
    return Explanation("grant-refused", f"The server refuses the {what}: check its issuer, audience and expiry.")


def _unauthorized_client(asked: Asked) -> Explanation:
    return Explanation(
        "grant-not-allowed",
        f"The client is known, and may not use the grant {asked.grant_type}. Allow it in the client's registration.",
    )


def _unsupported_grant_type(asked: Asked) -> Explanation:
    return Explanation(
        "grant-unknown",
        f"This endpoint does not offer the grant {asked.grant_type}. Check that it is the right server, and that the "
        "grant is switched on there.",
    )


def _invalid_scope(asked: Asked) -> Explanation:
    asked_for = (
        f"The request asked for {asked.shown(asked.scope)}." if asked.scope else "The request sent no scope: try one."
    )
    supported = asked.shown(" ".join(asked.scopes_supported))
    published = f" The server supports {supported}." if supported else ""
    return Explanation("scope-refused", f"Ask for a scope that this client was granted. {asked_for}{published}")


def _invalid_request(asked: Asked) -> Explanation:
    if asked.endpoint != "token_endpoint":
        return Explanation("request-refused", f"Check that this URL is the {_named(asked)}. {_facts(asked)}")
    if asked.grant == _EXCHANGE:
        # RFC 8693 §2.2.2 has this code for a token that is not acceptable.
        return Explanation(
            "subject-token-refused",
            "The server does not accept the subject token: check its issuer, its expiry and subject_token_type.",
        )
    return Explanation("request-refused", f"Check scope, resource, audience and the extra parameters. {_facts(asked)}")


def _invalid_dpop_proof(asked: Asked) -> Explanation:
    if not asked.dpop:
        return Explanation("proof-wanted", "The server gives this client only bound tokens. Set dpop=True (--dpop).")
    return Explanation(
        "proof-refused",
        "The server refuses the DPoP proof: check this machine's clock, the algorithm of the key, and that no proxy "
        "changes the URL.",
    )


_MEANINGS: dict[str | None, Callable[[Asked], Explanation]] = {
    "access_denied": lambda asked: Explanation(
        "access-denied", f"The client may not have this token: check the scope, audience and resource. {_facts(asked)}"
    ),
    "invalid_client": _invalid_client,
    "invalid_dpop_proof": _invalid_dpop_proof,
    "invalid_grant": _invalid_grant,
    "invalid_request": _invalid_request,
    "invalid_scope": _invalid_scope,
    "invalid_target": lambda _: Explanation(
        "resource-unknown",
        "The server does not know the resource or audience. Check mcp_url, resource and audience.",
    ),
    "unauthorized_client": _unauthorized_client,
    "unsupported_grant_type": _unsupported_grant_type,
    "unsupported_token_type": lambda _: Explanation(
        "token-not-revocable",
        "This server cannot revoke a token of this type. A JWT stays valid until it expires: use short lifetimes.",
    ),
    "use_dpop_nonce": lambda _: Explanation(
        "nonce-refused", "The server asked for a nonce again and again: report this to its operator."
    ),
}
