from __future__ import annotations

import pytest

from conduit_oauth import OAuthError, TokenRequestError, TransportError
from conduit_oauth.life import (
    BACKOFF_CAP,
    REFUSAL_MEMORY,
    RETRY_AFTER_CAP,
    WAITING_CAP,
    Life,
    Step,
    backoff,
    pause_after,
)
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


def test_a_refusal_is_remembered_for_a_short_while_only() -> None:
    refused = life(REFUSED, VOID)
    assert refused.step(VOID + 1, VOID + 31, in_flight=False) is Step.REFUSE
    assert refused.step(VOID + REFUSAL_MEMORY, VOID + 90, in_flight=False) is Step.LEAD


def test_retry_after_is_waited_for_by_those_who_have_the_time() -> None:
    busy = life(BUSY, VOID)
    assert busy.closed_until == VOID + 20
    assert busy.step(VOID + 1, VOID + 31, in_flight=False) is Step.LEAD
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


def test_backoff_is_full_jitter_under_a_cap() -> None:
    assert [backoff(n, 1.0) for n in range(4)] == [0.25, 0.5, 1.0, 2.0]
    assert backoff(10_000, 1.0) == BACKOFF_CAP
    assert backoff(3, 0.0) == 0.0


def test_the_server_may_ask_for_more_pause_but_not_for_a_day() -> None:
    assert pause_after(BUSY, 0, 1.0) == 20.0
    assert pause_after(TokenRequestError("url", 503, retry_after=0.1), 9, 1.0) == WAITING_CAP
    assert pause_after(TokenRequestError("url", 429, retry_after=0.1), 9, 1.0) == BACKOFF_CAP
    assert pause_after(TokenRequestError("url", 503, retry_after=86_400.0), 0, 1.0) == RETRY_AFTER_CAP
