"""What keeps a store in use: it is probed, listened to and told; leases are renewed and given back.

Invariant: A key is blamed first, and the store only if nothing works. Each change is logged once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..clock import elapsed
from ..runtime.landing import Flag
from ..runtime.process import Resident
from ..stores import NOTHING, StoreError, TokenStore
from .clocks import Clocks
from .leases import Leases
from .operations import Operations
from .sick import Sick
from .subscribers import Subscribers, for_each

T = TypeVar("T")

logger = logging.getLogger("conduit_oauth")

_LISTEN = 0.25
_RETRY_FIRST = 0.1
_RETRY_CAP = 2.0
# Seconds that a look of this thread takes at most, where operations take less: it hears nothing meanwhile.
_LONGEST_LOOK = 2.0
# Seconds between two looks at the store's clocks.
PING = 5.0
# One that works may hesitate: where no operation failed in the last seconds, one is waited for longer by that.
_HESITATION = 2
_WARY = 1.0
# One shard of a cluster may be down, and the rest work: before a store counts as down, so many keys were tried.
_PROBES = 6


class Teller(Protocol):
    """Who has something to tell the store."""

    def tell(self) -> None:
        """Tell it."""
        ...


class Upkeep(Resident):
    """A store, its health, and the work of its thread; `lease` is how many seconds one lasts."""

    def __init__(self, store: TokenStore, timeout: float, lease: float, *, up: bool) -> None:
        self.store = store
        self.timeout = timeout
        self.lease = lease
        self.subscribers = Subscribers()
        self._lock = threading.RLock()
        self._operations = Operations(store, timeout)
        self._leases = Leases()
        self._tellers: weakref.WeakSet[Teller] = weakref.WeakSet()
        self._sick = Sick()
        self._clocks = Clocks()
        self._pinged = elapsed()
        # What only the users of the store know, None as long as nobody asked for it.
        self._pepper: bytes | None = None
        self._up = up
        self._is_in_doubt = False
        self._said_down = self._said_deaf = False
        # Whether it ever worked.
        self._has_risen = False
        self._failed_at = -math.inf
        # Set when the store was tried for the first time; set when it is to be left.
        self._tried = Flag()
        self._closed = Flag()

    @property
    def up(self) -> bool:
        """Whether the store is in use now."""
        return self._up

    @property
    def bound(self) -> float:
        """Seconds that an operation is waited for: a short stall costs no round, and a long one only once."""
        least = self.timeout if elapsed() < self._failed_at + _WARY else _HESITATION * self.timeout
        return max(least, self._operations.bound)

    @property
    def _patience(self) -> float:
        """Seconds for a look of this thread, which may need a new connection; the first one may take longer."""
        longest = self._operations.connecting
        return min(longest, max(self._operations.bound, _LONGEST_LOOK)) if self._has_risen else longest

    def remind(self, teller: Teller) -> None:
        """Have `teller` try again, as soon as the store answers."""
        with self._lock:
            self._tellers.add(teller)

    def watch(self, pause: float) -> float:
        """One round of the tier's thread; the seconds until the next, which grow while the store is out of reach."""
        try:
            if not self.up or self._is_in_doubt:
                self._is_in_doubt = False
                self._probe()
                self._rise()
            heard = self._listen()
            self._give_back()
            with self._lock:
                tellers, self._tellers = list(self._tellers), weakref.WeakSet()
            for_each(tellers, lambda teller: teller.tell())
            self._renew()
            if elapsed() - self._pinged > PING:
                self._pinged = elapsed()
                self._compare_clocks()
            if not heard:
                self.subscribers.resync()
        except StoreError as error:
            self._fail(error)
            return min(_RETRY_CAP, max(_RETRY_FIRST, 2 * pause))
        except Exception:  # a fault of ours, or of a listener: the others still want their news
            logger.error("store_thread_failed\n%s", traceback.format_exc())
            return _RETRY_CAP / 2
        finally:
            self._tried.set()
        return 0.0 if heard else _RETRY_CAP / 2

    def _probe(self) -> None:
        """See whether anything works. Raises `StoreError` where nothing does."""
        # After a fault, a real lease: a store that is full, or a replica, answers reads and pings. At the start only a
        # look, and without a word of what it costs: that is a connection's.
        lease = 0.001 if self._said_down or self._sick else 0.0

        def look(store: TokenStore, key: str) -> None:
            store.claim(key, NOTHING, lease, key)
            if self._pepper is None:
                # While nobody waits for it yet. Who needs one that cannot be had is told of that.
                with contextlib.suppress(Exception):
                    self._pepper = getattr(store, "pepper", b"")

        for left in reversed(range(_PROBES)):
            key = f"probe-{secrets.token_hex(4)}"
            try:
                self._ask(lambda store, key=key: look(store, key), self._patience)
                return
            except StoreError:
                if not left:
                    raise

    def _renew(self) -> None:
        seconds = self.lease + self._leases.extra
        for key, owner in self._leases.due(self.lease / 4):
            try:
                self._ask(lambda store, key=key, owner=owner: store.renew(key, owner, seconds), self.bound)
            except StoreError as error:
                self._blame(key, error)

    def _give_back(self) -> None:
        """Release what may have been granted though nobody heard of it, as long as that may still happen."""
        for key, owner in self._leases.orphans():
            try:
                self._ask(lambda store, key=key, owner=owner: store.release(key, owner), self.bound)
            except StoreError:
                self._leases.kept((key, owner))
            else:
                self._leases.given_back((key, owner), self.lease)

    def _compare_clocks(self) -> None:
        """See whether a clock of the store went back: then what it has looks younger than it is."""
        before = elapsed()
        told = self._ask(lambda store: store.clocks(), self._patience)
        if self._clocks.went_back(told, before, elapsed()):
            logger.warning("store_clock_went_back: what it has is asked for anew")
            self.subscribers.resync(distrust=True)

    def _listen(self) -> bool:
        """Hear and spread the news; False where the store works and only its news cannot be had."""
        try:
            news = self.store.listen(_LISTEN)
        except Exception as error:  # also of a user's own store
            self._probe()
            if not self._said_deaf:
                self._said_deaf = True
                said = str(error) if isinstance(error, StoreError) else f"broke down with {type(error).__name__}"
                logger.warning("store_deaf: %s. Other processes' changes are found by looking.", said)
            return False
        if self._said_deaf:
            self._said_deaf = False
            logger.warning("store_heard: other processes' changes are heard again")
        for key, entry in news:
            self.subscribers.tell(key, entry)
        return True

    def _rise(self) -> None:
        if self._up:
            return
        self._has_risen = True
        self._up = self._operations.is_open = True
        self._sick.clear()
        self._tried.set()
        if self._said_down:
            self._said_down = False
            logger.warning("store_up: the token store is in use again")
        self.subscribers.resync()

    def _fail(self, error: StoreError) -> None:
        with self._lock:
            said, self._said_down = self._said_down, True
            self._up = self._operations.is_open = False
        if not said and not self._closed.is_set():
            # Its words only: whoever keeps the record would keep this tier, and its thread, by the error's traceback.
            logger.warning("store_down: %s. Every process goes on by itself until it is back.", str(error))

    def _ask(self, work: Callable[[TokenStore], T], seconds: float) -> T:
        """As `Operations.run`, at once: on this tier's thread nobody waits for a turn."""
        return self._operations.run(work, seconds, queued=False)

    def _blame(self, key: str, error: StoreError) -> None:
        """Leave `key` alone for a while, and have the tier's thread see what else is wrong."""
        self._sick.failed(key, elapsed())
        self._is_in_doubt = True
        self._failed_at = elapsed()
        logger.info("store_failed: %s", error)
