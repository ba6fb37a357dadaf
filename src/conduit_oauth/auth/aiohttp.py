"""`TokenAuth` for `aiohttp.ClientSession(middlewares=(…,))`."""

from __future__ import annotations

from weakref import WeakSet, WeakValueDictionary

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs
from yarl import URL

from ._rules import AnyProvider, Destinations, Presentation

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class TokenAuth:
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    def __init__(self, provider: AnyProvider) -> None:
        self._destinations = Destinations(provider)
        # aiohttp runs the middleware anew for each hop, maybe in another task, and does not say that it is one. But
        # each hop has the timer of the request that it began with. These are the last redirects, by that timer: aiohttp
        # keeps them, and they keep the timer, for as long as there may be another hop.
        self._redirects: WeakValueDictionary[int, ClientResponse] = WeakValueDictionary()
        # Those of them that answer a request without the token.
        self._stripped: WeakSet[ClientResponse] = WeakSet()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """The middleware."""
        chain = id(request._timer)  # pyright: ignore[reportPrivateUsage]
        if self._leads_away(self._redirects.get(chain), request.url):
            response = await handler(request)
            # Stripped once, stripped for the rest of the chain, even where it leads back.
            self._stripped.add(response)
        else:
            response = await self._authorized(request, handler)
        if response.status in _REDIRECTS:
            self._redirects[chain] = response
        return response

    def _leads_away(self, redirect: ClientResponse | None, url: URL) -> bool:
        return redirect is not None and (redirect in self._stripped or _origin(redirect.url) != _origin(url))

    async def _authorized(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        origin = self._destinations.check(request.url.scheme, request.url.raw_authority)
        presentation = Presentation(self._destinations, origin, request.method, request.url)
        while True:
            request.headers.update(await presentation.headers_async())
            response = await handler(request)
            if presentation.is_settled(response.status):
                return response
            sent = request.headers.get(hdrs.AUTHORIZATION)
            again = presentation.calls_for_another(response.status, sent, response.headers)
            if not again or not _replayable(request):
                return response
            response.release()


def _replayable(request: ClientRequest) -> bool:
    return isinstance(request.body, bytes) or not request.body.consumed


def _origin(url: URL) -> str:
    return str(url.origin()).lower()
