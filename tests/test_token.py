import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth.grant import MAX_LIFETIME
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
