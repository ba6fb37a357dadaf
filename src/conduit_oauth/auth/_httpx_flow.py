"""The auth flow that httpx and httpx2 share: the two differ in their classes, not in their protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, ClassVar

from ._rules import AnyProvider, Destinations, Presentation


class HttpxFlow:
    """Presents the token, and sends the request again where the answer calls for it."""

    replayable_stream: ClassVar[type]

    def __init__(self, provider: AnyProvider) -> None:
        self._destinations = Destinations(provider)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """For `Client`."""
        presentation = self._begin(request)
        while True:
            _set(request, presentation.headers())
            if not self._goes_on(presentation, request, (yield request)):
                return

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """For `AsyncClient`."""
        presentation = self._begin(request)
        while True:
            _set(request, await presentation.headers_async())
            if not self._goes_on(presentation, request, (yield request)):
                return

    def _begin(self, request: Any) -> Presentation:
        url = request.url
        origin = self._destinations.check(url.scheme, url.netloc.decode("ascii"))
        return Presentation(self._destinations, origin, request.method, url)

    def _goes_on(self, presentation: Presentation, request: Any, response: Any) -> bool:
        if presentation.is_settled(response.status_code):
            return False
        # The answer's own request: the client follows redirects within the flow, and drops the header on the way.
        sent = response.request.headers.get("Authorization")
        again = presentation.calls_for_another(response.status_code, sent, response.headers)
        return again and isinstance(request.stream, self.replayable_stream)


def _set(request: Any, headers: dict[str, str]) -> None:
    # One by one: the client's own update() builds a second set of headers first.
    for name, value in headers.items():
        request.headers[name] = value
