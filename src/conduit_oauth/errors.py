"""Every exception this package raises, and what each tells the caller to do next.

Invariant: No message contains a secret. Text from a server passes through `mask` or `redact` first.
"""

from __future__ import annotations

from copy import copy

TYPE_CHECKING = False  # typing's is slow to import
if TYPE_CHECKING:
    from typing import Any, Self

    from .refusals import Explanation


def without_query(url: str) -> str:
    """A URL as it is shown: its query may contain a secret."""
    return url.partition("?")[0]


class OAuthError(Exception):
    """Root of all errors of this package.

    `retryable` tells whether the same call may succeed later without anything being changed.
    """

    retryable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    def again(self) -> Self:
        """A copy to raise in one more waiter, so that waiters do not share (and grow) one traceback."""
        return copy(self)


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
        self.url = url = without_query(url)
        super().__init__(f"{url}: {problem}. {self.advice}")
        self.retryable = retryable
        self.local = local
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
        from .refusals import TROUBLE, UNKNOWN, explain

        told = explanation or explain(status, error, UNKNOWN, retry_after=retry_after)
        # What the server said, in one line; a program that tells of the error its own way needs it, too.
        self.said = " ".join(filter(None, (error, error_description and f"({error_description})"))) or excerpt
        self.url = url = without_query(url)
        super().__init__(f"{url} answered {status}{': ' + self.said if self.said else ''}. {told.advice}")
        self.retryable = status == 429 or status >= 500 or error in TROUBLE
        self.status = status
        self.error = error
        self.error_description = error_description
        self.error_uri = error_uri
        self.retry_after = retry_after
        self.cause = told.cause
        self.advice = told.advice


class InvalidTokenResponse(OAuthError):  # noqa: N818 - it names the answer
    """The server answered with success, and the answer is not what RFC 6749 §5.1 demands. `field` names the part.

    Retried where this provider had a token before: the URL is right then, and the server unwell. A token that had
    expired when it arrived is asked for three times more.
    """

    def __init__(self, url: str, field: str, problem: str, advice: str | None = None) -> None:
        self.problem = f"the token response's {field} {problem}"
        self.advice = advice or (
            "Is this URL really the token endpoint? If it is, report the fault to the server's operator."
        )
        self.url = url = without_query(url)
        super().__init__(f"{url}: {self.problem}. {self.advice}")
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
        self.url = url = without_query(url)
        super().__init__(f"discovery, {step}: {url} {problem}; expected {expected}. {advice}")
        self.retryable = retryable
        self.step = step
        self.problem = problem
        self.expected = expected
        self.cause = cause
        self.advice = advice
