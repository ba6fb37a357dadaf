"""What a fleet keeps under a key: a token ends when it ends, however long its record is kept."""

from __future__ import annotations

import pytest

from conduit_oauth.sharing.record import Kept, lasting, token_in
from conduit_oauth.token import AccessToken

TOKEN = AccessToken("token", refresh_at=40.0, expires_at=100.0, scope="mcp:read")


def test_a_token_may_end_before_its_record() -> None:
    # Kept for 30 seconds more than the token, for the sake of a refusal.
    record = {"token": lasting(TOKEN, 130.0)}
    assert token_in(record, 130.0, 7) == Kept("token", "mcp:read", 40.0, 100.0, 7)
    assert token_in(record, 80.0, 7) == Kept("token", "mcp:read", -10.0, 50.0, 7)
    assert token_in(record, 30.5, 7) == Kept("token", "mcp:read", -59.5, 0.5, 7)


@pytest.mark.parametrize("remaining", [30.0, 10.0, 0.0])
def test_a_token_that_ended_is_none_though_its_record_is_kept(remaining: float) -> None:
    assert token_in({"token": lasting(TOKEN, 130.0)}, remaining, 7) is None


def test_a_record_without_a_token_has_none() -> None:
    assert token_in({"refused": {}}, 10.0, 7) is None


def test_the_fence_of_a_token_may_be_older_than_that_of_its_record() -> None:
    kept = token_in({"token": lasting(TOKEN, 100.0), "fence": 3}, 100.0, 7)
    assert kept is not None
    assert kept.fence == 3
