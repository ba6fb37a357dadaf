"""What is remembered of a store's clocks."""

from __future__ import annotations

from conduit_oauth.sharing.clocks import Clocks


def test_names_without_end_are_not_all_kept() -> None:
    clocks = Clocks()
    for turn in range(50):
        told = {f"{turn}-{number}": 500.0 for number in range(200)} | {"steady": 500.0}
        assert not clocks.went_back(told, 1.0, 1.1)
    # Those of long ago are forgotten, and what was told of lately is not.
    assert not clocks.went_back({"0-0": 1.0}, 1.2, 1.3)
    assert clocks.went_back({"49-0": 1.0}, 1.2, 1.3)
    assert clocks.went_back({"steady": 1.0}, 1.2, 1.3)
