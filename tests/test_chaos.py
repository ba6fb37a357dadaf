"""The short form of `make chaos`: every kind of fault is among those that some seed does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.run import Chaos

SIZE: dict[str, Any] = {"processes": 4, "tasks": 10, "lifetime": 8.0}


@pytest.mark.parametrize("seed", [2])
def test_faults_are_noticed_by_nobody_while_a_valid_token_exists(tmp_path: Path, seed: int) -> None:
    report = Chaos(tmp_path, seconds=30, seed=seed, **SIZE).run(print)
    print(report.text())
    assert report.faults() == []
    assert report.calls > 100
    assert report.done["leaders killed"] == 1


def test_a_fleet_that_shares_nothing_is_found_out(tmp_path: Path) -> None:
    report = Chaos(tmp_path, seconds=3, seed=1, store="memory:", **SIZE).run(print)
    assert any("needless" in fault for fault in report.faults())
