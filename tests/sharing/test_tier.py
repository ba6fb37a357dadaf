"""How long one waits for a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conduit_oauth.sharing.tier import FIRST_LEASE, LEASE, Tier
from conduit_oauth.stores import NOTHING, StoreError
from conduit_oauth.stores.memory import MemoryStore
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


def test_a_leader_that_dies_at_once_is_replaced_sooner_than_one_that_renewed_its_lease(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    tier = Tier(store, 5.0)
    tier.watch(0.0)

    def is_free() -> bool:
        entry = store.claim("key", NOTHING, 60.0, "another")
        if entry.lease:
            store.release("key", "another")
        return entry.lease > 0

    tier.claim("key", NOTHING, tier.lease, "first")
    clock.step(FIRST_LEASE - 0.1)
    assert not is_free()
    clock.step(0.2)
    assert is_free()
    tier.claim("key", NOTHING, tier.lease, "second")
    clock.step(FIRST_LEASE - 0.1)
    tier.watch(0.0)
    clock.step(LEASE - 0.1)
    assert not is_free()
    clock.step(0.2)
    assert is_free()
