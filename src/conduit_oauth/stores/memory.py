"""The store of one process: what its providers know of an endpoint in trouble, and the fleet of a simulation."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from ..clock import Clock, elapsed
from . import Entry, Known, News
from .row import Row

# Beyond this many keys, those that say nothing any more are dropped.
_SWEEP_AT = 4096


class MemoryStore:
    """A `TokenStore` in this process's memory; `clock` is a test's or a simulation's."""

    poll = 0.05

    def __init__(self, clock: Clock = elapsed) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._generations = 0
        self._news: deque[News] = deque(maxlen=10_000)
        self._changed = threading.Condition()

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        """See `TokenStore.claim`."""
        with self._changed:
            now = self._clock()
            if key not in self._rows and lease <= 0:
                return Entry(now=now)
            return self._row(key, now).claim(known, owner, lease, now, self._fresh())

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        """See `TokenStore.write`."""
        with self._changed:
            now = self._clock()
            row = self._row(key, now)
            written = row.write(value, fence, expires, generation, now)
            self._tell(key, row)
            return written

    def renew(self, key: str, owner: str, lease: float) -> None:
        """See `TokenStore.renew`."""
        with self._changed:
            if row := self._rows.get(key):
                row.renew(owner, lease, self._clock())

    def release(self, key: str, owner: str) -> None:
        """See `TokenStore.release`."""
        with self._changed:
            if (row := self._rows.get(key)) and row.release(owner):
                self._tell(key, row)

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        """See `TokenStore.forget`."""
        with self._changed:
            now = self._clock()
            row = self._row(key, now)
            entry = row.forget(fence, generation, void, now, self._fresh())
            self._tell(key, row)
            return entry

    def clocks(self) -> Mapping[str, float]:
        """See `TokenStore.clocks`."""
        return {"": self._clock()}

    def listen(self, seconds: float) -> Sequence[News]:
        """See `TokenStore.listen`."""
        with self._changed:
            if not self._news:
                self._changed.wait(seconds)
            news = list(self._news)
            self._news.clear()
            return news

    def after_fork_in_child(self) -> None:
        """See `TokenStore.after_fork_in_child`; what was known stays known, the parent's leases end."""
        self._changed = threading.Condition()
        for row in self._rows.values():
            row.lease = 0

    def close(self) -> None:
        """Forget everything."""
        with self._changed:
            self._rows.clear()

    def _row(self, key: str, now: float) -> Row:
        if key not in self._rows:
            self._sweep(now)
            self._rows[key] = Row()
        return self._rows[key]

    def _fresh(self) -> str:
        self._generations += 1
        return str(self._generations)

    def _tell(self, key: str, row: Row) -> None:
        self._news.append((key, Entry(floor=row.floor, generation=row.generation, void=frozenset(row.void))))
        self._changed.notify_all()

    def _sweep(self, now: float) -> None:
        if len(self._rows) >= _SWEEP_AT:
            self._rows = {key: row for key, row in self._rows.items() if now < row.expires or row.leased(now)}
