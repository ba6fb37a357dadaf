"""The store of one process: what its providers know of an endpoint in trouble, and the fleet of a simulation."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from ..clock import Clock, elapsed
from . import Entry, News
from .row import Row

# Beyond this many keys, those that say nothing any more are dropped.
_SWEEP_AT = 4096


class MemoryStore:
    """A `TokenStore` in this process's memory; `clock` is a test's or a simulation's."""

    poll = 0.05

    def __init__(self, clock: Clock = elapsed) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._news: deque[News] = deque(maxlen=10_000)
        self._changed = threading.Condition()

    def claim(self, key: str, known: int, lease: float) -> Entry:
        """See `TokenStore.claim`."""
        with self._changed:
            row = self._rows.get(key)
            if row is None:
                if lease <= 0:
                    return Entry()
                self._sweep()
                row = self._rows[key] = Row()
            return row.claim(known, lease, self._clock(), time.time())

    def write(self, key: str, value: bytes, fence: int, seconds: float) -> bool:
        """See `TokenStore.write`."""
        with self._changed:
            row = self._rows.setdefault(key, Row())
            written = row.write(value, fence, seconds, self._clock())
            self._tell(key, row)
            return written

    def renew(self, key: str, fence: int, lease: float) -> None:
        """See `TokenStore.renew`."""
        with self._changed:
            if row := self._rows.get(key):
                row.renew(fence, lease, self._clock())

    def release(self, key: str, fence: int) -> None:
        """See `TokenStore.release`."""
        with self._changed:
            if row := self._rows.get(key):
                row.release(fence)
                self._tell(key, row)

    def forget(self, key: str, fence: int | None) -> int:
        """See `TokenStore.forget`."""
        with self._changed:
            row = self._rows.setdefault(key, Row())
            floor = row.forget(fence, time.time())
            self._tell(key, row)
            return floor

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

    def _tell(self, key: str, row: Row) -> None:
        self._news.append((key, Entry(floor=row.floor)))
        self._changed.notify_all()

    def _sweep(self) -> None:
        if len(self._rows) >= _SWEEP_AT:
            now = self._clock()
            self._rows = {key: row for key, row in self._rows.items() if now < row.expires or row.leased(now)}
