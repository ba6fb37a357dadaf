"""What a flight tells of itself, what it takes from others, and when it ends."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from conduit_oauth import (
    ConfigurationError,
    InvalidTokenResponse,
    OAuthError,
    ProviderClosedError,
    TokenProvider,
    TokenRequestError,
    TransportError,
)
from conduit_oauth.client.requester import Requester
from conduit_oauth.events import Event
from conduit_oauth.stores import NOTHING, Entry, Known, News
from conduit_oauth.stores.memory import MemoryStore
from tests.conftest import FakeClock
from tests.stores.conftest import settle

TOKEN_ENDPOINT = "https://as.example/token"


def token(value: str = "a", expires_in: int = 100) -> httpx2.Response:
    return httpx2.Response(200, json={"access_token": value, "token_type": "Bearer", "expires_in": expires_in})


class Store(MemoryStore):
    """Notes which keys were looked at and forgotten. Its news reach nobody: a test says who hears what, and when."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.looked_at: list[str] = []
        self.forgotten: list[str] = []

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        self.looked_at.append(key)
        return super().claim(key, known, lease, owner)

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        self.forgotten.append(key)
        return super().forget(key, fence, generation, void)

    def listen(self, seconds: float) -> Sequence[News]:
        super().listen(seconds)
        return ()


