"""The quick rows of `make operations`, with a small fleet."""

from __future__ import annotations

import pytest

from tests.operations import programs, rows, soak
from tests.operations.deployments import Redis, Sqlite

QUICK = [(row, where) for row in rows.ROWS if row.is_quick for where in row.on if where in (Redis, Sqlite)]


@pytest.mark.parametrize(("row", "where"), QUICK, ids=[f"{row.script.__name__}, {where.name}" for row, where in QUICK])
def test_a_fleet_keeps_its_promises_whatever_befalls_its_store(row: rows.Row, where: type[rows.Deployment]) -> None:
    assert not rows.measure(row, where, size=4).faults


@pytest.mark.parametrize("name", ["Celery, prefork", "multiprocessing, fork", "multiprocessing, spawn"])
def test_the_processes_of_a_framework_share_a_token(name: str) -> None:
    assert not programs.measure(name, size=3).faults


def test_an_agent_and_a_bridge_lose_nothing_whatever_happens_to_them() -> None:
    soaked = soak.measure(providers=30, clients=4, seconds=18.0)
    assert soaked.restarts
    assert soaked.calls
    assert not soaked.faults
