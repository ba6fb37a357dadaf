"""When to look at which provider."""

from __future__ import annotations

import heapq
import math


class Agenda:
    """Of several moments for one name, the one that was said last counts."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}

    @property
    def first(self) -> float:
        """The earliest moment."""
        return self._moments[0][0] if self._moments else math.inf

    def add(self, name: str, moment: float) -> None:
        """Look at `name` at that moment."""
        if self._due.get(name) != moment:
            self._due[name] = moment
            heapq.heappush(self._moments, (moment, name))

    def take(self) -> str | None:
        """Whom to look at, at the earliest moment; None where another one counts."""
        moment, name = heapq.heappop(self._moments)
        if self._due.get(name) != moment:
            return None
        del self._due[name]
        return name
