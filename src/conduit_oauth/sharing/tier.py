"""One store as this process sees it: used while it works, left alone while it does not.

Invariant: No caller waits for a store longer than its bound, and none sees its errors. The bound follows what the
store costs. A key is blamed first, and the store only if nothing works. While a store is down, only a thread of the
tier tries it. That thread logs each change once, hears what other processes changed, and renews the leases of this
process.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..clock import Clock, elapsed
from ..errors import ConfigurationError
from ..runtime.landing import Flag
from ..runtime.process import LockOfProcess, Rank, Resident, enter, is_ending, tell_end_of_thread
from ..stores import NOTHING, Entry, Known, StoreError, TokenStore, open_store
from ..stores.memory import MemoryStore
from .leases import FIRST_LEASE, LEASE, Leases
from .operations import CONNECTING, Operations, patiently
from .subscribers import Subscribers

T = TypeVar("T")

logger = logging.getLogger("conduit_oauth")

_LISTEN = 0.25
_RETRY_FIRST = 0.1
_RETRY_CAP = 2.0
# Where more than that wait, each looks less often: the news tell of a token, a look of a dead leader.
_LOOKS = 20
# Seconds between two looks at most.
_LONGEST_POLL = 10.0
# Seconds between two looks at the store's clocks, and what they may go back by in between without being taken to have.
PING = 5.0
STEP = 0.5
# One that works may hesitate: where no operation failed in the last seconds, one is waited for longer by that.
_HESITATION = 2
_WARY = 1.0
# So many keys that failed are remembered.
_MOST_SICK = 256
# One shard of a cluster may be down, and the rest work: before a store counts as down, so many keys were tried.
_PROBES = 6


class Teller(Protocol):
    """Who has something to tell the store."""

    def tell(self) -> None:
        """Tell it."""
        ...


class Tier(Resident):
    """A store behind a guard, for all providers of a process that use it; `timeout` is the least of its bounds."""

    def __init__(self, store: TokenStore, timeout: float, *, remote: bool = True, is_ours: bool = False) -> None:
        self.store = store
        self.timeout = timeout
        self._is_ours = is_ours
        # Without a thread nobody renews: in one process a leader cannot die alone.
        self.lease = LEASE if remote else 3600.0
        self._remote = remote
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        # The one that was told to end.
        self._ending: threading.Thread | None = None
        self._users: set[int] = set()
        self._said_down = self._said_deaf = False
        self._tried = Flag()
        self._closed = Flag()
        self._leases = Leases()
        self._tellers: weakref.WeakSet[Teller] = weakref.WeakSet()
        self._pepper: bytes | None = None
        # By how much each clock of the store was ahead of ours at most.
        self._ahead: dict[str, float] = {}
        self._pinged = elapsed()
        self.subscribers = Subscribers()
        # Who waits for another process's answer.
        self.waiting: set[int] = set()
        self._operations = Operations(store, timeout)
        # Keys that failed: the moment of the next try, and the pause after that.
        self._sick: dict[str, tuple[float, float]] = {}
        self._is_in_doubt = False
        self._failed_at = -math.inf
        self._up = not remote
        enter(self, Rank.TIER)

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
    def poll(self) -> float:
        """Seconds between two looks of one who waits for another's answer."""
        return min(self.store.poll * max(1.0, len(self.waiting) / _LOOKS), max(self.store.poll, _LONGEST_POLL))

    def call(
        self,
        key: str,
        work: Callable[[TokenStore], T],
        *,
        patient: bool = False,
        late: Callable[[T], object] | None = None,
        lost: Callable[[], object] | None = None,
    ) -> T | None:
        """What the store answers of `key`, None where it does not. `patient` where nobody waits for that.

        `late` has an answer that came too late; `lost` is called where it may have been done though no answer came.
        """
        if not self._remote:
            return work(self.store)
        tell_end_of_thread()
        if self._thread is None:
            self.start()
        # Only the first time does anybody wait: later it is known to be out of reach.
        if not self._up and not self._tried.is_set():
            patiently(self._tried, self._operations.first)
            self._tried.set()
        if not self._up or self._is_sick(key):
            return None
        try:
            bound = self._operations.farthest if patient else self.bound
            # The tier's own thread keeps the leases of all: it waits for no turn.
            queued = threading.current_thread() is not self._thread
            answer = self._operations.run(work, bound, late=late, queued=queued, is_next=patient)
        except StoreError as error:
            self._blame(key, error)
            if lost is not None:
                lost()
            return None
        self._sick.pop(key, None)
        return answer

    def claim(self, key: str, known: Known, seconds: float, owner: str = "") -> Entry | None:
        """As `TokenStore.claim`; a lease is renewed from now on, and one whose grant came too late is given back."""

        if seconds > 0 and self._remote:
            seconds = min(seconds, FIRST_LEASE) + self._leases.extra

        def give_back(late: Entry) -> None:
            if late.lease:
                self.store.release(key, owner)

        def disown() -> None:
            if seconds > 0:
                self._leases.disown(key, owner)

        entry = self.call(key, lambda store: store.claim(key, known, seconds, owner), late=give_back, lost=disown)
        if entry is not None and entry.lease:
            self._leases.granted(key, owner)
        return entry

    def pepper(self) -> bytes | None:
        """What only the users of this store know, empty where anybody may; None where that cannot be told now."""
        if self._pepper is None:
            self._pepper = self.call("", lambda store: getattr(store, "pepper", b""))
        return self._pepper

    def _ask(self, work: Callable[[TokenStore], T], seconds: float) -> T:
        """As `Operations.run`, at once: on this tier's thread nobody waits for a turn."""
        return self._operations.run(work, seconds, queued=False)

    def _is_sick(self, key: str) -> bool:
        until, _ = self._sick.get(key, (0.0, 0.0))
        return elapsed() < until

    def _blame(self, key: str, error: StoreError) -> None:
        """Leave `key` alone for a while, and have the tier's thread see what else is wrong."""
        _, pause = self._sick.get(key, (0.0, _RETRY_FIRST))
        if len(self._sick) > _MOST_SICK:
            self._sick.clear()
        self._sick[key] = elapsed() + pause, min(_RETRY_CAP, 2 * pause)
        self._is_in_doubt = True
        self._failed_at = elapsed()
        logger.info("store_failed: %s", error)

    def wait_out(self, key: str) -> None:
        """Wait until `key` may be asked for again after its first failure: for what nobody waits for."""
        until, _ = self._sick.get(key, (0.0, 0.0))
        if 0 < (left := until - elapsed()) <= _RETRY_FIRST:
            Flag().wait(left)

    def drop(self, key: str, owner: str) -> None:
        """Renew the lease of `owner` no more."""
        self._leases.drop(key, owner)

    def release(self, key: str, owner: str) -> None:
        """End the lease of `owner`; where the store does not answer, as soon as it does."""
        self.drop(key, owner)
        if self.call(key, lambda store: store.release(key, owner) or True) is None:
            self._leases.disown(key, owner)

    def remind(self, teller: Teller) -> None:
        """Have `teller` try again, as soon as the store answers."""
        with self._lock:
            self._tellers.add(teller)

    def after_fork_in_child(self) -> None:
        """Begin anew, with the parent's thread, locks and leases gone; who listened still does."""
        self._lock = threading.RLock()
        self._thread = self._ending = None
        self._leases.begin_anew()
        self.subscribers.begin_anew()
        self.waiting.clear()
        self._sick.clear()
        self._operations.begin_anew()
        self.store.after_fork_in_child()
        self._up = not self._remote

    def before_exit(self, until: float) -> None:
        """Close what was opened by a URL, when all leases are given back: a user's own store stays open."""
        self._closed.set()
        if self._is_ours:
            self.store.close()

    def join(self, user: object) -> None:
        """Have the tier's thread for a user more."""
        with self._lock:
            self._users.add(id(user))

    def part(self, user: object) -> None:
        """End the thread with the last user, whatever still holds the tier: the frames of a failed request may."""
        with self._lock:
            self._users.discard(id(user))
            if not self._users and self._thread is not None:
                self._closed.set()
                self._ending, self._thread = self._thread, None

    def start(self) -> None:
        """Let the tier's thread connect, if there are users and it does not run yet; later, where there is none now."""
        with self._lock:
            if self._thread is None and self._remote and self._users and not is_ending():
                # Here and not at construction: in between, gevent may have put its own locks in the place of Python's.
                self._closed, self._tried = Flag(), Flag()
                thread = threading.Thread(
                    target=_watch,
                    args=(weakref.ref(self), self._closed, self._ending),
                    name="conduit-oauth-store",
                    daemon=True,
                )
                # Known before it starts: the start may let other tasks of this thread come here (gevent).
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None

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
            for teller in tellers:
                teller.tell()
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
        for left in reversed(range(_PROBES)):
            key = f"probe-{secrets.token_hex(4)}"
            try:
                self._ask(lambda store, key=key: store.claim(key, NOTHING, lease, key), self._operations.connecting)
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
        told = self._ask(lambda store: store.clocks(), self._operations.connecting)
        after = elapsed()
        went_back = False
        for name, now in told.items():
            # It is ahead by something between these two.
            least, most = now - after, now - before
            if most < self._ahead.get(name, -math.inf) - STEP:
                went_back = True
                self._ahead[name] = least
            self._ahead[name] = max(self._ahead.get(name, -math.inf), least)
        if went_back:
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


