"""`TokenAuth` for `requests`: as `auth=` of a request or of a `Session`."""

from __future__ import annotations

from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.cookies import extract_cookies_to_jar  # pyright: ignore[reportUnknownVariableType]

from ..provider import TokenProvider
from ._rules import Destinations, bearer, is_rejection


class TokenAuth(AuthBase):
    """Authorizes each request with the provider's token. Raises its errors instead of sending without one."""

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._destinations = Destinations(provider)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token, and a hook that answers a 401."""
        url = urlsplit(request.url or "")
        self._destinations.check(url.scheme, url.netloc)
        token = self._provider.get_token()
        request.headers["Authorization"] = bearer(token)
        request.hooks["response"].append(partial(self._on_response, token))
        return request

    def _on_response(self, token: str, response: requests.Response, **settings: Any) -> requests.Response:
        sent = response.request
        if not is_rejection(response.status_code, sent.headers.get("Authorization"), token):
            return response
        self._provider.invalidate(token)
        if not isinstance(cast("object", sent.body), str | bytes | None):
            return response
        fresh = bearer(self._provider.get_token())
        # Read to the end, so that the connection goes back to the pool before the replay asks for one.
        response.content  # noqa: B018  # pyright: ignore[reportUnusedExpression]
        response.close()
        replay = sent.copy()
        extract_cookies_to_jar(replay._cookies, sent, response.raw)  # pyright: ignore
        replay.prepare_cookies(replay._cookies)  # pyright: ignore
        replay.headers["Authorization"] = fresh
        answer = response.connection.send(replay, **settings)  # pyright: ignore
        answer.history.append(response)
        answer.request = replay
        return answer
