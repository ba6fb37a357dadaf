"""How a call without a token waits for a server in trouble: until shortly after it is back, or until the deadline."""

from __future__ import annotations

import itertools
from typing import Any

import httpx2
import pytest

from conduit_oauth import DiscoveryError, OAuthError, TokenProvider, TokenRequestError, TransportError
from conduit_oauth.client.transport import Errand, Transport
from conduit_oauth.events import Event
from conduit_oauth.protocol.pauses import WAITING_CAP, latest_pause, pause_after
from conduit_oauth.stores.memory import MemoryStore
from tests.conftest import FakeClock

AS = "https://as.example"


class Server:
    """Answers with what it is told until it is well again; notes the moments of the requests."""

    def __init__(self, clock: FakeClock, well_after: float, failure: Any = 503) -> None:
        self.clock = clock
        self.begun = clock.now
        self.well_after = well_after
        self.failure = failure
        self.asked: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        moment = self.clock.now - self.begun
        self.asked.append(moment)
        if moment < self.well_after:
            if isinstance(self.failure, Exception):
                raise self.failure
            return httpx2.Response(self.failure)
        if request.method == "GET":
            return httpx2.Response(200, json={"issuer": AS, "token_endpoint": f"{AS}/token"})
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    def provider(self, **settings: Any) -> TokenProvider:
        where = {} if "issuer" in settings else {"token_endpoint": f"{AS}/token"}
        return TokenProvider("me", "s", transport=httpx2.MockTransport(self), clock=self.clock, **where, **settings)


