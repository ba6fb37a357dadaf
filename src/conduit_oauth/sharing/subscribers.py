"""Who wants to know what other processes change in one store, and who waits for it.

Invariant: who takes a ticket before a look at the store misses nothing that is told after it.
"""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from ..runtime.landing import Flag
from ..stores import Entry

T = TypeVar("T")

logger = logging.getLogger("conduit_oauth")

# From so many keys on, those that nobody listens to any more are dropped now and then.
_SWEEP = 256


class Listener(Protocol):
    """Who wants to know of a key."""

    def heard(self, entry: Entry) -> None:
        """What another process told of the key."""
        ...

    def resync(self, *, distrust: bool = False) -> None:
        """Look again: the store, or its news, are back. `distrust` where the store's clock went back."""
        ...


class Subscribers:
    """Listeners and tickets, by key."""

    def __init__(self) -> None:
        self._listeners: dict[str, weakref.WeakSet[Listener]] = {}
        self._sweep_at = _SWEEP
        self.begin_anew()

    def begin_anew(self) -> None:
        """Wait for nothing, as a child of a fork does; who listened still does."""
        self._lock = threading.RLock()
        self._tickets: dict[str, Flag] = {}
        # What the news told to those who hold a ticket.
        self._told: dict[str, Entry] = {}

    def subscribe(self, key: str, listener: Listener, before: str) -> None:
        """Let `listener` know of changes to `key`, and of `before` no more, for as long as another part keeps it."""
        with self._lock:
            if (others := self._listeners.get(before)) is not None:
                others.discard(listener)
            self._listeners.setdefault(key, weakref.WeakSet()).add(listener)
            if len(self._listeners) >= self._sweep_at:
                self._listeners = {key: listeners for key, listeners in self._listeners.items() if listeners}
                self._tickets = {key: ticket for key, ticket in self._tickets.items() if key in self._listeners}
                self._told = {key: entry for key, entry in self._told.items() if key in self._listeners}
                self._sweep_at = 2 * len(self._listeners) + _SWEEP

    def ticket(self, key: str) -> Flag:
        """Set when something is heard of `key`; taken before one looks, so that nothing is missed in between."""
        with self._lock:
            self._told.pop(key, None)
            return self._tickets.setdefault(key, Flag())

    def told(self, key: str) -> Entry | None:
        """What was written under `key` since the last ticket was taken, where the store told that."""
        with self._lock:
            return self._told.get(key)

    def tell(self, key: str, entry: Entry) -> None:
        """Spread what was heard of `key`; without a key, hearing begins, and all look."""
        with self._lock:
            if entry.value is not None and key in self._tickets:
                self._told[key] = entry
            if key:
                tickets = [self._tickets.pop(key)] if key in self._tickets else []
            else:
                tickets, self._tickets = list(self._tickets.values()), {}
            listeners = list(self._listeners.get(key, ()))
        for ticket in tickets:
            ticket.set()
        for_each(listeners, lambda listener: listener.heard(entry))
        if not key:
            self.resync()

    def resync(self, *, distrust: bool = False) -> None:
        """Have all look again."""
        with self._lock:
            listeners = [listener for each in self._listeners.values() for listener in each]
        for_each(listeners, lambda listener: listener.resync(distrust=distrust))


def for_each(several: Iterable[T], work: Callable[[T], object]) -> None:
    """Do `work` for each, whatever becomes of the others. A fault is logged."""
    for each in several:
        try:
            work(each)
        except Exception:  # a fault of ours, or of a user's own store
            logger.error("store_thread_failed\n%s", traceback.format_exc())
