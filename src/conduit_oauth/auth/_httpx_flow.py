"""The auth flow that httpx and httpx2 share: the two differ in their classes, not in their protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, ClassVar

from ..provider import TokenProvider
from ._rules import Destinations, bearer, is_rejection


class HttpxFlow:
    """Adds the token; on a 401 forgets that token, takes another and sends the request once more."""

    replayable_stream: ClassVar[type]

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._destinations = Destinations(provider)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """For `Client`."""
        self._check(request.url)
        token = self._provider.get_token()
        request.headers["Authorization"] = bearer(token)
        if self._shall_replay(request, (yield request), token):
            request.headers["Authorization"] = bearer(self._provider.get_token())
            yield request

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """For `AsyncClient`."""
        self._check(request.url)
        token = await self._provider.get_token_async()
        request.headers["Authorization"] = bearer(token)
        if self._shall_replay(request, (yield request), token):
            request.headers["Authorization"] = bearer(await self._provider.get_token_async())
            yield request

    def _check(self, url: Any) -> None:
        self._destinations.check(url.scheme, url.netloc.decode("ascii"))

    def _shall_replay(self, request: Any, response: Any, token: str) -> bool:
        # The answer's own request: the client follows redirects within the flow, and drops the header on the way.
        if not is_rejection(response.status_code, response.request.headers.get("Authorization"), token):
            return False
        self._provider.invalidate(token)
        return isinstance(request.stream, self.replayable_stream)
