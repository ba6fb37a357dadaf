"""Every exception this package raises, and what each tells the caller to do next.

Law: no message holds a secret. Whoever builds one from a server's bytes passes them through `mask` or `redact` first.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote, quote_plus

EXCERPT_LENGTH = 200

_ADVICE = {
    "invalid_client": "Check client_id and client_secret, and that the client may use this authentication method.",
    "invalid_grant": "Check that the client may use the client_credentials grant.",
    "unauthorized_client": "Ask the authorization server's operator to allow the client_credentials grant.",
    "invalid_scope": "Ask for a scope that this client was granted.",
    "invalid_target": "Check `resource` and `audience`: the server does not know them.",
    "unsupported_grant_type": "This endpoint does not offer client_credentials: check the token endpoint.",
    "invalid_request": "Check scope, resource, audience and the extra parameters.",
}


class OAuthError(Exception):
    """Root of all errors of this package.

    `retryable` tells whether the same call may succeed later without anything being changed.
    """

    retryable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    def again(self) -> Self:
        """A copy to raise in one more waiter, so that waiters do not share (and grow) one traceback."""
        return copy.copy(self)


def _rebuild(cls: type[OAuthError], args: tuple[Any, ...], attributes: dict[str, Any]) -> OAuthError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigurationError(OAuthError):
    """A setting is missing, empty or malformed. `field` names it."""

    def __init__(self, field: str, problem: str, advice: str) -> None:
        super().__init__(f"{field}: {problem}. {advice}")
        self.field = field
        self.problem = problem
        self.advice = advice

    def within(self, place: str) -> ConfigurationError:
        """The same of a field of `place`, a table of a file."""
        return ConfigurationError(f"{place}.{self.field}", self.problem, self.advice)


class ProviderClosedError(OAuthError):
    """The provider was closed. Create a new one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"token provider {name!r} is closed. Create a new TokenProvider.")


class TransportError(OAuthError):
    """The request got no whole answer: connection, TLS or timeout. Retried until the caller's deadline."""

    retryable = True

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}. Check that the server is up and reachable from here.")
        self.url = url
        self.problem = problem


class TokenRequestError(OAuthError):
    """The authorization server said no (RFC 6749 §5.2, or an error status without such a body).

    `error`, `error_description` and `error_uri` are the server's, None where it sent none; `status` is the HTTP
    status; `retry_after` the seconds the server asked to wait for, or None.
    """

    def __init__(
        self,
        url: str,
        status: int,
        *,
        error: str | None = None,
        error_description: str | None = None,
        error_uri: str | None = None,
        excerpt: str = "",
        retry_after: float | None = None,
    ) -> None:
        said = " ".join(filter(None, (error, error_description and f"({error_description})"))) or excerpt
        self.retryable = status == 429 or status >= 500
        if self.retryable:
            advice = "The server is in trouble; try again later."
        elif 300 <= status < 400:
            advice = "Redirects are never followed with credentials: configure the final token_endpoint."
        elif status in (404, 405):
            advice = "There is no token endpoint at this URL: check token_endpoint, mcp_url or issuer."
        else:
            advice = _ADVICE.get(error or "", "Check the client's registration at the authorization server.")
        super().__init__(f"{url} answered {status}{': ' + said if said else ''}. {advice}")
        self.url = url
        self.status = status
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.retry_after = retry_after


class InvalidTokenResponse(OAuthError):  # noqa: N818 - the name is DESIGN.md's
    """The server answered with success, and the answer is not what RFC 6749 §5.1 demands. `field` names the part.

    Retried only where this provider had a token before: the URL is right then, and the server unwell.
    """

    def __init__(self, url: str, field: str, problem: str) -> None:
        super().__init__(
            f"{url}: the token response's {field} {problem}. Is this URL really the token endpoint? "
            "If it is, report the fault to the server's operator."
        )
        self.url = url
        self.field = field


class DiscoveryError(OAuthError):
    """Metadata could not be found or must not be believed: `step`, `url`, and what was `expected`."""

    def __init__(self, step: str, url: str, problem: str, expected: str, *, retryable: bool = False) -> None:
        super().__init__(
            f"discovery, {step}: {url} {problem}; expected {expected}. "
            "Configure token_endpoint to do without discovery, or mend the metadata."
        )
        self.retryable = retryable
        self.step = step
        self.url = url
        self.expected = expected


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# A token, an assertion, a key: long, unbroken, and not just lower-case words.
_TOKEN_LIKE = re.compile(r"(?=[a-z._~+/=%-]*[0-9A-Z])[A-Za-z0-9._~+/=%-]{20,}")


def mask(text: str, secrets: Iterable[str]) -> str:
    """One bounded line of a server's text, without the known secrets in any encoding, without control characters."""
    import base64
    import html

    for secret in secrets:
        forms = {
            secret,
            quote(secret, safe=""),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            html.escape(secret),
            base64.b64encode(secret.encode()).decode(),
        }
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
    text = clean(text)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"


def clean(text: str) -> str:
    """`text` as one line without control characters: nothing that forges a log line or drives a terminal."""
    return _CONTROL.sub(" ", text).strip()


def redact(text: str, secrets: Iterable[str]) -> str:
    """As `mask`, for text of no known form: whatever looks like a token goes too."""
    return mask(_TOKEN_LIKE.sub("***", text), secrets)
