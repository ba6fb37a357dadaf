"""Where one client's tokens come from: found once, relied on while it holds, and pinned to its authorization server.

Invariant: a credential goes to the authorization server that was found first; another one is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import TypeVar

from ..clock import Clock
from ..errors import DiscoveryError, OAuthError
from ..protocol.discovery import Discovery, Steps, discover_issuer, discover_resource
from ..protocol.http import Request, Response
from ..protocol.locations import Search
from .config import ClientConfig
from .transport import Errand, Sender

T = TypeVar("T")
# An issuer (None where none is known) and its token endpoint.
Pin = tuple[str | None, str]


def drive(steps: Generator[Request, Response, T], sender: Sender, timeout: float) -> T:
    """Run protocol steps within `timeout` seconds: send each request that they yield, and give them the answer."""
    errand = Errand(sender, timeout)
    try:
        request = next(steps)
        while True:
            request = steps.send(errand.send(request, timeout))
    except StopIteration as stop:
        return stop.value


class Locator:
    """Shared by a provider and those of wider scopes; used by one flight of each at a time."""

    __slots__ = ("_clock", "_config", "_found", "_fresh_until", "_published", "pins")

    def __init__(self, config: ClientConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        # What else remembers where this client's credential goes, beyond this process.
        self.pins: Callable[[Pin], Pin] | None = None
        endpoint = config.token_endpoint
        self._found = Discovery(endpoint, math.inf, config.issuer, derived=config.derived) if endpoint else None
        self._fresh_until = math.inf if self._found else -math.inf
        # The issuer's metadata, where the token endpoint did not need it, and until when it holds.
        self._published: tuple[Discovery, float] | None = None

    @property
    def token_endpoint(self) -> str | None:
        """The token endpoint, None while it still has to be discovered."""
        return self._found and self._found.token_endpoint

    @property
    def issuer(self) -> str | None:
        """The authorization server's issuer, None while it is not known."""
        return self._found.issuer if self._found else self._config.issuer

    @property
    def target(self) -> str:
        """The URL to name where something goes wrong."""
        return self.token_endpoint or self._config.issuer or self._config.mcp_url or ""

    def locate(self, sender: Sender, timeout: float) -> Discovery:
        """Where tokens come from: as found before while that holds, or while nobody can say anything newer."""
        if self._found is not None and self._clock() < self._fresh_until:
            return self._found
        try:
            found = drive(self.discovery(self.search()), sender, timeout)
        except OAuthError as error:
            if self._found is not None and error.retryable:
                return self._found
            raise
        found = self._pinned(found)
        if (pins := self.pins) is not None:
            self._check(pins((found.issuer, found.token_endpoint)), found)
        self._found = found
        self._fresh_until = self._clock() + found.lifetime
        return self._found

    def published(self, sender: Sender, timeout: float) -> Discovery:
        """As `locate`; beside a configured token endpoint, with the metadata of the configured issuer."""
        found = self.locate(sender, timeout)
        if found.server is not None or self._config.issuer is None:
            return found
        if self._published is None or self._clock() >= self._published[1]:
            read = drive(discover_issuer(self._config.issuer, self.search()), sender, timeout)
            self._published = read, self._clock() + read.lifetime
        return self._published[0]

    def search(self) -> Search:
        """A search by the settings of this client."""
        return Search(self._config.insecure_hosts)

    def discovery(self, search: Search) -> Steps:
        """The steps from what is configured to the token endpoint; each location that is asked is noted."""
        config = self._config
        if config.issuer is not None:
            return discover_issuer(config.issuer, search)
        return discover_resource(
            config.mcp_url or "", search, authorization_server=config.authorization_server, method=config.method
        )

    def _pinned(self, found: Discovery) -> Discovery:
        """`found`, unless it would send the credential to another authorization server than the first time."""
        before = self._found
        if before is None:
            return found
        self._check((before.issuer, before.token_endpoint), found)
        # Metadata that came or went, and says of the token endpoint what was known before.
        return found if before.issuer is not None and before.issuer == found.issuer else before

    def _check(self, pinned: Pin, found: Discovery) -> None:
        """Raise `DiscoveryError` where `found` is another authorization server than the pinned one."""
        issuer, token_endpoint = pinned
        # An issuer may move its own endpoints; nobody may put another issuer, with endpoints of its own, in its place.
        if issuer is not None and issuer == found.issuer:
            return
        if None in (issuer, found.issuer) and token_endpoint == found.token_endpoint:
            return
        raise DiscoveryError(
            "pinned authorization server",
            self._config.mcp_url or "",
            f"now leads to {found.issuer or found.token_endpoint}",
            f"{issuer or token_endpoint}, as before",
            cause="another-authorization-server",
            advice="If the move is meant, name the new one as authorization_server.",
        )
