"""The leases that this process holds in one store, and those that it may hold without having heard so.

Invariant: a lease is renewed for `LONGEST_LEASE` at most. One whose grant nobody heard of is given back.
"""

from __future__ import annotations

import math
import threading

from ..clock import elapsed

# Seconds until a leader that died is replaced; one that lives renews its lease three times in between.
LEASE = 3.0
# The same until it renews its lease for the first time, at the next look of the thread: many die as they begin.
FIRST_LEASE = LEASE / 2
# Seconds more for each lease that a process holds already, and how many in all: each is renewed in turn.
EXTRA_LEASE = 0.05
LEASE_CAP = 12.0
# Seconds for which a lease is renewed at most: a request that never ends must not keep others from theirs.
LONGEST_LEASE = 60.0
# So many grants that may have got lost are remembered.
_MOST_ORPHANS = 256

# The key, and the name that the lease was asked for by.
Lease = tuple[str, str]


class Leases:
    """What is known of them; whoever has them talks to the store."""

    def __init__(self) -> None:
        # Until when each is renewed.
        self._held: dict[Lease, float] = {}
        # Those that have not been renewed yet.
        self._new: set[Lease] = set()
        # Those that may be granted though nobody hears of it, and until when.
        self._orphans: dict[Lease, float] = {}
        self._renewed = elapsed()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Hold none, as a child of a fork does."""
        self._lock = threading.RLock()
        self._held.clear()
        self._new.clear()
        self._orphans.clear()

    @property
    def extra(self) -> float:
        """Seconds by which each lasts longer, because there are others."""
        return min(EXTRA_LEASE * len(self._held), LEASE_CAP)

    def granted(self, key: str, owner: str) -> None:
        """Renew this one from now on."""
        with self._lock:
            self._held[key, owner] = elapsed() + LONGEST_LEASE
            self._new.add((key, owner))

    def drop(self, key: str, owner: str) -> None:
        """Renew this one no more."""
        with self._lock:
            self._held.pop((key, owner), None)

    def due(self, seconds: float) -> list[Lease]:
        """Those to renew now: new ones, and every `seconds` all of them."""
        now = elapsed()
        with self._lock:
            due, self._new = self._new, set()
            if now - self._renewed > seconds:
                self._renewed = now
                due = set(self._held)
            for lease in [lease for lease in due if now >= self._held.get(lease, math.inf)]:
                del self._held[lease]
            return [lease for lease in due if lease in self._held]

    def disown(self, key: str, owner: str) -> None:
        """Give this one back, in case that it was granted."""
        with self._lock:
            if len(self._orphans) < _MOST_ORPHANS:
                self._orphans[key, owner] = math.inf

    def orphans(self) -> list[Lease]:
        """Those to give back."""
        with self._lock:
            return list(self._orphans)

    def given_back(self, lease: Lease, seconds: float) -> None:
        """It was released; for `seconds` more, what asked for it may still be on the way."""
        now = elapsed()
        with self._lock:
            until = self._orphans.get(lease, math.inf)
            if now > until:
                self._orphans.pop(lease, None)
            else:
                self._orphans[lease] = min(until, now + seconds)

    def kept(self, lease: Lease) -> None:
        """It could not be released: what asked for it is on the way still, perhaps."""
        with self._lock:
            self._orphans[lease] = math.inf