@pytest.fixture(autouse=True)
def _pauses_take_no_time(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    """A pause of a flight moves the clock, and is over."""
    monkeypatch.setattr("conduit_oauth.lifecycle.flight.pause_on", lambda _, seconds: clock.step(seconds))


@pytest.mark.parametrize("failure", [503, httpx2.ConnectError("refused")], ids=["503", "no connection"])
@pytest.mark.parametrize("away", [0.5, 5.0, 20.0, 29.0])
def test_a_server_that_is_back_is_found_within_two_seconds(away: float, failure: Any, clock: FakeClock) -> None:
    server = Server(clock, away, failure)
    with server.provider() as provider:
        assert provider.get_token() == "a"
    assert server.asked[-1] - away < 2.0


@pytest.mark.parametrize("timeout", [1.0, 8.0, 30.0])
def test_the_last_attempt_is_just_before_the_deadline(timeout: float, clock: FakeClock) -> None:
    server = Server(clock, 1e9)
    with server.provider(timeout=timeout) as provider, pytest.raises(TokenRequestError, match="503"):
        provider.get_token()
    assert timeout - 0.5 <= server.asked[-1] < timeout


@pytest.mark.parametrize("late", [0.0, 0.5])
def test_a_call_that_runs_out_of_time_names_the_failure_and_not_its_own_end(late: float, clock: FakeClock) -> None:
    """The last attempt is cut by the deadline of the call: that it got no answer in half a second says nothing."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        if clock.now - begun < 29.0:
            return httpx2.Response(503)
        clock.now = begun + 30.0 + late
        raise httpx2.ReadTimeout("")

    begun = clock.now
    transport = httpx2.MockTransport(answer)
    with (
        TokenProvider("me", "s", token_endpoint=f"{AS}/token", transport=transport, clock=clock) as one,
        pytest.raises(TokenRequestError, match="503"),
    ):
        one.get_token()
    assert clock.now - begun > 29.0


def test_a_server_that_limits_requests_is_asked_ever_less_often(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conduit_oauth.lifecycle.flight.jitter", lambda: 1.0)
    server = Server(clock, 1e9, 429)
    with server.provider(timeout=30.0) as provider, pytest.raises(TokenRequestError, match="429"):
        provider.get_token()
    pauses = [after - before for before, after in itertools.pairwise(server.asked)]
    assert pauses[:7] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_an_attempt_has_the_time_that_is_left(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def begin(transport: Transport, seconds: float) -> Errand:
        given.append(clock.now + seconds)
        return Errand(transport, seconds)

    monkeypatch.setattr("conduit_oauth.lifecycle.flight.Errand", begin)
    deadline = clock.now + 30
    with Server(clock, 1e9).provider(timeout=30.0) as provider, pytest.raises(TokenRequestError, match="503"):
        provider.get_token()
    assert given == pytest.approx([deadline] * len(given))


def test_what_the_deadline_of_one_client_cuts_is_no_trouble_for_another(clock: FakeClock) -> None:
    asked: list[float] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(clock.now)
        if len(asked) == 1:
            clock.step(1.1)
            raise httpx2.ReadTimeout("")
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    store = MemoryStore(clock)

    def client(name: str, timeout: float) -> TokenProvider:
        return TokenProvider(
            name,
            "s",
            token_endpoint=f"{AS}/token",
            transport=httpx2.MockTransport(answer),
            clock=clock,
            timeout=timeout,
            store=store,
            store_timeout=5.0,
        )

    with client("hasty", 1.0) as hasty, client("other", 30.0) as other:
        with pytest.raises(TransportError):
            hasty.get_token()
        hasty.control.settle(hasty.control.flight)
        before = clock.now
        assert other.get_token() == "a"
        assert asked[-1] == before


def test_a_server_that_asks_for_more_time_than_there_is_gets_no_last_attempt(clock: FakeClock) -> None:
    asked: list[float] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(clock.now)
        return httpx2.Response(503, headers={"Retry-After": "60"})

    with (
        TokenProvider(
            "me", "s", token_endpoint=f"{AS}/token", transport=httpx2.MockTransport(answer), clock=clock
        ) as one,
        pytest.raises(TokenRequestError),
    ):
        one.get_token()
    assert len(asked) == 1


@pytest.mark.parametrize("left", [0.0, 0.04, 0.3, 1.0, 30.0, float("inf"), -float("inf")])
def test_a_pause_is_bounded_by_its_cap_and_leaves_time_for_one_more_attempt(left: float) -> None:
    pause = pause_after(TransportError(AS, "refused"), 100, 1.0, left)
    assert 0 <= pause <= WAITING_CAP
    assert pause <= latest_pause(left)


def test_the_retries_of_discovery_are_no_token_requests(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    server = Server(clock, 3.0)
    with server.provider(issuer=AS, observer=events.append) as provider:
        provider.get_token()
        assert provider.state().counts.token_requests == 1
    assert "discovery_retried name=me" in caplog.text
    assert "token_request_retried" not in caplog.text
    retried = [event for event in events if event.error is not None]
    assert {event.name for event in retried} == {"discovery_retried"}
    assert all(isinstance(event.error, DiscoveryError) for event in retried)


def test_a_discovery_that_fails_is_called_so(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    with Server(clock, 1e9).provider(issuer=AS, timeout=2) as provider, pytest.raises(DiscoveryError):
        provider.get_token()
    assert "discovery_failed name=me" in caplog.text
    assert "token_request" not in caplog.text
    assert provider.state().counts.token_requests == 0


def test_a_refresh_brings_another_token_though_the_cached_one_is_valid(clock: FakeClock) -> None:
    tokens = iter("abc")
    fails = False

    def answer(_: httpx2.Request) -> httpx2.Response:
        if fails:
            return httpx2.Response(400, json={"error": "invalid_scope"})
        return httpx2.Response(200, json={"access_token": next(tokens), "token_type": "Bearer", "expires_in": 3600})

    with TokenProvider(
        "me", "s", token_endpoint=f"{AS}/token", transport=httpx2.MockTransport(answer), clock=clock
    ) as provider:
        assert provider.refresh() == "a"
        assert provider.refresh() == "b"
        assert provider.get_token() == "b"
        fails = True
        with pytest.raises(OAuthError, match="invalid_scope"):
            provider.refresh()
        # Nothing is lost.
        assert provider.get_token() == "b"
        with pytest.raises(OAuthError, match="invalid_scope"):
            provider.refresh()
        fails = False
        clock.step(31)
        assert provider.refresh() == "c"


@pytest.mark.parametrize("run", ["asyncio", "trio"])
def test_a_refresh_can_be_awaited(run: str, clock: FakeClock) -> None:
    import asyncio

    import trio

    async def main() -> None:
        async with Server(clock, 0.0).provider() as provider:
            assert await provider.refresh_async() == "a"

    trio.run(main) if run == "trio" else asyncio.run(main())
