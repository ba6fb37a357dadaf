import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth.protocol.grant import MAX_LIFETIME
from conduit_oauth.token import AccessToken, moments


@pytest.mark.parametrize(
    ("lifetime", "refresh_after"),
    [(3600, 3540), (121, 61), (120, 60), (92, 46), (61, 30.5), (60, 30), (59, 29.5), (30, 15), (1, 0.5)],
)
def test_refresh_is_sixty_seconds_ahead_or_at_half_of_a_short_life(lifetime: float, refresh_after: float) -> None:
    assert moments(100.0, lifetime, 60.0) == (100.0 + refresh_after, 100.0 + lifetime)


@given(
    sent_at=st.floats(0, 1e9),
    lifetime=st.floats(0, MAX_LIFETIME),
    refresh_ahead=st.floats(0, 1e6),
)
def test_the_moments_of_any_life_are_in_order(sent_at: float, lifetime: float, refresh_ahead: float) -> None:
    refresh_at, expires_at = moments(sent_at, lifetime, refresh_ahead)
    assert sent_at <= refresh_at <= expires_at
    assert expires_at == sent_at + lifetime
    # Never fetched anew on each call: the first half of a life is served without a thought.
    assert refresh_at >= sent_at + lifetime / 2


def test_the_value_is_not_in_the_repr() -> None:
    assert "very-secret" not in repr(AccessToken("very-secret", 1.0, 2.0))


@pytest.mark.parametrize(
    ("refresh_in", "refresh_at"), [(40.0, 140.0), (0.0, 100.0), (99.0, 199.0), (100.0, 150.0), (101.0, 150.0)]
)
def test_a_server_says_when_to_refresh_within_the_life_of_its_token(refresh_in: float, refresh_at: float) -> None:
    assert moments(100.0, 100.0, 60.0, refresh_in) == (refresh_at, 200.0)


@pytest.mark.parametrize(("jitter", "refresh_at"), [(0.0, 140.0), (0.5, 130.0), (0.8, 124.0)])
def test_a_process_of_a_fleet_refreshes_by_up_to_a_quarter_of_the_window_earlier(
    jitter: float, refresh_at: float
) -> None:
    assert AccessToken("token", 140.0, 220.0).early(jitter) == AccessToken("token", refresh_at, 220.0)


@pytest.mark.parametrize(
    ("expires_at", "refresh_at", "ends"),
    [
        # At half of what is left of it, and not sooner than after five seconds.
        (200.0, 150.0, 200.0),
        (108.0, 105.0, 108.0),
        (103.0, 103.0, 103.0),
        # Up to a second less is the rounding of the answer; more than that is a shorter life.
        (199.5, 150.0, 200.0),
        (199.0, 150.0, 200.0),
        (198.8, 149.4, 198.8),
        (200.5, 150.25, 200.5),
        (202.0, 151.0, 202.0),
    ],
)
def test_a_token_that_was_given_again(expires_at: float, refresh_at: float, ends: float) -> None:
    before = AccessToken("token", 140.0, expires_at if expires_at < 150 else 200.0)
    again = AccessToken("token", 140.0, expires_at).given_again(before, 100.0)
    assert again == AccessToken("token", pytest.approx(refresh_at), ends)
