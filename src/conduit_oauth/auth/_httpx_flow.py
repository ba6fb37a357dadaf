"""The auth flow that httpx and httpx2 share: the two differ in their classes, not in their protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, ItemsView, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, ClassVar

from ._rules import AnyProvider, Destinations, Presentation

if TYPE_CHECKING:
    from httpx2 import Headers
else:
    Headers = object


class Bound(Headers):
    """Headers that present a token, and of which a copy does not. Combined with a client's `Headers`.

    The client copies the headers for a redirect, and would leave out `Authorization` at most.
    """

    def __init__(self, headers: Any, presented: dict[str, str]) -> None:
        self._presented: dict[str, str] = {}
        super().__init__(headers)
        for name in presented:
            self.pop(name, None)
        self._presented = presented

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [*super().raw, *((name.encode(), value.encode()) for name, value in self._presented.items())]

    def multi_items(self) -> list[tuple[str, str]]:
        return [*super().multi_items(), *((name.lower(), value) for name, value in self._presented.items())]

    def keys(self) -> KeysView[str]:
        return dict(self.multi_items()).keys()

    def values(self) -> ValuesView[str]:
        return dict(self.items()).values()

    def items(self) -> ItemsView[str, str]:
        return {name: self[name] for name in self.keys()}.items()

    def __getitem__(self, key: str) -> str:
        own = {name.lower(): value for name, value in self._presented.items()}.get(key.lower())
        return super().__getitem__(key) if own is None else own

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(key) or key.lower() in self.keys()


class HttpxFlow:
    """Presents the token, and sends the request again where the answer calls for it."""

    replayable_stream: ClassVar[type]
    bound_headers: ClassVar[type[Bound]]

    def __init__(self, provider: AnyProvider) -> None:
        self._destinations = Destinations(provider)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """For `Client`."""
        presentation = self._begin(request)
        while request is not None:
            self._set(request, presentation.headers(), presentation.is_bound)
            request = self._next(presentation, request, (yield request))

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """For `AsyncClient`."""
        presentation = self._begin(request)
        while request is not None:
            self._set(request, await presentation.headers_async(), presentation.is_bound)
            request = self._next(presentation, request, (yield request))

    def _begin(self, request: Any) -> Presentation:
        url = request.url
        origin = self._destinations.check(url.scheme, url.netloc.decode("ascii"))
        return Presentation(self._destinations, origin, request.method, url)

    def _set(self, request: Any, headers: dict[str, str], is_bound: bool) -> None:
        if is_bound:
            request.headers = self.bound_headers(request.headers, headers)
            return
        # One by one: the client's own update() builds a second set of headers first.
        for name, value in headers.items():
            request.headers[name] = value

    def _next(self, presentation: Presentation, request: Any, response: Any) -> Any:
        """The request to send next, None where the answer is the caller's."""
        if presentation.is_settled(response.status_code):
            return None
        # The answer's own request: the client follows redirects within the flow, and drops the header on the way.
        last = response.request
        sent = last.headers.get("Authorization")
        presentation.is_astray |= not _is_within(request.url, response)
        if presentation.calls_for_another(response.status_code, sent, response.headers):
            again = request
        elif presentation.follows(response.status_code, sent, last):
            again = last
        else:
            return None
        return again if isinstance(again.stream, self.replayable_stream) else None


def _is_within(url: Any, response: Any) -> bool:
    """Whether all redirects led to the origin of `url`."""
    urls = [each.url for each in (*response.history, response)]
    return all((each.scheme, each.netloc) == (url.scheme, url.netloc) for each in urls)
