"""`TokenAuth` for `aiohttp.ClientSession(middlewares=(…,))`."""

from __future__ import annotations

from contextvars import ContextVar

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs
from yarl import URL

from ._rules import AnyProvider, Destinations, Presentation

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ANYWHERE = "anywhere"
# aiohttp runs the middleware anew for each hop and does not say that it is one. This is the other origin to which the
# task's last answer pointed: the next request, if it is to that origin, is taken for the redirect, and goes without a
# token. The URL itself tells nothing: aiohttp changes it on the way (user information, quoting).
_foreign_hop: ContextVar[str | None] = ContextVar("conduit_oauth_foreign_hop", default=None)


class TokenAuth:
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    def __init__(self, provider: AnyProvider) -> None:
        self._destinations = Destinations(provider)

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """The middleware."""
        foreign = _foreign_hop.get()
        if foreign is not None and foreign in (_ANYWHERE, _origin(request.url)):
            response = await handler(request)
            # Stripped once, stripped for the rest of the chain, even where it leads back.
            _foreign_hop.set(_redirect_target(response))
            return response
        origin = self._destinations.check(request.url.scheme, request.url.raw_authority)
        presentation = Presentation(self._destinations, origin, request.method, request.url)
        while True:
            request.headers.update(await presentation.headers_async())
            response = await handler(request)
            if presentation.is_settled(response.status):
                break
            sent = request.headers.get(hdrs.AUTHORIZATION)
            again = presentation.calls_for_another(response.status, sent, response.headers)
            if not again or not _replayable(request):
                break
            response.release()
        target = _redirect_target(response)
        _foreign_hop.set(None if target == _origin(request.url) else target)
        return response


def _replayable(request: ClientRequest) -> bool:
    return isinstance(request.body, bytes) or not request.body.consumed


def _redirect_target(response: ClientResponse) -> str | None:
    """The origin that a redirect leads to, None for another answer."""
    if response.status not in _REDIRECTS:
        return None
    location = response.headers.get(hdrs.LOCATION) or response.headers.get(hdrs.URI)
    if location is None:
        return None
    try:
        # Scheme and host are the same whatever becomes of the quoting of the rest.
        return _origin(response.url.join(URL(location.strip(), encoded=True)))
    except ValueError:
        # Who cannot read it cannot know it when it comes.
        return _ANYWHERE


def _origin(url: URL) -> str:
    return str(url.origin()).lower() if url.is_absolute() else _ANYWHERE
