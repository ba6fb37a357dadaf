"""`TokenAuth` for `requests`: as `auth=` of a request or of a `Session`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar  # pyright: ignore[reportUnknownVariableType]

from ._rules import AnyProvider, Destinations, Presentation


class TokenAuth(AuthBase):
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    def __init__(self, provider: AnyProvider) -> None:
        self._destinations = Destinations(provider)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Present the token, and hook in what looks at the answer."""
        scheme, authority = _origin(request.url)
        origin = self._destinations.check(scheme, authority)
        presentation = Presentation(self._destinations, origin, request.method or "", request.url)
        request.headers.update(presentation.headers())
        request.hooks["response"].append(partial(self._on_response, presentation, (scheme, authority)))
        return request

    def _on_response(
        self, presentation: Presentation, origin: tuple[str, str], response: requests.Response, **settings: Any
    ) -> requests.Response:
        first = response.request
        presentation.is_astray |= _origin(first.url) != origin
        while not presentation.is_settled(response.status_code):
            sent = response.request
            authorization = sent.headers.get("Authorization")
            again = presentation.calls_for_another(response.status_code, authorization, response.headers)
            again = again or presentation.follows(response.status_code, authorization, sent)
            if not again or not isinstance(cast("object", sent.body), str | bytes | None):
                break
            # Read to the end, so that the connection is back in the pool whatever comes next.
            response.content  # noqa: B018  # pyright: ignore[reportUnusedExpression]
            response.close()
            fresh = presentation.headers()
            replay = sent.copy()
            extract_cookies_to_jar(replay._cookies, sent, response.raw)  # pyright: ignore
            replay.prepare_cookies(replay._cookies)  # pyright: ignore
            replay.headers.update(fresh)
            answer = response.connection.send(replay, **settings)  # pyright: ignore
            answer.history.append(response)
            answer.request = replay
            response = answer
        if response.is_redirect:
            _prepare_hop(first.headers, response.request.headers, presentation.is_bound)
        return response


def _prepare_hop(first: MutableMapping[str, str], last: Mapping[str, str], is_bound: bool) -> None:
    """The client makes the next hop's headers of the first ones, less `Authorization` where it leads away."""
    if is_bound:
        first.pop("Authorization", None)
        first.pop("DPoP", None)
    elif "Authorization" in last:
        first["Authorization"] = last["Authorization"]


def _origin(url: str | None) -> tuple[str, str]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.netloc
