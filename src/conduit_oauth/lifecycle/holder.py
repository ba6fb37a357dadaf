"""What holds one token, hands it out, and has it refreshed, introspected and revoked.

Invariant: A warm call takes no lock. While a valid token is cached, no caller waits for the network or sees an error.
"""

from __future__ import annotations

# Not typing's, and the rest is imported where it is used first: a program that imports this class does not wait for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from ..client.requester import Requester
    from ..clock import Clock
    from ..events import Observer
    from ..sharing.tier import Tier
    from ..token import AccessToken
    from .control import FlightControl
    from .state import ProviderState

    T = TypeVar("T")


class TokenHolder:
    """The token that `requester` asks for, in `tier`, where there is one, for other processes, too."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_control",
        "_life",
        "_observer",
        "_requester",
        "_revoke_on_close",
        "_root",
        "_timeout",
        "_wider",
        "name",
    )

    def __init__(
        self,
        name: str,
        requester: Requester,
        clock: Clock,
        timeout: float,
        tier: Tier | None,
        observer: Observer | None = None,
        *,
        revoke_on_close: bool = False,
    ) -> None:
        from ..runtime.process import undisturbed

        with undisturbed():
            from weakref import ref

            from .control import FlightControl
            from .life import Life

        self.name = name
        self._requester = requester
        self._clock = clock
        self._timeout = timeout
        self._observer = observer
        self._revoke_on_close = revoke_on_close
        # Those of wider scopes, which close with this one. Each knows the one that has them all.
        self._wider: dict[str, Self] = {}
        self._root: ref[Self] = ref(self)
        self._life = Life()
        self._control = FlightControl(name, self._life, requester, clock, timeout, tier=tier, observer=observer)

    def get_token(self) -> str:
        """A valid access token; blocks only while there is none.

        Raises:
            TokenRequestError, InvalidTokenResponse, TransportError, DiscoveryError: no token could be had in time.
            ProviderClosedError: the provider was closed.
        """
        # Bound to locals first: an attribute that is called in place is looked up as a method, at twice the cost.
        clock = self._clock
        token = self._life.token
        if clock() < token.refresh_at:
            return token.value
        if (ticket := self._control.serve_in_window()) is not None:
            return ticket
        deadline = clock() + self._timeout
        while not isinstance(ticket := self._control.board(deadline, ticket), str):
            ticket.wait(deadline - clock())
        return ticket

    async def get_token_async(self) -> str:
        """As `get_token`, suspending the task instead of blocking; works under asyncio and trio."""
        clock = self._clock
        token = self._life.token
        if clock() < token.refresh_at:
            return token.value
        if (ticket := self._control.serve_in_window()) is not None:
            return ticket
        deadline = clock() + self._timeout
        while not isinstance(ticket := self._control.board(deadline, ticket), str):
            await ticket.wait_async(deadline - clock())
        return ticket

    def refresh(self) -> str:
        """A new access token, though the cached one may still be valid; that one is replaced only by the new one.

        Raises as `get_token` does; the cached token stays where no new one can be had.
        """
        deadline = self._clock() + self._timeout
        token, ticket = self._control.renew(deadline)
        ticket.wait(deadline - self._clock())
        return self._control.renewed(token, ticket)

    async def refresh_async(self) -> str:
        """As `refresh`, for asyncio and trio."""
        deadline = self._clock() + self._timeout
        token, ticket = self._control.renew(deadline)
        await ticket.wait_async(deadline - self._clock())
        return self._control.renewed(token, ticket)

    def invalidate(self, token: str | None = None, *, claims: str | None = None) -> None:
        """Forget the cached token; with `token`, only if it is still that one, so that a late 401 harms no newer one.

        That holds for the tokens of wider scopes, too (`TokenProvider.stepped_up`).
        An answer to a request that was sent before is not cached after it. `claims` (JSON, OpenID Connect Core §5.5) is
        what a resource demanded of the next token: the next token request sends it.
        """
        if claims is not None:
            self._requester.claims = claims
        for each in (self, *list(self._wider.values())):
            each._control.invalidate(token)

    def introspect(self, token: str | None = None) -> dict[str, Any]:
        """What the server says of `token`, or of ours (RFC 7662): `active`, and what else it cares to tell.

        Retries for `timeout` seconds and raises as `get_token` does, and raises `DiscoveryError` where no introspection
        endpoint is configured or published.
        """
        from ..errors import OAuthError
        from . import inquiry

        deadline = self._clock() + self._timeout
        told = inquiry.introspect(self._requester, self._clock, token or self.get_token(), deadline)
        if isinstance(told, OAuthError):
            raise told
        return told

    async def introspect_async(self, token: str | None = None) -> dict[str, Any]:
        """As `introspect`, for asyncio and trio."""
        return await self._aside(lambda: self.introspect(token))

    def revoke(self) -> None:
        """Forget the cached token and have the authorization server forget it, too (RFC 7009); nothing without one.

        Retries for `timeout` seconds and raises as `get_token` does, and raises `DiscoveryError` where no revocation
        endpoint is configured or published; the token is forgotten here all the same.
        """
        from . import inquiry

        token = self._life.token
        if self._clock() < token.expires_at:
            self.invalidate(token.value)
            error = inquiry.revoke(self._requester, self._clock, token.value, self._clock() + self._timeout)
            if error is not None:
                raise error

    async def revoke_async(self) -> None:
        """As `revoke`, for asyncio and trio."""
        await self._aside(self.revoke)

    async def _aside(self, work: Callable[[], T]) -> T:
        from ..runtime.landing import NoThreadError, in_thread
        from .boarding import no_thread

        try:
            return await in_thread(work)
        except NoThreadError:
            raise no_thread(self._requester.locator.target) from None

    @property
    def control(self) -> FlightControl:
        """The flights of this provider, for who supervises it."""
        return self._control

    def state(self) -> ProviderState:
        """A snapshot of what the provider knows, without secrets."""
        from .state import state_of

        return state_of(self._control)

    def close(self) -> None:
        """Forget the token, wake everybody who waits with `ProviderClosedError`, close our HTTP client.

        A shared store hears first of what this process knows; `store_timeout` seconds are waited for that at most.
        With `revoke_on_close` the server is asked to forget the token; where it does not, that is logged.
        """
        tokens: list[AccessToken] = []
        for each in (self, *list(self._wider.values())):
            tokens.append(each._life.token)
            each._control.close()
        if self._revoke_on_close:
            self._revoke_all(tokens)
        self._requester.transport.close()

    def _revoke_all(self, tokens: list[AccessToken]) -> None:
        from . import inquiry
        from .control import logger

        # Once: nobody waits long for a provider that closes.
        deadline = self._clock() + self._requester.attempt_timeout
        for token in tokens:
            if self._clock() < token.expires_at:
                error = inquiry.revoke(self._requester, self._clock, token.value, deadline, once=True)
                if error is not None:
                    logger.warning("token_revocation_failed name=%s: %s", self.name, error)

    async def aclose(self) -> None:
        """As `close`, for asyncio and trio."""
        from ..runtime.landing import NoThreadError, in_thread

        try:
            if self._revoke_on_close or self._control.share is not None:
                await in_thread(self.close)
                return
        except NoThreadError:
            # It closes all the same: the loop stands still for that once.
            pass
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> str:
        raise TypeError(
            "a TokenProvider is for one process and is not copied or pickled: send its settings to the other process, "
            "and create one there (with the same store, if both are to share a token)"
        )

    def __repr__(self) -> str:
        return f"<TokenProvider {self.name!r} client_id={self._requester.config.client_id!r}>"


class ObservedHolder(TokenHolder):
    """One with an observer. It is a class of its own, so that warm calls of the others cost no more."""

    __slots__ = ()

    def get_token(self) -> str:
        """As `TokenHolder.get_token`; the observer is told."""
        self._tell()
        return super().get_token()

    async def get_token_async(self) -> str:
        """As `TokenHolder.get_token_async`; the observer is told."""
        self._tell()
        return await super().get_token_async()

    def _tell(self) -> None:
        from ..events import Event, observe

        left = self._life.token.expires_at - self._clock()
        if left > 0:
            observe(self._observer, Event("token_served", self.name, self._requester.locator.target, lifetime=left))
