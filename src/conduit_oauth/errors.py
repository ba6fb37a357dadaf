"""Every exception this package raises, and what each tells the caller to do next.

Invariant: No message contains a secret. Text from a server passes through `mask` or `redact` first.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote, quote_plus, unquote

from .refusals import TROUBLE, UNKNOWN, Explanation, explain

EXCERPT_LENGTH = 200


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
    """The request got no whole answer: connection, TLS or timeout.

    Retried until the caller's deadline, except for a TLS error, because another attempt repairs no certificate. `local`
    tells that it is a fault of this process or machine (no file descriptor, no name server, a proxy of its own).
    """

    def __init__(
        self, url: str, problem: str, advice: str | None = None, *, retryable: bool = True, local: bool = False
    ) -> None:
        self.advice = advice or "Check that the server is up and reachable from here."
        super().__init__(f"{url}: {problem}. {self.advice}")
        self.retryable = retryable
        self.local = local
        self.url = url
        self.problem = problem


class TokenRequestError(OAuthError):
    """The authorization server said no (RFC 6749 §5.2, or an error status without such a body).

    `error`, `error_description` and `error_uri` are the server's, None where it sent none; `status` is the HTTP
    status; `retry_after` the seconds the server asked to wait for, or None. `cause` names the trouble for a program,
    `advice` says what to do about it.
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
        explanation: Explanation | None = None,
    ) -> None:
        told = explanation or explain(status, error, UNKNOWN, retry_after=retry_after)
        # What the server said, in one line; a program that tells of the error its own way needs it, too.
        self.said = " ".join(filter(None, (error, error_description and f"({error_description})"))) or excerpt
        super().__init__(f"{url} answered {status}{': ' + self.said if self.said else ''}. {told.advice}")
        self.retryable = status == 429 or status >= 500 or error in TROUBLE
        self.url = url
        self.status = status
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.retry_after = retry_after
        self.cause = told.cause
        self.advice = told.advice


class InvalidTokenResponse(OAuthError):  # noqa: N818 - it names the answer
    """The server answered with success, and the answer is not what RFC 6749 §5.1 demands. `field` names the part.

    Retried only where this provider had a token before: the URL is right then, and the server unwell.
    """

    def __init__(self, url: str, field: str, problem: str, advice: str | None = None) -> None:
        self.problem = f"the token response's {field} {problem}"
        self.advice = advice or (
            "Is this URL really the token endpoint? If it is, report the fault to the server's operator."
        )
        super().__init__(f"{url}: {self.problem}. {self.advice}")
        self.url = url
        self.field = field


class DiscoveryError(OAuthError):
    """Metadata could not be found or must not be believed: `step`, `url`, and what was `expected`.

    `cause` names the trouble for a program, `advice` says what to do about it.
    """

    def __init__(
        self,
        step: str,
        url: str,
        problem: str,
        expected: str,
        *,
        retryable: bool = False,
        cause: str = "metadata-not-believed",
        advice: str = "Configure token_endpoint to do without discovery, or correct the metadata.",
    ) -> None:
        super().__init__(f"discovery, {step}: {url} {problem}; expected {expected}. {advice}")
        self.retryable = retryable
        self.step = step
        self.url = url
        self.problem = problem
        self.expected = expected
        self.cause = cause
        self.advice = advice


# Characters of a server's text that are looked at: more than are shown, so that what is masked leaves enough.
_LONGEST = 8192
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# A token, an assertion, a key: long, unbroken, and not just lower-case words; or a URL, whose parts are looked at.
_TOKEN_LIKE = re.compile(r"https?://[^\s\"'<>]+|[A-Za-z0-9._~+/=%-]{20,}")
_URL_PART = re.compile(r"[^/?&=#]{20,}")
_BASE64 = re.compile(r"[A-Za-z0-9_-]{8,}")
# A shorter secret would be found in any text.
_SHORTEST_HIDDEN = 6
_TELLING = re.compile(r"[0-9A-Z]")


def mask(text: str, secrets: Iterable[str]) -> str:
    """One bounded line of a server's text, without the known secrets in any encoding, without control characters."""
    import base64
    import html

    # Cut before anything else looks at it: what a server sends may be long, and all of this is work.
    text = text[:_LONGEST]
    known = [secret for secret in secrets if secret]
    for secret in known:
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
    if any(_is_hidden_in(text, secret) for secret in known):
        # Where exactly it begins and ends is of no use to anybody.
        return "***"
    text = clean(text)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "…"


def _is_hidden_in(text: str, secret: str) -> bool:
    """Whether a secret is there in pieces (blanks, the zeros of UTF-16), with more in base64, or percent-encoded."""
    import base64

    sought = _compact(secret)
    if len(sought) < _SHORTEST_HIDDEN:
        return False
    plain = _compact(text)
    if sought in plain or sought in unquote(plain):
        return True
    for run in _BASE64.findall(plain.replace("+", "-").replace("/", "_")):
        # What stands before it may have any length.
        for start in range(4):
            part = run[start : len(run) - ((len(run) - start) % 4 == 1)]
            decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
            if sought in _compact(decoded.decode("latin-1")):
                return True
    return False


def _compact(text: str) -> str:
    return "".join(each for each in text if each.isprintable() and not each.isspace())


def clean(text: str) -> str:
    """`text` as one line without control characters: nothing that forges a log line or drives a terminal."""
    return _CONTROL.sub(" ", text).strip()


def redact(text: str, secrets: Iterable[str]) -> str:
    """As `mask`, for text of no known form: whatever looks like a token goes too."""
    return mask(_TOKEN_LIKE.sub(_without_token, text[:_LONGEST]), secrets)


def _without_token(match: re.Match[str]) -> str:
    text = match[0]
    if text.startswith(("http://", "https://")):
        scheme, _, rest = text.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host}{slash}" + _URL_PART.sub(_without_token, path)
    return "***" if _TELLING.search(text) else text
