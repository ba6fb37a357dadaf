"""One store as this process sees it: used while it works, left alone while it does not.

Invariant: No caller waits for a store longer than its bound, and none sees its errors. The bound follows what the
store costs. While a store is down, only a thread of the tier tries it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from ..clock import Clock, elapsed
from ..errors import ConfigurationError
from ..runtime.landing import Flag
from ..runtime.process import LockOfProcess, Rank, enter, is_ending, tell_end_of_thread
from ..stores import Entry, Known, StoreError, TokenStore, open_store
from ..stores.memory import MemoryStore
from .leases import FIRST_LEASE, LEASE, LONGEST_LEASE
from .operations import CONNECTING, patiently
from .sick import FIRST_PAUSE
from .upkeep import Upkeep

T = TypeVar("T")

# Where more than that wait, each looks less often: the news tell of a token, a look of a dead leader.
_LOOKS = 20
# Seconds between two looks at most.
_LONGEST_POLL = 10.0


class Tier(Upkeep):
    """A store behind a guard, for all providers of a process that use it; `timeout` is the least of its bounds."""

    def __init__(self, store: TokenStore, timeout: float, *, remote: bool = True, is_ours: bool = False) -> None:
        # Without a thread nobody renews: in one process a leader cannot die alone.
        super().__init__(store, timeout, LEASE if remote else LONGEST_LEASE, up=not remote)
        self._is_ours = is_ours
        self._remote = remote
        self._thread: threading.Thread | None = None
        # The one that was told to end.
        self._ending: threading.Thread | None = None
        # Who is gone without a word uses it no more.
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        # Who waits for another process's answer.
        self.waiting: set[int] = set()
        enter(self, Rank.TIER)

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
        if not self._is_in_use() or self._sick.left(key, elapsed()) > 0:
            return None
        try:
            bound = self._operations.farthest if patient else self.bound
            # The tier's own thread keeps the leases of all: it waits for no turn.
            # By its identifier: an object for a thread of ours would outlive it (Python 3.12).
            queued = (thread := self._thread) is None or thread.ident != threading.get_ident()
            answer = self._operations.run(work, bound, late=late, queued=queued, is_next=patient)
        except StoreError as error:
            self._blame(key, error)
            if lost is not None:
                lost()
            return None
        self._sick.recovered(key)
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
        # The first probe may bring it.
        if self._pepper is None and self._is_in_use() and self._pepper is None:
            self._pepper = self.call("", lambda store: getattr(store, "pepper", b""))
        return self._pepper

    def wait_out(self, key: str) -> None:
        """Wait until `key` may be asked for again after its first failure: for what nobody waits for."""
        if 0 < (left := self._sick.left(key, elapsed())) <= FIRST_PAUSE:
            Flag().wait(left)

    def drop(self, key: str, owner: str) -> None:
        """Renew the lease of `owner` no more."""
        self._leases.drop(key, owner)

    def release(self, key: str, owner: str) -> None:
        """End the lease of `owner`; where the store does not answer, as soon as it does."""
        self.drop(key, owner)
        if self.call(key, lambda store: store.release(key, owner) or True) is None:
            self._leases.disown(key, owner)

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

    def _is_in_use(self) -> bool:
        """Whether the store is in use; the first time, when it is known."""
        tell_end_of_thread()
        if self._thread is None:
            self.start()
        # Only the first time does anybody wait: later it is known to be out of reach.
        if not self._up and not self._tried.is_set():
            patiently(self._tried, self._operations.first)
            self._tried.set()
        return self._up

    def join(self, user: object) -> None:
        """Have the tier's thread for a user more."""
        with self._lock:
            self._users.add(user)

    def part(self, user: object) -> None:
        """End the thread with the last user, whatever still holds the tier: the frames of a failed request may."""
        with self._lock:
            self._users.discard(user)
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
