"""The circuit of an endpoint: one of a fleet tries it while it is in trouble, and the others hear what came of it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest

from conduit_oauth import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    TokenRequestError,
    TransportError,
)
from conduit_oauth.refusals import Explanation
from conduit_oauth.sharing.gate import MEMORY, Busy, Gate, Refused, is_trouble, recalled, remembered
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import NOTHING, Known
from conduit_oauth.stores.memory import MemoryStore
from tests.conftest import FakeClock

URL = "https://as.example/token"
DOWN = TransportError(URL, "refuses connections")


@pytest.fixture
def tier(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Tier:
    monkeypatch.setattr("conduit_oauth.sharing.gate.jitter", lambda: 1.0)
    return Tier(MemoryStore(clock), 0.05, remote=False)


def test_an_endpoint_without_trouble_is_asked_by_all(tier: Tier) -> None:
    assert [Gate(None, tier, URL).admit() for _ in range(3)] == [None] * 3


def test_while_it_pauses_nobody_asks_and_then_one_does(tier: Tier, clock: FakeClock) -> None:
    one, other, third = (Gate(None, tier, URL) for _ in range(3))
    assert one.admit() is None
    assert one.failed(DOWN, 0.0, 30.0) == 0.5
    refused = other.admit()
    assert isinstance(refused, Refused)
    assert refused.seconds == pytest.approx(0.5)
    assert str(refused.error) == str(DOWN)
    # Another endpoint is another circuit.
    assert Gate(None, tier, f"{URL}/x").admit() is None
    clock.step(0.5)
    assert other.admit() is None
    # It may ask, and is not asked again whether it may.
    assert other.admit() is None
    assert isinstance(third.admit(), Busy)
    other.leave()
    assert third.admit() is None


def test_pauses_grow_until_an_answer_ends_them(tier: Tier, clock: FakeClock) -> None:
    pauses: list[float] = []
    for _ in range(5):
        gate = Gate(None, tier, URL)
        assert gate.admit() is None
        pauses.append(gate.failed(DOWN, 0.0, 30.0))
        clock.step(pauses[-1])
    assert pauses == [0.5, 1.0, 1.5, 1.5, 1.5]
    gate = Gate(None, tier, URL)
    assert gate.admit() is None
    gate.answered()
    again = Gate(None, tier, URL)
    assert again.admit() is None
    assert again.failed(DOWN, 0.0, 30.0) == 0.5


def test_the_count_is_remembered_for_a_minute_after_the_pause(tier: Tier, clock: FakeClock) -> None:
    def fail() -> float:
        gate = Gate(None, tier, URL)
        assert gate.admit() is None
        return gate.failed(DOWN, 0.0, 30.0)

    assert fail() == 0.5
    clock.step(0.5 + 59.9)
    assert fail() == 1.0
    clock.step(1.0 + 60.0)
    assert fail() == 0.5


@pytest.mark.parametrize(
    ("asked", "left", "pause"),
    [
        (7.0, 30.0, 7.0),
        (0.1, 30.0, 0.5),
        # No header switches a client off for a day.
        (86_400.0, 30.0, 600.0),
        # One last attempt before the callers' time is over.
        (0.0, 0.4, 0.3),
        (0.0, 0.01, 0.5),
    ],
)
def test_a_pause_is_the_servers_or_ours_and_bounded(asked: float, left: float, pause: float, tier: Tier) -> None:
    gate = Gate(None, tier, URL)
    assert gate.admit() is None
    assert gate.failed(DOWN, asked, left) == pytest.approx(pause)


def test_who_asked_beside_the_one_who_tries_counts_no_failure(tier: Tier, clock: FakeClock) -> None:
    one, beside = Gate(None, tier, URL), Gate(None, tier, URL)
    assert one.admit() is None
    assert beside.admit() is None
    assert one.failed(DOWN, 0.0, 30.0) == 0.5
    clock.step(0.5)
    trying = Gate(None, tier, URL)
    assert trying.admit() is None
    assert beside.failed(DOWN, 0.25, 30.0) == 0.25
    assert trying.failed(DOWN, 0.0, 30.0) == 1.0


def test_who_left_asks_again_whether_it_may(tier: Tier) -> None:
    gate = Gate(None, tier, URL)
    assert gate.admit() is None
    gate.failed(DOWN, 0.0, 30.0)
    assert isinstance(gate.admit(), Refused)


def test_who_leaves_is_not_waited_for(tier: Tier, clock: FakeClock) -> None:
    trying, busy = Gate(None, tier, URL), Gate(None, tier, URL)
    assert trying.admit() is None
    trying.failed(DOWN, 0.0, 30.0)
    clock.step(0.5)
    assert trying.admit() is None
    assert isinstance(busy.admit(), Busy)
    assert len(tier.waiting) == 1
    busy.leave()
    assert not tier.waiting


def test_a_look_at_an_endpoint_keeps_nobody_from_writing_down_its_failure(tier: Tier) -> None:
    looking, failing, third = (Gate(None, tier, URL) for _ in range(3))
    assert looking.admit() is None
    assert failing.admit() is None
    failing.failed(DOWN, 0.0, 30.0)
    assert isinstance(third.admit(), Refused)


def test_an_answer_of_an_endpoint_without_trouble_is_not_written_down(clock: FakeClock) -> None:
    class Untouched(MemoryStore):
        def forget(self, *_: Any, **__: Any) -> NoReturn:
            raise AssertionError

    gate = Gate(None, Tier(Untouched(clock), 0.05, remote=False), URL)
    assert gate.admit() is None
    gate.answered()


def test_a_fault_of_this_machine_is_known_to_this_process_alone(tier: Tier, clock: FakeClock) -> None:
    local, elsewhere = (Tier(MemoryStore(clock), 0.05, remote=False) for _ in range(2))
    here = Gate(tier, local, URL)
    assert here.admit() is None
    here.failed(TransportError(URL, "has no descriptors left", local=True), 0.0, 30.0)
    assert isinstance(Gate(tier, local, URL).admit(), Refused)
    assert Gate(tier, elsewhere, URL).admit() is None
    there = Gate(tier, elsewhere, URL)
    assert there.admit() is None
    there.failed(DOWN, 0.0, 30.0)
    assert isinstance(Gate(tier, Tier(MemoryStore(clock), 0.05, remote=False), URL).admit(), Refused)


def test_a_shared_record_is_for_those_who_know_the_endpoint(tier: Tier, clock: FakeClock) -> None:
    store = MemoryStore(clock)
    shared = Tier(store, 0.05, remote=False)
    gate = Gate(shared, tier, URL)
    assert gate.admit() is None
    gate.failed(DOWN, 0.0, 30.0)
    other = Tier(MemoryStore(clock), 0.05, remote=False)
    refused = Gate(shared, other, URL).admit()
    assert isinstance(refused, Refused)
    assert str(refused.error) == str(DOWN)
    ((key, row),) = store._rows.items()
    assert row.value is not None
    for said in (b"as.example", b"refuses", b"failures"):
        assert said not in row.value
        assert said.decode() not in key
    # What was written by who does not know it, or is put back with another end, is a miss.
    row.expires += 60
    assert Gate(shared, other, URL).admit() is None
    row.value = json.dumps({"url": URL, "problem": "is forged", "failures": 1}).encode()
    assert Gate(shared, other, URL).admit() is None


@pytest.mark.parametrize(
    "forged",
    [
        {"at": 10**400},
        {"at": "now"},
        {"failures": -1},
        {"failures": 10**400},
        {"problem": "\x1b[2J\nfalls " + "x" * 100_000},
        {"status": 10**4000, "error": "\n\x1b", "error_description": ["no text"]},
        {"status": 500, "error": "\n\x1b", "error_description": "y" * 100_000, "cause": 7, "advice": "\r" * 100_000},
    ],
    ids=lambda forged: " ".join(forged),
)
def test_a_record_that_somebody_made_up_crashes_nothing_and_forges_no_line(
    forged: dict[str, Any], tier: Tier, clock: FakeClock
) -> None:
    shared = Tier(MemoryStore(clock), 0.05, remote=False)
    gate = Gate(shared, tier, URL)
    seal = gate._seal(shared)
    assert seal is not None
    granted = shared.store.claim(gate._key, NOTHING, 1.0, "them")
    end = granted.now + MEMORY + 5.0
    said = json.dumps({"url": URL, "failures": 1, "at": granted.now, "demanded": False, **forged}).encode()
    sealed = seal.close(said, granted.generation, granted.lease, end)
    assert shared.store.write(gate._key, sealed, granted.lease, end, granted.generation)
    told = gate.admit()
    if isinstance(told, Refused):
        assert str(told.error).isprintable()
        assert len(str(told.error)) < 10_000
    else:
        assert told is None


def test_a_store_that_breaks_down_meanwhile_stops_nobody(tier: Tier, clock: FakeClock) -> None:
    class Down(Tier):
        def claim(self, key: str, known: Known, seconds: float, owner: str = "") -> None:
            """As a tier whose store gives no answer."""

    gate = Gate(Down(MemoryStore(clock), 0.05, remote=False), tier, URL)
    assert gate.admit() is None
    assert gate.failed(DOWN, 0.25, 30.0) == 0.25
    gate.leave()


def test_failures_of_before_are_disregarded_once_and_by_one_flight(tier: Tier, clock: FakeClock) -> None:
    Gate(None, tier, URL).failed(DOWN, 0.0, 30.0)
    clock.step(0.1)
    assert isinstance(Gate(None, tier, URL, 0.1).admit(), Refused)
    one, other = Gate(None, tier, URL, 0.05), Gate(None, tier, URL, 0.05)
    assert one.admit() is None
    assert isinstance(other.admit(), Busy)
    one.failed(DOWN, 0.0, 30.0)
    assert isinstance(other.admit(), Refused)


@pytest.mark.parametrize("seconds", [0.9, 9.0])
def test_a_pause_that_the_server_asked_for_is_never_disregarded(seconds: float, tier: Tier, clock: FakeClock) -> None:
    Gate(None, tier, URL).failed(TokenRequestError(URL, 503, retry_after=seconds), seconds, 30.0)
    clock.step(0.8)
    assert isinstance(Gate(None, tier, URL, 0.0).admit(), Refused)


@pytest.mark.parametrize(
    "said",
    [
        b'{"failures": 0, "at": 1, "demanded": true}',
        b'{"failures": 1, "at": "x", "demanded": true}',
        b'{"failures": 1, "at": NaN, "demanded": true}',
        b'{"failures": 1e9, "at": 1, "demanded": true}',
        b'{"failures": "x", "at": 1, "demanded": true}',
        b'{"failures": 1, "at": 1}',
        b'{"failures": 1, "demanded": true}',
        b"garbage",
        b"[]",
    ],
)
def test_a_record_of_nobody_of_ours_stops_nobody(said: bytes, tier: Tier, clock: FakeClock) -> None:
    (key,) = record_of_failure(tier)
    entry = tier.store.claim(key, NOTHING, 0.0)
    lease = tier.store.claim(key, Known(entry.generation, entry.fence), 10.0, "owner")
    assert tier.store.write(key, said, lease.lease, clock() + 3600.0, lease.generation)
    assert Gate(None, tier, URL).admit() is None


@pytest.mark.parametrize("shared", [True, False], ids=["by the fleet", "by this process"])
def test_who_has_no_time_left_is_told_the_last_failure(shared: bool, tier: Tier, clock: FakeClock) -> None:
    local = Tier(MemoryStore(clock), 0.05, remote=False)
    one, tries, other = (Gate(tier if shared else None, local, URL) for _ in range(3))
    assert other.told() is None
    assert one.admit() is None
    one.failed(TokenRequestError(URL, 503), 0.0, 30.0)
    told = other.told()
    assert isinstance(told, TokenRequestError)
    assert (told.status, told.retry_after) == (503, 0.5)
    clock.step(5.0)
    assert tries.admit() is None
    told = other.told()
    assert isinstance(told, TokenRequestError)
    assert (told.status, told.retry_after) == (503, 0.0)
    # It was told, and has no right to try for that.
    assert isinstance(other.admit(), Busy)
    tries.answered()
    assert other.told() is None


@pytest.mark.parametrize(("status", "is_one"), [(99, False), (100, True), (599, True), (600, False), ("503", False)])
def test_what_was_no_status_is_none_when_it_is_recalled(status: object, is_one: bool) -> None:
    assert isinstance(recalled({"url": URL, "status": status, "problem": "x"}, 5.0), TokenRequestError) is is_one


@pytest.mark.parametrize("said", [{}, {"cause": "x"}, {"advice": "Do that."}, {"cause": 1, "advice": "Do that."}])
def test_advice_without_its_cause_is_made_anew(said: dict[str, object]) -> None:
    again = recalled({"url": URL, "status": 503, **said}, 5.0)
    assert str(again).endswith("The server is in trouble; try again later.")


def record_of_failure(tier: Tier) -> set[str]:
    """The key of what is written down of a failure of the endpoint."""
    before = set(tier.store._rows)  # pyright: ignore
    gate = Gate(None, tier, URL)
    assert gate.admit() is None
    gate.failed(DOWN, 0.0, 30.0)
    return set(tier.store._rows) - before  # pyright: ignore


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (TransportError(URL, "x"), True),
        (TransportError(URL, "x", retryable=False), True),
        (TokenRequestError(URL, 503), True),
        (TokenRequestError(URL, 429), False),
        (TokenRequestError(URL, 400, error="invalid_scope"), False),
        (TokenRequestError(URL, 400, error="server_error"), True),
        (DiscoveryError("step", URL, "found", "expected", retryable=True), True),
        (DiscoveryError("step", URL, "found", "expected"), False),
        (InvalidTokenResponse(URL, "body", "is no JSON"), False),
        (ConfigurationError("client_secret", "is missing", "Give it."), False),
    ],
)
def test_what_speaks_against_an_endpoint(error: OAuthError, trouble: bool) -> None:
    assert is_trouble(error) is trouble


@pytest.mark.parametrize(
    "error",
    [
        TokenRequestError(URL, 503, error="temporarily_unavailable", error_description="come back"),
        TokenRequestError(URL, 401, error="invalid_client"),
        TokenRequestError(URL, 401, error="invalid_client", explanation=Explanation("key-unknown", "Register it.")),
        TransportError(URL, "refuses connections"),
        TransportError(URL, "has another certificate", "Look at it.", retryable=False),
    ],
)
def test_an_error_is_recalled_as_it_was(error: OAuthError) -> None:
    again = recalled(remembered(error), 5.0)
    assert (type(again), str(again), again.retryable) == (type(error), str(error), error.retryable)
    if isinstance(again, TokenRequestError):
        assert again.retry_after == 5.0


def test_a_malformed_answer_is_told_without_what_was_in_it() -> None:
    error = InvalidTokenResponse(URL, "expires_in", "is not a number of seconds")
    again = recalled(remembered(error), 5.0)
    assert "the token response's expires_in was malformed" in str(again)
    assert again.retryable


def test_what_says_nothing_of_the_error_is_one_all_the_same() -> None:
    assert "None" not in str(recalled({"url": URL, "status": 401, "cause": "key-unknown"}, 5.0))
    assert "could not be asked" in str(recalled({}, 5.0))