class Fleet:
    """Providers with one store, one clock and one authorization server, which does what a test tells it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = Store(clock)
        self.asked: list[float] = []
        self.answer: Callable[[], httpx2.Response] = token
        self.events: list[Event] = []
        self.providers: list[TokenProvider] = []
        # What else happens while a flight pauses.
        self.meanwhile: Callable[[], object] | None = None

    def provider(self, client_id: str = "me", **settings: Any) -> TokenProvider:
        made = TokenProvider(
            client_id,
            settings.pop("client_secret", "s"),
            token_endpoint=TOKEN_ENDPOINT,
            transport=httpx2.MockTransport(self._asked),
            clock=self.clock,
            observer=self.events.append,
            **settings,
        )
        self.providers.append(made)
        return made

    def member(self, client_id: str = "me", **settings: Any) -> TokenProvider:
        """A provider of another process with the same store."""
        return self.provider(client_id, **{"store": self.store, "store_timeout": 5.0, **settings})

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def pause(self, _: object, seconds: float) -> bool:
        self.clock.step(seconds)
        if seconds > 0 and (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        return False

    def _asked(self, _: httpx2.Request) -> httpx2.Response:
        self.asked.append(self.clock.now)
        return self.answer()


@pytest.fixture
def fleet(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(clock)
    monkeypatch.setattr("conduit_oauth.lifecycle.flight.pause_on", made.pause)
    yield made
    for provider in made.providers:
        provider.close()


def test_an_event_says_how_long_a_request_took_and_how_long_its_token_lasts(fleet: Fleet, clock: FakeClock) -> None:
    values = iter("abc")

    def answer() -> httpx2.Response:
        clock.step(0.25)
        return token(next(values))

    fleet.answer = answer
    provider = fleet.provider()
    provider.refresh()
    provider.refresh()
    clock.step(99.75)  # the moment at which the token ends
    provider.get_token()
    assert [(event.seconds, event.lifetime, event.refresh) for event in fleet.told("token_received")] == [
        (0.25, 99.75, False),
        (0.25, 99.75, True),
        (0.25, 99.75, False),
    ]


def test_an_event_says_how_long_a_token_of_the_store_lasts(fleet: Fleet, clock: FakeClock) -> None:
    for _ in range(2):
        provider = fleet.member()
        provider.get_token()
        settle(provider)
        clock.step(10)
    assert [round(event.lifetime or 0) for event in fleet.told("token_adopted")] == [90]


def test_a_token_of_the_store_whose_refresh_is_due_is_refreshed_at_once(fleet: Fleet, clock: FakeClock) -> None:
    provider = fleet.member()
    provider.get_token()
    settle(provider)
    clock.step(70)
    fleet.asked.clear()
    late = fleet.member()
    assert late.get_token() == "a"
    settle(late)
    assert fleet.asked == [clock.now]


def test_an_endpoint_that_failed_is_asked_at_once_when_that_is_forgiven(fleet: Fleet, clock: FakeClock) -> None:
    fleet.answer = lambda: httpx2.Response(503, headers={"Retry-After": "0"})
    provider = fleet.provider(timeout=3.0)
    with pytest.raises(TokenRequestError, match="503"):
        provider.get_token()
    fleet.answer = token
    clock.step(0.001)
    provider.control.forgive()
    now = clock.now
    assert provider.get_token() == "a"
    assert fleet.asked[-1] == now


def test_what_failed_since_is_not_forgiven(fleet: Fleet, clock: FakeClock) -> None:
    fleet.answer = lambda: httpx2.Response(503)
    provider = fleet.provider(timeout=3.0)
    provider.control.forgive()
    clock.step(0.001)
    with pytest.raises(TokenRequestError, match="503"):
        provider.get_token()
    fleet.answer = token
    provider.control.life.forgive()
    now = clock.now
    assert provider.get_token() == "a"
    assert fleet.asked[-1] > now


class TestWhileAnotherProcessAsks:
    def test_a_call_ends_at_its_deadline(self, fleet: Fleet, clock: FakeClock) -> None:
        other = fleet.member(timeout=1.0)
        said: list[str] = []

        def answer() -> httpx2.Response:
            begun = clock.now
            fleet.meanwhile = lambda: said.append(other.control.progress())
            with pytest.raises(TransportError, match="no token within 1 s: another client or process"):
                other.get_token()
            assert clock.now == begun + 1
            other.control.settle(None)
            return token()

        fleet.answer = answer
        assert fleet.member().get_token() == "a"
        assert len(fleet.asked) == 1
        assert said == ["another client or process is asking first, and has no answer yet"]

    def test_a_call_says_what_is_wrong_with_the_endpoint(self, fleet: Fleet) -> None:
        leader, other = fleet.member(), fleet.member(timeout=0.01)
        errors: list[OAuthError] = []

        def ask() -> None:
            with pytest.raises(OAuthError) as caught:
                other.get_token()
            errors.append(caught.value)

        def answer() -> httpx2.Response:
            fleet.meanwhile = ask
            fleet.answer = token
            return httpx2.Response(503)

        fleet.answer = answer
        assert leader.get_token() == "a"
        assert ["503" in str(error) for error in errors] == [True]

    def test_a_call_says_what_is_wrong_with_the_endpoint_that_another_client_tries(self, fleet: Fleet) -> None:
        first, second = fleet.member("first"), fleet.member("second", timeout=0.01)

        def answer() -> httpx2.Response:
            with pytest.raises(OAuthError, match="503"):
                second.get_token()
            return token()

        def fail() -> httpx2.Response:
            fleet.answer = answer
            return httpx2.Response(503)

        fleet.answer = fail
        assert first.get_token() == "a"
        assert len(fleet.asked) == 2

    def test_a_call_asks_as_soon_as_that_one_has_given_up(self, fleet: Fleet, clock: FakeClock) -> None:
        provider = fleet.member()
        provider.get_token()
        settle(provider)
        provider.invalidate()
        provider.control.settle(None)
        assert provider.control.share is not None
        key, released = provider.control.share._key, list[float]()
        assert fleet.store.claim(key, NOTHING, 5.0, "another").lease

        def give_up() -> None:
            fleet.store.release(key, "another")
            released.append(clock.now)

        fleet.meanwhile = give_up
        fleet.asked.clear()
        assert provider.get_token() == "a"
        assert fleet.asked == released

    def test_a_refresh_rests_for_a_second(self, fleet: Fleet, clock: FakeClock) -> None:
        leader, other = fleet.member(), fleet.member()
        for provider in (leader, other):
            assert provider.get_token() == "a"
            settle(provider)
        clock.step(70)  # into the window of the refresh
        looked: list[bool] = []

        def look() -> None:
            fleet.store.looked_at.clear()
            assert other.get_token() == "a"
            if (flight := other.control.flight) is not None:
                assert flight.done.wait(30)
            looked.append(bool(fleet.store.looked_at))

        def answer() -> httpx2.Response:
            look()
            look()
            clock.step(1.0)
            look()
            return token("b")

        fleet.answer = answer
        assert leader.refresh() == "b"
        assert looked == [True, False, True]


def test_nonsense_of_a_server_is_looked_at_twice_where_others_got_tokens_of_it(fleet: Fleet) -> None:
    answers = iter([httpx2.Response(200, text="nonsense"), token()])
    fleet.answer = lambda: next(answers)
    assert fleet.member().get_token() == "a"


def test_a_server_that_says_nothing_but_nonsense_is_asked_twice(fleet: Fleet) -> None:
    fleet.answer = lambda: httpx2.Response(200, text="nonsense")
    with pytest.raises(OAuthError):
        fleet.member().get_token()
    assert len(fleet.asked) == 2


def test_a_secret_that_cannot_be_read_is_named_with_a_store_too(fleet: Fleet, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    provider = fleet.member(client_secret=secret)
    secret.unlink()
    with pytest.raises(ConfigurationError, match=str(secret)):
        provider.get_token()


def test_a_token_in_its_last_second_is_asked_for_again_without_a_warning(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([token(expires_in=0), token("b")])
    fleet.answer = lambda: next(answers)
    assert fleet.provider().get_token() == "b"
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_token_that_ends_at_once_is_asked_for_until_its_last_second_is_over(fleet: Fleet, clock: FakeClock) -> None:
    begun = clock.now
    fleet.answer = lambda: token(expires_in=0)
    with pytest.raises(InvalidTokenResponse):
        fleet.provider().get_token()
    assert len(fleet.asked) == 4
    assert 1.0 < clock.now - begun < 5.0


@pytest.mark.parametrize("answer", [token(expires_in=0), token(value="a b")], ids=["never lasts", "no token"])
def test_an_answer_without_a_use_is_a_warning_where_it_is_the_last(
    answer: httpx2.Response, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.answer = lambda: answer
    with pytest.raises(InvalidTokenResponse):
        fleet.provider(timeout=1.0).get_token()
    assert caplog.records[-1].levelname == "WARNING"


def test_an_endpoint_that_refused_a_client_is_well_for_the_others(fleet: Fleet) -> None:
    answers = iter([httpx2.Response(503)] * 4 + [httpx2.Response(400, json={"error": "invalid_scope"})])
    fleet.answer = lambda: next(answers)
    with pytest.raises(TokenRequestError, match="invalid_scope"):
        fleet.member("one").get_token()
    # By its answer, and not when it failed.
    assert [key.partition("-")[0] for key in fleet.store.forgotten] == ["endpoint"]
    answers = iter([httpx2.Response(503), token()])
    assert fleet.member("another").get_token() == "a"
    # The pause after a first failure: it would be 0.75 s at least after a fifth one.
    assert fleet.asked[-1] - fleet.asked[-2] < 0.51


def test_an_endpoint_without_a_connection_is_left_alone_by_the_others(fleet: Fleet, clock: FakeClock) -> None:
    def refuse() -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    fleet.answer = refuse
    with pytest.raises(TransportError, match="refused"):
        fleet.member("one", timeout=3.0).get_token()
    fleet.answer = token
    now = clock.now
    assert fleet.member("another").get_token() == "a"
    assert fleet.asked[-1] > now


def test_a_token_that_is_void_as_it_comes_is_asked_for_again_and_not_for_ever(fleet: Fleet) -> None:
    provider, other = fleet.member(), fleet.member()
    assert other.get_token() == "a"
    settle(other)
    other.invalidate()
    other.control.settle(None)

    def answer() -> httpx2.Response:
        other.invalidate()
        other.control.settle(None)
        assert other.control.share is not None
        provider.control.heard(fleet.store.claim(other.control.share._key, NOTHING, 0.0))
        return token(f"t{len(fleet.asked) - 1}")

    fleet.answer = answer
    assert provider.get_token() == "t3"
    assert fleet.asked == [fleet.clock.now] * 4


def test_a_failure_is_called_retried_but_for_the_last_one(fleet: Fleet) -> None:
    fleet.answer = lambda: httpx2.Response(503)
    with pytest.raises(TokenRequestError):
        fleet.provider(timeout=3.0).get_token()
    names = [event.name for event in fleet.events]
    assert len(names) > 2
    assert names == ["token_request_retried"] * (len(names) - 1) + ["token_request_failed"]


@pytest.mark.parametrize(
    ("refusal", "asked_again"),
    [
        (httpx2.Response(400, json={"error": "invalid_scope"}), False),
        (httpx2.Response(429, headers={"Retry-After": "5"}), True),
    ],
    ids=["for good", "for a while"],
)
def test_a_refusal_counts_for_the_fleet_as_long_as_for_its_client(
    refusal: httpx2.Response, asked_again: bool, fleet: Fleet, clock: FakeClock
) -> None:
    fleet.answer = lambda: refusal
    with pytest.raises(TokenRequestError):
        fleet.member(timeout=1.0).get_token()
    clock.step(10)
    fleet.answer = token
    late = fleet.member(timeout=1.0)
    if asked_again:
        assert late.get_token() == "a"
    else:
        with pytest.raises(TokenRequestError, match="invalid_scope"):
            late.get_token()


def test_nobody_waits_until_the_store_has_the_token(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    returned, write, in_time = threading.Event(), fleet.store.write, list[bool]()

    def slow(*arguments: Any) -> bool:
        in_time.append(returned.wait(30))
        return write(*arguments)

    monkeypatch.setattr(fleet.store, "write", slow)
    provider = fleet.member(timeout=600.0, store_timeout=100.0)
    assert provider.get_token() == "a"
    returned.set()
    settle(provider)
    assert in_time == [True]


class TestARequestThatHangs:
    @pytest.fixture
    def mute(self) -> Iterator[socket.socket]:
        """Accepts connections, and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(60)
            yield server

    def test_it_is_cut_when_the_provider_closes(self, mute: socket.socket) -> None:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/token"
        provider = TokenProvider("me", "s", token_endpoint=url, timeout=600.0)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(provider.get_token)
            connection, _ = mute.accept()
            with connection:
                connection.settimeout(60)
                assert connection.recv(65536)
                while "no answer" not in (said := provider.control.progress()):
                    time.sleep(0.001)
                assert said.startswith(url)
                assert provider.control.flight is not None
                assert not provider.control.flight.is_unreached
                provider.close()
                assert connection.recv(1) == b""
            with pytest.raises(ProviderClosedError):
                call.result()

    def test_it_has_reached_nobody_before_the_name_is_resolved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, answer = threading.Event(), threading.Event()

        def resolve(*_: Any, **__: Any) -> Any:
            asked.set()
            assert answer.wait(60)
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        own = SimpleNamespace(**{**vars(socket), "getaddrinfo": resolve})
        monkeypatch.setattr("conduit_oauth.client.network.socket", own)
        provider = TokenProvider("me", "s", token_endpoint=TOKEN_ENDPOINT, timeout=600.0)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(provider.get_token)
            assert asked.wait(60)
            flight = provider.control.flight
            assert flight is not None
            assert flight.is_unreached
            assert "its name is not resolved yet" in provider.control.progress()
            answer.set()
            provider.close()
            with pytest.raises(OAuthError):
                call.result()
            assert flight.done.wait(60)


def test_before_its_first_attempt_has_failed_a_flight_names_no_failure(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = fleet.member()
    said: list[str] = []
    claim = fleet.store.claim

    def look(*arguments: Any) -> Entry:
        said.append(provider.control.progress())
        return claim(*arguments)

    def answer() -> httpx2.Response:
        said.append(provider.control.progress())
        assert said == [""] * len(said)
        fleet.meanwhile = lambda: said.append(provider.control.progress())
        fleet.answer = token
        return httpx2.Response(503)

    fleet.answer = answer
    monkeypatch.setattr(fleet.store, "claim", look)
    provider.get_token()
    assert "503" in said[-1]


def test_whoever_keeps_a_provider_is_told_whether_a_flight_broke_down(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = fleet.provider()
    told: queue.Queue[bool] = queue.Queue()
    provider.control.ended = told.put

    with monkeypatch.context() as broken:
        broken.setattr(Requester, "fetch", lambda *_: 1 / 0)
        with pytest.raises(OAuthError, match="broke down with ZeroDivisionError"):
            provider.get_token()
    provider.control.life.forgive()
    assert provider.get_token() == "a"
    assert [told.get(timeout=60) for _ in range(2)] == [True, False]
