"""Many processes, one client: real workers against a real server, on SQLite and on Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider
from tests.lifecycle.test_concurrency import in_child
from tests.stores.fleet import Fleet, Worker


@pytest.fixture
def settings(authorization_server: AuthorizationServer, store_url: str) -> dict[str, Any]:
    # A long limit: these tests are about who asks, and a busy machine must not make a process go on without the store.
    return {
        "client_id": authorization_server.client_id,
        "client_secret": authorization_server.client_secret,
        "token_endpoint": authorization_server.token_endpoint(),
        "store": store_url,
        "store_timeout": 2.0,
    }


@pytest.fixture
def workers(settings: dict[str, Any]) -> Iterator[list[Worker]]:
    with Fleet(3, **settings) as fleet:
        yield fleet.workers


def until_gone(worker: Worker) -> None:
    deadline = time.monotonic() + 10
    while worker.ask("cached")["cached"]:
        assert time.monotonic() < deadline


def test_processes_that_start_together_ask_once(
    authorization_server: AuthorizationServer, settings: dict[str, Any]
) -> None:
    authorization_server.set(latency=0.2)
    with Fleet(8, **settings) as fleet:
        assert len({answer["token"] for answer in fleet.get_together()}) == 1
    assert len(authorization_server.token_requests) == 1


def test_a_token_outlives_the_process_that_asked_for_it(
    authorization_server: AuthorizationServer, settings: dict[str, Any]
) -> None:
    tokens: set[str] = set()
    for _ in range(3):
        with Fleet(1, **settings) as fleet:
            tokens.add(fleet.workers[0].ask("get")["token"])
            fleet.workers[0].leave()
    assert len(tokens) == 1
    assert len(authorization_server.token_requests) == 1


def test_a_leader_that_dies_is_replaced(authorization_server: AuthorizationServer, workers: list[Worker]) -> None:
    authorization_server.hold()
    leader, *others = workers
    leader.order("get")
    authorization_server.wait_for_token_requests(1)
    for worker in others:
        worker.order("get")
    leader.signal(signal.SIGKILL)
    authorization_server.wait_for_token_requests(2)
    authorization_server.release()
    assert len({worker.answer()["token"] for worker in others}) == 1
    assert len(authorization_server.token_requests) == 2


def test_a_leader_that_was_paused_past_its_lease_overwrites_no_newer_token(
    authorization_server: AuthorizationServer, workers: list[Worker], settings: dict[str, Any]
) -> None:
    authorization_server.hold()
    paused, other, later = workers
    paused.order("get")
    authorization_server.wait_for_token_requests(1)
    paused.signal(signal.SIGSTOP)
    other.order("get")
    authorization_server.wait_for_token_requests(2)
    authorization_server.release()
    newer = other.answer()["token"]
    # From the store, which knows it by now.
    assert later.ask("get")["token"] == newer
    paused.signal(signal.SIGCONT)
    assert paused.answer()["token"] != newer
    # By now the paused one has tried to store its own.
    with Fleet(1, **settings) as fleet:
        assert fleet.workers[0].ask("get")["token"] == newer
    assert len(authorization_server.token_requests) == 2


@pytest.mark.parametrize("all_of_them", [True, False])
def test_invalidating_reaches_every_process(
    authorization_server: AuthorizationServer, workers: list[Worker], all_of_them: bool
) -> None:
    (old,) = {worker.ask("get")["token"] for worker in workers}
    workers[0].ask("invalidate" if all_of_them else f"invalidate {old}")
    for worker in workers:
        until_gone(worker)
    (new,) = {worker.ask("get")["token"] for worker in workers}
    assert new != old
    assert len(authorization_server.token_requests) == 2


def test_a_late_refusal_of_an_old_token_harms_no_newer_one_anywhere(
    authorization_server: AuthorizationServer, workers: list[Worker]
) -> None:
    one, other, _ = workers
    old = one.ask("get")["token"]
    other.ask("get")
    one.ask(f"invalidate {old}")
    until_gone(other)
    new = one.ask("get")["token"]
    other.ask(f"invalidate {old}")
    assert other.ask("get")["token"] == new
    assert one.ask("get")["token"] == new
    assert len(authorization_server.token_requests) == 2


def test_a_forked_child_shares_the_store_and_not_the_connection(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, settings: dict[str, Any]
) -> None:
    provider = make_provider(**settings)
    first = provider.get_token()

    def work() -> list[str]:
        inherited = [str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
        provider.invalidate(first)
        token = provider.get_token()
        provider.close()
        return [token, *(file for file in inherited if "tokens.sqlite3" in file)]

    (second,) = in_child(work)  # type: ignore[misc]
    assert second != first
    deadline = time.monotonic() + 10
    while provider.get_token() == first:
        assert time.monotonic() < deadline
    assert provider.get_token() == second
    assert len(authorization_server.token_requests) == 2
