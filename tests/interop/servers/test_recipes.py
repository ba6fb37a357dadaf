"""What a reader of the page copies sends exactly the request that the server's documentation asks for."""

from __future__ import annotations

import base64
import functools
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest
from joserfc.jwk import RSAKey

import conduit_oauth
from conduit_oauth import TokenProvider
from tests.interop.servers.recipes import RECIPES, SECRET


class Vendor:
    """Publishes what it is said to publish, and grants; keeps the requests."""

    def __init__(self, metadata: dict[str, dict[str, Any]]) -> None:
        self._metadata = metadata
        self.granted: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            document = self._metadata.get(str(request.url))
            return httpx2.Response(404) if document is None else httpx2.Response(200, json=document)
        self.granted.append(request)
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sends_this_request(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[name]
    vendor = Vendor(recipe.metadata)
    made = functools.partial(TokenProvider, transport=httpx2.MockTransport(vendor))
    monkeypatch.setattr(conduit_oauth, "TokenProvider", made)
    monkeypatch.setenv("BILLING_SECRET", SECRET)
    monkeypatch.setenv("GOOGLE_PRIVATE_KEY", RSAKey.generate_key(2048).as_pem(private=True).decode())
    program: dict[str, Any] = {}
    exec(recipe.code, program)  # noqa: S102 - what the page shows
    with program["provider"] as provider:
        assert provider.get_token() == "a"
    (request,) = vendor.granted
    assert (request.method, str(request.url)) == ("POST", recipe.endpoint)
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    form = dict(parse_qsl(request.content.decode()))
    if "assertion" in form:
        assert form["assertion"].count(".") == 2
        form["assertion"] = "(a JWT)"
    assert form == recipe.form
    basic = None if recipe.user is None else "Basic " + base64.b64encode(f"{recipe.user}:{SECRET}".encode()).decode()
    assert request.headers.get("authorization") == basic
