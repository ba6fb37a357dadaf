"""Whose refresh is under way, and who waits for a turn.

Invariant: A server that never answers holds up the providers of no other server.
"""

from __future__ import annotations

# How many such servers it takes to hold up the others.
_SERVERS = 4


class Turns:
    """`most` refreshes at a time at one origin, and a multiple of it in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        # By name, the origin.
        self._begun: dict[str, str] = {}
        # By origin, the names in their order.
        self._waiting: dict[str, dict[str, None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether no refresh may begin at all."""
        return len(self._begun) >= _SERVERS * self._most

    def admits(self, name: str, origin: str) -> bool:
        """Whether a refresh may begin at `origin`; where it may not, `name` waits for its turn there."""
        if list(self._begun.values()).count(origin) < self._most:
            return True
        self._waiting.setdefault(origin, {})[name] = None
        return False

    def begin(self, name: str, origin: str) -> None:
        """A refresh is under way."""
        self._begun[name] = origin

    def end(self, name: str) -> str | None:
        """It has ended; the origin at which it was, None where there was none."""
        return self._begun.pop(name, None)

    def next_at(self, origin: str) -> str | None:
        """Who has the next turn at `origin`, and waits no more."""
        waiting = self._waiting.get(origin)
        if not waiting:
            return None
        del waiting[name := next(iter(waiting))]
        return name

    def clear(self) -> None:
        """Forget all of them, as a forked child does."""
        self._begun.clear()
        self._waiting.clear()
