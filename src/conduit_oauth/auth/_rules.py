"""What every adapter does alike: where the token may go, how it is presented, and what a refusal asks for.

RFC 6750 §2.1, §3, §5.3 for bearer tokens; RFC 9449 §7, §9 for those bound to a key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError, TokenRequestError
from ..protocol.challenge import Challenge, demanded_claims, parse_challenges
from ..protocol.dpop import Dpop
from ..protocol.urls import origin_of, parse_secure_url
from ._doubts import MOST_ORIGINS, Doubts


class AnyProvider(Protocol):
    """What an adapter needs of a `TokenProvider`, which makes adapters itself."""

    @property
    def name(self) -> str: ...
    @property
    def origins(self) -> tuple[str, ...]: ...
    @property
    def insecure_hosts(self) -> frozenset[str]: ...
    @property
    def dpop(self) -> Dpop | None: ...
    def get_token(self) -> str: ...
    async def get_token_async(self) -> str: ...
    def invalidate(self, token: str | None = None, *, claims: str | None = None) -> None: ...
    def stepped_up(
        self, scope: str | None, *, url: str = "", resource_metadata: str | None = None
    ) -> AnyProvider | None: ...


class AnyRequest(Protocol):
    """What is looked at of a client's request."""

    @property
    def method(self) -> str | None: ...
    @property
    def url(self) -> object: ...


class Destinations:
    """The origins that a provider's token may be sent to, and which token goes to each.

    Each is judged once, as the HTTP client itself read it. A wider token goes only to the origin that asked for it.
    """

    def __init__(self, provider: AnyProvider) -> None:
        self.provider = provider
        self._judged: dict[tuple[str, str], str] = {}
        self._wider: dict[str, AnyProvider] = {}
        self.doubts = _doubts.setdefault(provider, Doubts())

    def check(self, scheme: str, authority: str) -> str:
        """The origin, if the token may go there: the provider's, over TLS or loopback. Raises `ConfigurationError`."""
        destination = scheme, authority
        if (judged := self._judged.get(destination)) is not None:
            return judged
        origin = origin_of(parse_secure_url(f"{scheme}://{authority}", "request URL", self.provider.insecure_hosts))
        origins = self.provider.origins
        if origins and origin not in origins:
            raise ConfigurationError(
                "request URL",
                f"is at {origin}, and the token of {self.provider.name!r} was obtained for {', '.join(origins)}",
                "Use a provider whose mcp_url or resource is at that origin.",
            )
        if len(self._judged) < MOST_ORIGINS:
            self._judged[destination] = origin
        return origin

    def provider_for(self, origin: str) -> AnyProvider:
        """Whose token goes to `origin`."""
        return self._wider.get(origin, self.provider)

    def keep(self, origin: str, provider: AnyProvider) -> None:
        """Once a wider scope was granted, later requests to that origin are likely to need it, too."""
        if provider is not self.provider and (origin in self._wider or len(self._wider) < MOST_ORIGINS):
            self._wider[origin] = provider

    def narrow(self, origin: str) -> None:
        """The wider scope is granted no more."""
        self._wider.pop(origin, None)


# By provider, whatever clients and adapters it serves.
_doubts: WeakKeyDictionary[AnyProvider, Doubts] = WeakKeyDictionary()


