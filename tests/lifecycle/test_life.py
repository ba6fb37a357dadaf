from __future__ import annotations

import math

import pytest

from conduit_oauth import ConfigurationError, OAuthError, TokenRequestError, TransportError
from conduit_oauth.lifecycle.life import Life, Step
from conduit_oauth.protocol.pauses import backoff, latest_pause, pause_after
from conduit_oauth.token import AccessToken

FRESH, WINDOW, VOID = 10.0, 60.0, 100.0
TOKEN = AccessToken("token", refresh_at=50.0, expires_at=100.0)
REFUSED = TokenRequestError("url", 401, error="invalid_client")
BUSY = TokenRequestError("url", 429, retry_after=20.0)


def life(error: OAuthError | None = None, failed_at: float = 0.0) -> Life:
    made = Life()
    made.land(TOKEN, 0)
    if error:
        made.fail(error, failed_at, jitter=0.5)
    return made


@pytest.mark.parametrize(
    ("now", "in_flight", "step"),
    [
        (FRESH, False, Step.SERVE),
        (FRESH, True, Step.SERVE),
        (WINDOW, False, Step.REFRESH),
        (WINDOW, True, Step.SERVE),
        (VOID, False, Step.LEAD),
        (VOID, True, Step.JOIN),
    ],
)
def test_the_table_without_a_failure(now: float, in_flight: bool, step: Step) -> None:
    assert life().step(now, now + 30, in_flight=in_flight) is step


@pytest.mark.parametrize("error", [REFUSED, BUSY, TransportError("url", "refused")])
def test_after_a_failure_the_window_rests_and_then_tries_again(error: OAuthError) -> None:
    failed = life(error, WINDOW)
    assert failed.step(WINDOW + 0.1, WINDOW + 30, in_flight=False) is Step.SERVE
    assert failed.token is TOKEN
    assert failed.step(WINDOW + 31, WINDOW + 60, in_flight=False) is Step.REFRESH


def test_a_refusal_is_remembered_for_thirty_seconds() -> None:
    refused = life(REFUSED, VOID)
    assert refused.step(VOID + 29.9, VOID + 31, in_flight=False) is Step.REFUSE
    assert refused.step(VOID + 30, VOID + 90, in_flight=False) is Step.LEAD


def test_a_refusal_that_was_told_is_remembered_for_the_rest_of_its_time() -> None:
    told = life(TokenRequestError("url", 401, retry_after=7.0, error="invalid_client"), VOID)
    assert told.closed_until == VOID + 7


def test_a_fault_of_the_configuration_is_looked_at_again_ever_later() -> None:
    made = Life()
    moments: list[float] = []
    for _ in range(6):
        made.fail(ConfigurationError("client_secret", "is missing", "Give it."), VOID, jitter=0.0)
        moments.append(made.closed_until - VOID)
    assert moments == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_the_window_is_tried_again_ever_later_and_from_the_start_after_a_token() -> None:
    made, moments = life(), list[float]()
    for _ in range(3):
        made.fail(TransportError("url", "refused"), WINDOW, jitter=1.0)
        moments.append(made.quiet_until - WINDOW)
    assert moments == [2.0, 4.0, 8.0]
    assert made.step(WINDOW + 8, WINDOW + 8, in_flight=False) is Step.REFRESH
    made.land(TOKEN, 0)
    assert made.step(TOKEN.refresh_at, WINDOW, in_flight=False) is Step.REFRESH
    made.fail(TransportError("url", "refused"), WINDOW, jitter=1.0)
    assert made.quiet_until == WINDOW + 2


def test_a_refusal_is_forgiven_and_what_a_server_asked_for_is_not() -> None:
    refused, busy = life(REFUSED, VOID), life(BUSY, VOID)
    for made in (refused, busy, life()):
        made.forgive()
    assert refused.step(VOID, VOID + 1, in_flight=False) is Step.LEAD
    assert busy.step(VOID, VOID + 1, in_flight=False) is Step.REFUSE
    # As if nothing had failed before.
    missing = ConfigurationError("client_secret", "is missing", "Give it.")
    refused.fail(missing, VOID, jitter=0.0)
    assert refused.closed_until == VOID + 0.5


def test_retry_after_is_waited_for_by_those_who_have_the_time() -> None:
    busy = life(BUSY, VOID)
    assert busy.closed_until == VOID + 20
    assert busy.step(VOID + 1, VOID + 20, in_flight=False) is Step.LEAD
    assert busy.step(VOID + 1, VOID + 11, in_flight=False) is Step.REFUSE
    assert busy.step(VOID + 20, VOID + 21, in_flight=False) is Step.LEAD


def test_an_unreachable_server_closes_nothing_to_those_without_a_token() -> None:
    assert life(TransportError("url", "refused"), VOID).step(VOID, VOID + 1, in_flight=False) is Step.LEAD


def test_a_landed_token_ends_the_memory_of_failures() -> None:
    mended = life(REFUSED, VOID)
    mended.land(AccessToken("new", 200.0, 300.0), 0)
    assert mended.last_error is None
    assert mended.step(250.0, 250.0, in_flight=False) is Step.REFRESH


def test_an_answer_from_before_an_invalidation_is_not_believed() -> None:
    made = life()
    made.invalidate()
    assert not made.land(TOKEN, 0)
    assert made.step(FRESH, FRESH + 30, in_flight=False) is Step.LEAD
    assert made.land(TOKEN, made.epoch)


def test_invalidating_another_token_changes_nothing() -> None:
    made = life()
    assert not made.invalidate("older")
    assert made.token is TOKEN
    assert made.epoch == 0
    assert made.invalidate("token")
    assert made.step(FRESH, FRESH + 30, in_flight=False) is Step.LEAD


def test_a_token_that_was_given_up_and_comes_back_is_refreshed_as_any() -> None:
    resting = life()
    resting.rest(VOID)
    assert resting.step(WINDOW, WINDOW, in_flight=False) is Step.SERVE
    resting.token = resting.give_up()
    assert resting.step(WINDOW, WINDOW, in_flight=False) is Step.REFRESH


def test_backoff_is_full_jitter_under_a_cap() -> None:
    assert [backoff(n, 1.0) for n in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert backoff(10_000, 1.0) == 8.0
    assert backoff(3, 0.0) == 0.0


def test_the_server_may_ask_for_more_pause_but_not_for_a_day() -> None:
    assert pause_after(BUSY, 0, 1.0) == 20.0
    assert pause_after(TokenRequestError("url", 503), 0, 0.0) == 0.0
    # While callers wait, a server that is back is found soon; one that is busy is left alone for longer.
    assert pause_after(TokenRequestError("url", 503, retry_after=0.1), 9, 1.0) == 1.5
    assert pause_after(TokenRequestError("url", 429, retry_after=0.1), 9, 1.0) == 8.0
    assert pause_after(TokenRequestError("url", 503, retry_after=86_400.0), 0, 1.0) == 600.0


@pytest.mark.parametrize(("left", "pause"), [(30.0, 29.5), (2.0, 1.5), (1.0, 0.75), (0.05, 0.0375), (0.04, math.inf)])
def test_those_who_wait_have_one_last_attempt(left: float, pause: float) -> None:
    assert latest_pause(left) == pytest.approx(pause)
    assert pause_after(TransportError("url", "refused"), 9, 1.0, left) == pytest.approx(min(pause, 1.5))
