"""Two thousand runs of a fleet among faults; `make simulate` does a hundred thousand."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.breaks import BREAKS, first_seed
from tests.simulation.fleet import Fleet


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 2000, 50))
def test_a_fleet_keeps_its_promises_among_faults(first: int) -> None:
    for seed in range(first, first + 50):
        Fleet(seed).run()


@pytest.mark.parametrize("seed", [37183, 45694])
def test_a_leader_that_died_is_replaced_when_its_lease_ends(seed: int) -> None:
    Fleet(seed).run()


def test_a_run_is_the_same_each_time() -> None:
    runs = [Fleet(7) for _ in range(2)]
    for run in runs:
        run.run()
    assert runs[0].server.requests == runs[1].server.requests
    assert runs[0].faults == runs[1].faults


@pytest.mark.parametrize("rule", BREAKS)
def test_what_breaks_a_rule_is_found(rule: str) -> None:
    assert first_seed(rule, 3000) is not None
