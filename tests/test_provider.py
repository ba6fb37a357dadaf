from __future__ import annotations

import asyncio
import copy
import datetime
import pickle
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import trio

from conduit_oauth import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    ProviderClosedError,
    TokenProvider,
    TokenRequestError,
    TransportError,
)
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider

GOOD: dict[str, Any] = {
    "client_id": "me",
    "client_secret": "very-secret",
    "token_endpoint": "https://as.example/token",
}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("client_id", {"client_id": ""}),
        ("client_id", {"client_id": None}),
        ("client_id", {"client_id": 5}),
        ("client_secret", {"client_secret": ""}),
        ("client_secret", {"client_secret": "  "}),
        ("client_secret", {"client_secret": None}),
        ("token_endpoint", {"token_endpoint": None}),
        ("token_endpoint", {"token_endpoint": ""}),
        ("token_endpoint", {"token_endpoint": "http://as.example/token"}),
        ("token_endpoint", {"token_endpoint": "https://as.example/token#x"}),
        ("mcp_url", {"token_endpoint": None, "mcp_url": ""}),
        ("mcp_url", {"token_endpoint": None, "mcp_url": "https://g.example/api", "discovery": False}),
        ("mcp_url", {"mcp_url": "http://g.example/mcp"}),
        ("issuer", {"token_endpoint": None, "issuer": "as.example"}),
        ("issuer", {"token_endpoint": None, "issuer": "https://as.example?x"}),
        ("scope", {"scope": ""}),
        ("scope", {"scope": "a  b"}),
        ("scope", {"scope": 'a"b'}),
        ("scope", {"scope": ["a"]}),
        ("resource", {"resource": "not absolute"}),
        ("resource", {"resource": "https://g.example/#x"}),
        ("audience", {"audience": ""}),
        ("extra_parameters", {"extra_parameters": {"scope": "a"}}),
        ("extra_parameters", {"extra_parameters": {"a": 1}}),
        ("token_endpoint_auth_method", {"token_endpoint_auth_method": "password"}),
        ("refresh_ahead", {"refresh_ahead": -1}),
        ("refresh_ahead", {"refresh_ahead": "60"}),
        ("default_lifetime", {"default_lifetime": 0}),
        ("default_lifetime", {"default_lifetime": float("nan")}),
        ("timeout", {"timeout": 0}),
        ("timeout", {"timeout": float("inf")}),
        ("http_client", {"http_client": httpx2.AsyncClient()}),
        ("transport", {"transport": object()}),
    ],
)
def test_a_bad_setting_is_named_at_construction(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider(**{**GOOD, **changes})
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert "very-secret" not in str(caught.value)


def test_every_parameter_is_in_every_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(
        mcp_url=authorization_server.mcp_url("42"), scope="mcp:read", extra_parameters={"tenant": "blue"}
    )
    provider.get_token()
    provider.invalidate()
    provider.get_token()
    first, second = authorization_server.token_requests
    assert first == second
    assert first["gateway"] == "42"
    assert first["client_id"] == "demo"
    assert first["form"] == {
        "grant_type": "client_credentials",
        "scope": "mcp:read",
        "resource": authorization_server.mcp_url("42"),
        "tenant": "blue",
    }


def test_an_audience_is_sent_in_place_of_the_resource(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    make_provider(mcp_url=authorization_server.mcp_url(), audience="api://tools").get_token()
    form = authorization_server.token_requests[0]["form"]
    assert form["audience"] == "api://tools"
    assert "resource" not in form


def test_a_token_is_fetched_once_and_served_until_its_window(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    provider = make_provider(clock=clock)
    token = provider.get_token()
    clock.step(3539)
    assert provider.get_token() == token
    assert len(authorization_server.token_requests) == 1


def test_a_slow_answer_does_not_make_a_token_look_younger(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    authorization_server.hold()
    provider = make_provider(clock=clock)

    async def main() -> None:
        waiting = asyncio.create_task(provider.get_token_async())
        await asyncio.to_thread(authorization_server.wait_for_token_requests, 1)
        clock.step(10)
        await asyncio.to_thread(authorization_server.release)
        await waiting

    asyncio.run(main())
    expires_at = provider.state().expires_at
    assert expires_at is not None
    left = expires_at - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(seconds=3580) < left <= datetime.timedelta(seconds=3590)


@pytest.mark.parametrize("lifetime", [0, 1])
def test_a_token_that_expired_on_its_way_is_an_error(
    lifetime: float, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conduit_oauth.lifecycle.flight.pause_on", lambda _, seconds: clock.step(seconds))

    def answer(_: httpx2.Request) -> httpx2.Response:
        clock.step(1)
        return httpx2.Response(200, json={"access_token": "token", "token_type": "Bearer", "expires_in": lifetime})

    provider = TokenProvider(**GOOD, transport=httpx2.MockTransport(answer), clock=clock)
    with provider, pytest.raises(InvalidTokenResponse, match="had expired when it arrived"):
        provider.get_token()


def test_without_expires_in_the_default_lifetime_holds(clock: FakeClock) -> None:
    answers = iter(["first", "second"])

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"access_token": next(answers), "token_type": "Bearer"})

    with TokenProvider(**GOOD, default_lifetime=200, transport=httpx2.MockTransport(answer), clock=clock) as provider:
        assert provider.get_token() == "first"
        clock.step(139)
        assert provider.get_token() == "first"
        clock.step(61)
        assert provider.get_token() == "second"


def test_state_tells_everything_but_secrets(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(name="billing", scope="mcp:read", extra_parameters={"pin": "hidden-value"})
    before = provider.state()
    assert (before.cached, before.refresh_at, before.expires_at, before.last_error) == (False, None, None, None)
    token = provider.get_token()
    state = provider.state()
    assert (state.name, state.client_id, state.client_secret) == ("billing", "demo", "***")
    assert state.token_endpoint == authorization_server.token_endpoint()
    assert (state.scope, state.granted_scope, state.cached) == ("mcp:read", "mcp:read", True)
    assert state.refresh_at is not None
    assert state.expires_at is not None
    assert state.expires_at - state.refresh_at == datetime.timedelta(seconds=60)
    assert (state.counts.token_requests, state.counts.tokens, state.counts.failures) == (1, 1, 0)
    for secret in (token, authorization_server.client_secret, "hidden-value"):
        assert secret not in f"{state} {provider!r}"


def test_the_failure_of_a_refresh_shows_in_the_state_and_nowhere_else(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    provider = make_provider(clock=clock)
    token = provider.get_token()
    authorization_server.fail(503)
    clock.step(3545)
    assert provider.get_token() == token
    wait_for_landing(provider)
    state = provider.state()
    assert isinstance(state.last_error, TokenRequestError)
    assert state.counts.failures == 1
    assert provider.get_token() == token


def test_after_a_failed_refresh_another_is_tried_later_and_ends_the_failure(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    provider = make_provider(clock=clock)
    token = provider.get_token()
    authorization_server.fail(500)
    clock.step(3541)
    provider.get_token()
    wait_for_landing(provider)
    clock.step(10)
    assert provider.get_token() == token
    wait_for_landing(provider)
    assert provider.get_token() != token
    assert provider.state().last_error is None


def test_an_error_is_raised_only_when_the_token_has_really_expired(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    provider = make_provider(clock=clock)
    token = provider.get_token()
    authorization_server.fail(401, body='{"error": "invalid_client"}', count=9)
    for _ in range(3):
        clock.step(3550 if clock.now == 1_000_000.0 else 20)
        assert provider.get_token() == token
        wait_for_landing(provider)
        if clock.now > 1_003_570:
            break
    clock.now = 1_003_600.0
    with pytest.raises(TokenRequestError):
        provider.get_token()


def wait_for_landing(provider: TokenProvider) -> None:
    """Wait for the refresh that a call has just started."""
    flight = provider._control.flight
    if flight is not None:
        flight.landing.wait(10)


@pytest.mark.parametrize("fault", ["status", "drop"])
def test_passing_faults_are_retried_within_the_call(
    fault: str, authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    if fault == "status":
        authorization_server.fail(503, count=2)
    else:
        authorization_server.drop(count=2)
    provider = make_provider()
    assert provider.get_token()
    assert provider.state().counts.token_requests == 3


def test_retry_after_is_honoured_up_to_the_callers_deadline(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.fail(429, retry_after=3600)
    provider = make_provider(timeout=5)
    for _ in range(2):
        with pytest.raises(TokenRequestError) as caught:
            provider.get_token()
        assert caught.value.retry_after == 3600
    assert len(authorization_server.token_requests) == 1


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"])
def test_a_refusal_is_not_repeated_to_the_server_for_a_while(
    error: str, authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    # A refused client is asked for once more by the other method, within the same attempt.
    requests = 2 if error == "invalid_client" else 1
    authorization_server.fail(400, body=f'{{"error": "{error}"}}', count=requests)
    provider = make_provider(clock=clock)
    for _ in range(5):
        with pytest.raises(TokenRequestError) as caught:
            provider.get_token()
        assert caught.value.error == error
    assert len(authorization_server.token_requests) == requests
    clock.step(31)
    assert provider.get_token()


def test_a_dead_server_is_a_transport_error_within_the_timeout(make_provider: MakeProvider) -> None:
    provider = make_provider(token_endpoint="http://127.0.0.1:1/token", timeout=0.3)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1"):
        provider.get_token()
    with pytest.raises(TransportError):
        asyncio.run(provider.get_token_async())


def test_a_silent_server_is_a_transport_error_within_the_timeout(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.hold()
    with pytest.raises(TransportError):
        make_provider(timeout=0.4).get_token()


def test_invalidate_fetches_anew(make_provider: MakeProvider) -> None:
    provider = make_provider()
    first = provider.get_token()
    provider.invalidate()
    second = provider.get_token()
    assert second != first
    provider.invalidate(first)
    assert provider.get_token() == second
    provider.invalidate(second)
    assert provider.get_token() not in {first, second}
    assert provider.state().counts.invalidations == 2


def test_an_answer_to_a_request_from_before_an_invalidate_is_neither_cached_nor_handed_out(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.hold()
    provider = make_provider()

    async def main() -> str:
        waiting = asyncio.create_task(provider.get_token_async())
        await asyncio.to_thread(authorization_server.wait_for_token_requests, 1)
        provider.invalidate()
        await asyncio.to_thread(authorization_server.release)
        return await waiting

    token = asyncio.run(main())
    assert len(authorization_server.token_requests) == 2
    assert provider.get_token() == token
    assert provider.state().counts.tokens == 2


def test_a_closed_provider_says_so(make_provider: MakeProvider) -> None:
    with make_provider() as provider:
        provider.get_token()
    with pytest.raises(ProviderClosedError):
        provider.get_token()
    assert provider.state().closed
    assert not provider.state().cached


def test_closing_wakes_those_who_wait(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    authorization_server.hold()
    provider = make_provider()

    async def main() -> None:
        waiting = asyncio.create_task(provider.get_token_async())
        await asyncio.to_thread(authorization_server.wait_for_token_requests, 1)
        await provider.aclose()
        with pytest.raises(ProviderClosedError):
            await waiting

    asyncio.run(main())
    authorization_server.release()


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_the_async_context_manager_closes(run: Any, make_provider: MakeProvider) -> None:
    async def main() -> None:
        async with make_provider() as provider:
            assert await provider.get_token_async() == await provider.get_token_async()
        with pytest.raises(ProviderClosedError):
            await provider.get_token_async()

    run(main())


def test_an_injected_client_is_used_and_left_open(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    with httpx2.Client(headers={"Authorization": "Bearer someone-elses"}, follow_redirects=True) as client:
        with make_provider(http_client=client) as provider:
            assert provider.get_token()
        assert authorization_server.token_requests[0]["method"] == "client_secret_basic"
        assert not client.is_closed


def test_an_issuer_leads_to_its_token_endpoint(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(issuer=authorization_server.issuer("42"))
    assert provider.state().token_endpoint is None
    assert provider.get_token()
    assert provider.state().token_endpoint == authorization_server.token_endpoint("42")


def test_an_issuer_without_metadata_is_a_discovery_error(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    with pytest.raises(DiscoveryError, match="publishes none"):
        make_provider(issuer=f"{authorization_server.url}/nobody").get_token()


def test_without_discovery_there_is_no_request_but_the_tokens_own(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(mcp_url=authorization_server.mcp_url(), discovery=False)
    assert provider.state().token_endpoint == authorization_server.token_endpoint()
    assert provider.get_token()
    assert "scope" not in authorization_server.token_requests[0]["form"]


def test_a_gateway_that_publishes_no_metadata_works_without_an_option(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(metadata=False)
    provider = make_provider(mcp_url=authorization_server.mcp_url("42"))
    assert provider.get_token()
    assert provider.state().token_endpoint == authorization_server.token_endpoint("42")
    assert authorization_server.token_requests[0]["method"] == "client_secret_post"


def test_what_the_gateway_publishes_is_followed(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(mcp_url=authorization_server.mcp_url("42"))
    assert provider.get_token()
    assert provider.state().issuer == authorization_server.issuer("42")
    (request,) = authorization_server.token_requests
    assert request["method"] == "client_secret_basic"
    assert request["form"]["scope"] == "mcp:read mcp:write"


def test_an_mcp_url_that_leads_nowhere_says_so(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    with pytest.raises(ConfigurationError, match="neither /mcp nor /jsonrpc"):
        make_provider(mcp_url=f"{authorization_server.url}/nothing").get_token()


def test_every_error_is_an_oauth_error() -> None:
    for kind in (ConfigurationError, DiscoveryError, InvalidTokenResponse, TokenRequestError, TransportError):
        assert issubclass(kind, OAuthError)


def test_an_endpoint_that_gave_tokens_before_and_answers_nonsense_is_asked_again(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.malform("html")
    first, later = make_provider(), make_provider()
    # Somebody who never had a token may have the wrong URL: that is said at once.
    with pytest.raises(InvalidTokenResponse):
        first.get_token()
    later.get_token()
    later.invalidate()
    authorization_server.malform("html", count=2)
    assert later.get_token()
    assert len(authorization_server.token_requests) == 5


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_provider_is_not_copied_to_another_process(
    duplicate: Callable[[TokenProvider], object], make_provider: MakeProvider
) -> None:
    with pytest.raises(TypeError, match="send its settings to the other process"):
        duplicate(make_provider())
