"""What every adapter does alike: where the token may go, how it is presented, and what a refusal asks for.

RFC 6750 §2.1, §3, §5.3 for bearer tokens; RFC 9449 §7, §9 for those bound to a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..challenge import Challenge, demanded_claims, parse_challenges
from ..errors import ConfigurationError
from ..provider import TokenProvider
from ..urls import origin_of, parse_secure_url


class Destinations:
    """The origins that a provider's token may be sent to. Each is judged once, as the HTTP client itself read it."""

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._judged: set[tuple[str, str]] = set()

    def check(self, scheme: str, authority: str) -> None:
        """Raise `ConfigurationError` unless the token may go there: the provider's origin, over TLS or loopback."""
        destination = scheme, authority
        if destination in self._judged:
            return
        origin = origin_of(parse_secure_url(f"{scheme}://{authority}", "request URL"))
        origins = self._provider.origins
        if origins and origin not in origins:
            raise ConfigurationError(
                "request URL",
                f"is at {origin}, and the token of {self._provider.name!r} was obtained for {', '.join(origins)}",
                "Use a provider whose mcp_url or resource is at that origin.",
            )
        # A crawler's worth of origins would grow without bound; a service has a handful.
        if len(self._judged) < 256:
            self._judged.add(destination)


class Presentation:
    """One request of the caller's: the headers of each attempt, and whether its answer calls for another.

    A nonce, a new token, the claims that are demanded and a wider scope are each tried once. `provider`
    is whose token is presented: the one that was given, or the one that was stepped up to.
    """

    __slots__ = ("_dpop", "_method", "_sent", "_token", "_tried", "_url", "provider")

    def __init__(self, provider: TokenProvider, method: str, url: object) -> None:
        self.provider = provider
        self._dpop = provider.dpop
        self._method = method
        self._url = url
        self._token = self._sent = ""
        self._tried: set[str] = set()

    def headers(self, token: str) -> dict[str, str]:
        """What presents `token` with the next attempt."""
        self._token = token
        if self._dpop is None:
            self._sent = f"Bearer {token}"
            return {"Authorization": self._sent}
        self._sent = f"DPoP {token}"
        proof = self._dpop.proof(self._method, str(self._url), wall_now=time.time(), access_token=token)
        return {"Authorization": self._sent, "DPoP": proof}

    def is_settled(self, status: int) -> bool:
        """Whether nothing in an answer of this status is of interest: nearly always, so it is asked first."""
        return self._dpop is None and status not in (401, 403)

    def calls_for_another(self, status: int, sent: object, answer: Mapping[str, str]) -> bool:
        """Whether to send the request once more; a token that was refused is forgotten.

        `sent` is the Authorization header of the request that was answered, after any redirects: an answer to a
        request that lost it says nothing of our token. `answer` holds the answer's headers.
        """
        if sent != self._sent:
            return False
        fresh = self._dpop is not None and self._dpop.remember(str(self._url), answer.get("DPoP-Nonce"), resource=True)
        if status not in (401, 403):
            return False
        challenges = parse_challenges(answer.get("WWW-Authenticate", ""))
        # RFC 6750 §3.1 has 401 for a token that is no longer valid; some resources say 403 and mean the same.
        if status == 401 or any(challenge.parameters.get("error") == "invalid_token" for challenge in challenges):
            if fresh and any(challenge.parameters.get("error") == "use_dpop_nonce" for challenge in challenges):
                return self._try("nonce")
            claims = next(filter(None, map(demanded_claims, challenges)), None)
            if claims is not None:
                self.provider.invalidate(self._token, claims=claims)
                return self._try("claims")
            self.provider.invalidate(self._token)
            return self._try("token")
        return self._step_up(challenges)

    def _step_up(self, challenges: list[Challenge]) -> bool:
        for challenge in challenges:
            told = challenge.parameters
            if told.get("error") == "insufficient_scope":
                wider = self.provider.stepped_up(
                    told.get("scope") or None, url=str(self._url), resource_metadata=told.get("resource_metadata")
                )
                if wider is not None and self._try("scope"):
                    self.provider = wider
                    return True
        return False

    def _try(self, what: str) -> bool:
        first = what not in self._tried
        self._tried.add(what)
        return first
