from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest
import trio

from conduit_oauth import DiscoveryError, TokenProvider, TokenRequestError
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def is_accepted(authorization_server: AuthorizationServer, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.post(authorization_server.mcp_url(), json={}, headers=headers).status_code != 401


@pytest.fixture
def provider(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> TokenProvider:
    return make_provider(mcp_url=authorization_server.mcp_url(), scope="mcp:read")


def test_the_server_tells_of_the_token(provider: TokenProvider) -> None:
    told = provider.introspect()
    assert told["active"] is True
    assert (told["client_id"], told["scope"]) == ("demo", "mcp:read")


def test_a_revoked_token_is_forgotten_here_and_there(
    provider: TokenProvider, authorization_server: AuthorizationServer
) -> None:
    token = provider.get_token()
    assert is_accepted(authorization_server, token)
    provider.revoke()
    assert not is_accepted(authorization_server, token)
    assert not provider.state().cached
    assert provider.get_token() != token
    provider.invalidate()
    provider.revoke()


@pytest.mark.parametrize("run", [lambda main: asyncio.run(main()), trio.run], ids=["asyncio", "trio"])
def test_both_are_awaitable(run: Run, provider: TokenProvider) -> None:
    async def main() -> None:
        assert (await provider.introspect_async())["active"]
        await provider.revoke_async()
        assert not provider.state().cached

    run(main)


def test_revoke_on_close(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    with make_provider(mcp_url=authorization_server.mcp_url(), revoke_on_close=True) as provider:
        token = provider.get_token()
    assert not is_accepted(authorization_server, token)

    async def main() -> str:
        async with make_provider(mcp_url=authorization_server.mcp_url(), revoke_on_close=True) as provider:
            return await provider.get_token_async()

    assert not is_accepted(authorization_server, asyncio.run(main()))


def test_a_revocation_that_fails_does_not_keep_a_provider_open(
    make_provider: MakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider = make_provider(revoke_on_close=True)
    token = provider.get_token()
    provider.close()
    assert provider.state().closed
    assert "token_revocation_failed" in caplog.text
    assert token not in caplog.text


def test_without_metadata_there_is_nobody_to_ask(make_provider: MakeProvider) -> None:
    provider = make_provider()
    with pytest.raises(DiscoveryError, match="Configure introspection_endpoint, or issuer"):
        provider.introspect()
    with pytest.raises(DiscoveryError, match="revocation_endpoint"):
        provider.revoke()
    assert not provider.state().cached


def test_a_refusal_comes_back_typed(provider: TokenProvider, authorization_server: AuthorizationServer) -> None:
    token = provider.get_token()
    authorization_server.add_client("demo", "another secret")
    with pytest.raises(TokenRequestError) as caught:
        provider.introspect()
    assert caught.value.error == "invalid_client"
    assert token not in str(caught.value)


def test_endpoints_may_be_configured(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    issuer = authorization_server.issuer()
    authorization_server.set(metadata=False)
    provider = make_provider(
        introspection_endpoint=f"{issuer}/oauth/introspect", revocation_endpoint=f"{issuer}/oauth/revoke"
    )
    token = provider.get_token()
    assert provider.introspect()["active"]
    provider.revoke()
    assert not is_accepted(authorization_server, token)


def test_beside_a_token_endpoint_the_issuers_metadata_is_read_when_it_is_needed(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(metadata=False)
    provider = make_provider(token_endpoint=authorization_server.token_endpoint(), issuer=authorization_server.issuer())
    assert provider.get_token()
    authorization_server.set(metadata=True)
    assert provider.introspect()["active"]


@pytest.mark.parametrize("question", ["introspect", "revoke"])
def test_a_question_is_retried_until_the_timeout(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.lifecycle.inquiry.pause_on", lambda _, seconds: clock.step(seconds))
    asked: list[float] = []
    failures = [503, 503]

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/token":
            return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})
        asked.append(clock.now)
        return httpx2.Response(failures.pop()) if failures else httpx2.Response(200, json={"active": True})

    settings = {name: f"https://as.example/{name}" for name in ("introspection_endpoint", "revocation_endpoint")}
    transport = httpx2.MockTransport(answer)
    with TokenProvider(
        "me", "s", token_endpoint="https://as.example/token", transport=transport, clock=clock, timeout=8, **settings
    ) as provider:
        provider.get_token()
        getattr(provider, question)()
        assert len(asked) == 3
        failures.extend([503] * 1000)
        begun = clock.now
        provider.get_token()
        with pytest.raises(TokenRequestError, match="503"):
            getattr(provider, question)()
    # A last question just before the deadline, and none after it.
    assert 7.5 <= asked[-1] - begun < 8
