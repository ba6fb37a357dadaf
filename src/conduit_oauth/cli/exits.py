"""What a command ends with."""

from __future__ import annotations

from ..errors import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    TokenRequestError,
    TransportError,
)

# An answer of 400 or more to `request`: not an error of ours, but a script must see it.
REFUSED = 7


class InvalidTokenError(OAuthError):
    """The token that was inspected is not what it says."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"the token {problem}. {advice}")


EXIT_CODES: tuple[tuple[type[OAuthError], int], ...] = (
    (ConfigurationError, 2),
    (TokenRequestError, 3),
    (TransportError, 4),
    (InvalidTokenResponse, 5),
    (DiscoveryError, 6),
    (InvalidTokenError, 5),
    (OAuthError, 1),
)
