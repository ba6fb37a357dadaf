"""How long one waits for a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import StoreError
from conduit_oauth.stores.sqlite import SqliteStore
from tests.conftest import FakeClock


def fail(store: Any) -> None:
    raise StoreError("busy")


def test_a_store_may_hesitate_unless_an_operation_just_failed(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conduit_oauth.sharing.tier.elapsed", clock)
    # Far more than operations take here.
    tier = Tier(SqliteStore(tmp_path / "tokens.sqlite3"), 5.0)
    user = object()
    tier.join(user)
    try:
        assert tier.call("key", lambda _: "answer") == "answer"
        assert tier.bound == 10.0
        assert tier.call("key", fail) is None
        clock.step(0.99)
        assert tier.bound == 5.0
        clock.step(0.01)
        assert tier.bound == 10.0
    finally:
        tier.part(user)
        tier.store.close()
