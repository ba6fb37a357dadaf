"""What an adapter adds to a request: the same client with and without it, over a transport that answers at once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import requests
from requests.adapters import BaseAdapter

import conduit_oauth.auth.httpx
import conduit_oauth.auth.requests
from peers import ours

TARGET = "https://api.example/"


class Instant(BaseAdapter):
    def send(self, request: Any, **_: Any) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        response.raw = io.BytesIO()
        return response

    def close(self) -> None:
        pass


def requests_session(auth: Any = None) -> requests.Session:
    session = requests.Session()
    session.mount("https://", Instant())
    session.auth, session.trust_env = auth, False
    return session


def httpx_client(module: Any, auth: Any = None) -> Any:
    return module.Client(auth=auth, transport=module.MockTransport(lambda _: module.Response(200)))


def pairs(url: str) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """`(what, without, with)` for each adapter of ours and each adapter of a peer."""
    provider = ours(url)
    provider.get_token()
    for name, module, auth in (
        ("**conduit-oauth** for httpx2", httpx2, provider.auth()),
        ("**conduit-oauth** for httpx", httpx, conduit_oauth.auth.httpx.TokenAuth(provider)),
        ("httpx-auth for httpx", httpx, httpx_auth(url)),
    ):
        plain, authorized = httpx_client(module), httpx_client(module, auth)
        yield name, lambda c=plain: c.get(TARGET), lambda c=authorized: c.get(TARGET)
    for name, auth in (
        ("**conduit-oauth** for requests", conduit_oauth.auth.requests.TokenAuth(provider)),
        ("requests_oauth2client for requests", requests_oauth2client(url)),
    ):
        plain, authorized = requests_session(), requests_session(auth)
        yield name, lambda s=plain: s.get(TARGET), lambda s=authorized: s.get(TARGET)


def async_pairs(url: str) -> Iterator[tuple[str, Any, Any]]:
    provider = ours(url)
    provider.get_token()
    plain, authorized = (
        httpx2.AsyncClient(auth=auth, transport=httpx2.MockTransport(lambda _: httpx2.Response(200)))
        for auth in (None, provider.auth())
    )
    yield "**conduit-oauth** for httpx2, async", lambda: plain.get(TARGET), lambda: authorized.get(TARGET)


def httpx_auth(url: str) -> Any:
    import httpx_auth as module

    module.OAuth2.token_cache.clear()
    return module.OAuth2ClientCredentials(f"{url}/token", "id", "secret")


def requests_oauth2client(url: str) -> Any:
    from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth

    client = OAuth2Client(f"{url}/token", client_id="id", client_secret="secret", testing=True)
    return OAuth2ClientCredentialsAuth(client)


async def twenty_at_once(url: str, auth: Any) -> None:
    """Twenty concurrent requests that take 100 ms each."""
    async with httpx2.AsyncClient(auth=auth, headers={} if auth else {"Authorization": "none"}) as client:
        await asyncio.gather(*(client.get(f"{url}/api") for _ in range(20)))