class Presentation:
    """One request of the caller's: the headers of each attempt, and whether its answer calls for another.

    A nonce, a new token, the claims that are demanded and a wider scope are each tried once. `provider` is whose token
    is presented: the one that was given, or the one that was stepped up to.
    """

    __slots__ = (
        "_destinations",
        "_doubts",
        "_dpop",
        "_method",
        "_origin",
        "_replaced",
        "_sent",
        "_token",
        "_tried",
        "_url",
        "is_astray",
        "is_bound",
        "provider",
    )

    def __init__(self, destinations: Destinations, origin: str, method: str, url: object) -> None:
        self.provider = provider = destinations.provider_for(origin)
        self._destinations = destinations
        self._doubts = destinations.doubts
        self._origin = origin
        self._dpop = provider.dpop
        self._method = method
        self._url = url
        self._token = self._sent = ""
        # How many tokens were replaced for this origin when ours was taken.
        self._replaced = 0
        self._tried: set[str] = set()
        # Whether a redirect led to another origin, where the token does not go, nor from there anywhere.
        self.is_astray = False
        # Whether no redirect takes the headers along: a proof is for one URL, and httpx and requests let a token go
        # from http://host to https://host.
        self.is_bound = provider.dpop is not None or (origin.startswith("http:") and urlsplit(origin).port is None)

    def headers(self) -> dict[str, str]:
        """What presents the token with the next attempt. Raises as `get_token` does."""
        self._replaced = self._doubts.replaced(self._origin)
        try:
            token = self.provider.get_token()
        except TokenRequestError:
            if not self._narrowed():
                raise
            token = self.provider.get_token()
        return self._present(token)

    async def headers_async(self) -> dict[str, str]:
        """As `headers`, for asyncio and trio."""
        self._replaced = self._doubts.replaced(self._origin)
        try:
            token = await self.provider.get_token_async()
        except TokenRequestError:
            if not self._narrowed():
                raise
            token = await self.provider.get_token_async()
        return self._present(token)

    def _narrowed(self) -> bool:
        """Whether a wider scope that an earlier request asked for is refused now, and is done without."""
        if self.provider is self._destinations.provider or "scope" in self._tried:
            return False
        self._destinations.narrow(self._origin)
        self.provider = self._destinations.provider
        return True

    def _present(self, token: str) -> dict[str, str]:
        self._token = token
        if "scope" in self._tried:
            self._destinations.keep(self._origin, self.provider)
        if self._dpop is None:
            self._sent = f"Bearer {token}"
            return {"Authorization": self._sent}
        self._sent = f"DPoP {token}"
        proof = self._dpop.proof(self._method, str(self._url), wall_now=time.time(), access_token=token)
        return {"Authorization": self._sent, "DPoP": proof}

    def is_settled(self, status: int) -> bool:
        """Whether nothing in an answer of this status is of interest: nearly always, so it is asked first."""
        return self._dpop is None and status not in (401, 403) and not self._doubts.is_known(self._origin)

    def calls_for_another(self, status: int, sent: object, answer: Mapping[str, str]) -> bool:
        """Whether to send the request once more; a token that was refused is forgotten.

        `sent` is the Authorization header of the request that was answered, after any redirects: an answer to a
        request that lost it says nothing of our token. `answer` holds the answer's headers.
        """
        if sent != self._sent:
            return False
        has_nonce = self._dpop is not None and self._dpop.remember(
            str(self._url), answer.get("DPoP-Nonce"), resource=True
        )
        if status not in (401, 403):
            self._doubts.accepted(self._origin, instead=not self._tried.isdisjoint({"token", "claims"}))
            return False
        challenges = parse_challenges(answer.get("WWW-Authenticate", ""))
        # RFC 6750 §3.1 has 401 for a token that is no longer valid; some resources say 403 and mean the same.
        if status == 401 or any(challenge.parameters.get("error") == "invalid_token" for challenge in challenges):
            if has_nonce and any(challenge.parameters.get("error") == "use_dpop_nonce" for challenge in challenges):
                return self._try("nonce")
            return self._replace(next(filter(None, map(demanded_claims, challenges)), None))
        return self._step_up(challenges)

    def follows(self, status: int, sent: object, request: AnyRequest) -> bool:
        """Whether to present the token with `request`, to which a redirect led that took no headers along.

        `sent` is as for `calls_for_another`.
        """
        if not self.is_bound or self.is_astray or status != 401 or sent is not None:
            return False
        self._method, self._url = request.method or "", request.url
        return True

    def _replace(self, claims: str | None) -> bool:
        """Forget the token and take another, with `claims` where they are demanded; not again where it is refused."""
        # Also where the request cannot be sent again, and the next one finds out what becomes of the other token.
        is_acted_on = self._doubts.is_acted_on(self._origin, self._replaced)
        if not is_acted_on or not self._try("token" if claims is None else "claims"):
            return False
        self.provider.invalidate(self._token, claims=claims)
        self._doubts.replacing(self._origin)
        return True

    def _step_up(self, challenges: list[Challenge]) -> bool:
        if not self._try("scope"):
            return False
        for challenge in challenges:
            told = challenge.parameters
            if told.get("error") == "insufficient_scope":
                wider = self.provider.stepped_up(
                    told.get("scope") or None, url=str(self._url), resource_metadata=told.get("resource_metadata")
                )
                if wider is not None:
                    self.provider = wider
                    return True
        return False

    def _try(self, what: str) -> bool:
        first = what not in self._tried
        self._tried.add(what)
        return first
