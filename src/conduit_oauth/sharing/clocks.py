"""The clocks of a store as this process sees them: one that goes back makes what the store has look younger."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Seconds that one may go back by between two looks without being taken to have.
STEP = 0.5
# A cluster tells the names of its servers, and has 1,000 at most.
_MOST = 2048


class Clocks:
    """By how much each clock was ahead of ours at most."""

    def __init__(self) -> None:
        self._ahead: dict[str, float] = {}

    def went_back(self, told: Mapping[str, float], before: float, after: float) -> bool:
        """Whether one did, by what they told between our readings `before` and `after`."""
        found = False
        for name, now in told.items():
            # It is ahead by something between these two.
            least, most = now - after, now - before
            if most < self._ahead.get(name, -math.inf) - STEP:
                found = True
                self._ahead[name] = least
            # As the latest one.
            self._ahead[name] = max(self._ahead.pop(name, -math.inf), least)
        for name in list(self._ahead)[:-_MOST]:
            del self._ahead[name]
        return found