def _watch(reference: weakref.ref[Tier], closed: Flag, before: threading.Thread | None) -> None:
    """The tier's thread: ends with the tier, which it does not keep alive. One at a time listens to the store."""
    tell_end_of_thread()
    if before is not None:
        before.join()
    pause = 0.0
    while not closed.wait(pause) and (tier := reference()) is not None:
        pause = tier.watch(pause)
        del tier


# What this process knows without any store: the failures of endpoints, for all its providers.
LOCAL = Tier(MemoryStore(), 0.05, remote=False)
_opened: weakref.WeakValueDictionary[object, Tier] = weakref.WeakValueDictionary()
_opening = LockOfProcess()


def local_tier(clock: Clock) -> Tier:
    """What stands in where no store is in use: the process's own memory, or one that runs by a clock of its own."""
    return LOCAL if clock is elapsed else Tier(MemoryStore(clock), 0.05, remote=False)


def _check_that_it_can_be_sealed() -> None:
    try:
        from . import sealing  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError as missing:
        problem = f"needs {missing.name}, which is not installed"
        raise ConfigurationError("store", problem, "Install conduit-oauth[sqlite] or conduit-oauth[redis].") from None


def tier_of(store: str | TokenStore, timeout: float) -> Tier | None:
    """The process's one tier for a URL or a store object; None for `memory:`. Raises `ConfigurationError`."""
    identity = (store, timeout) if isinstance(store, str) else id(store)
    with _opening:
        tier = _opened.get(identity)
        if tier is None:
            opened = open_store(store, timeout * CONNECTING) if isinstance(store, str) else store
            if opened is None:
                return None
            _check_that_it_can_be_sealed()
            tier = _opened[identity] = Tier(opened, timeout, is_ours=isinstance(store, str))
            if isinstance(store, str):
                # The end of the process has an order of its own.
                weakref.finalize(tier, opened.close).atexit = False
        return tier
