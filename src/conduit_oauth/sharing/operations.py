"""The operations of one store: each is waited for as long as operations take, and a few of them run at once.

Invariant: A caller waits no longer than the bound, whatever the store does. The answer of a late operation still
reaches a listener.
"""

from __future__ import annotations

import _thread
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..clock import elapsed
from ..runtime.landing import Flag
from ..stores import StoreError, TokenStore

T = TypeVar("T")

# Multiples of the time limit: for the first connection (with TLS, in a process that only just begins), for a later one,
# and for an operation of a store that is far away.
FIRST = 60
CONNECTING = 20
FARTHEST = 10
# An operation may take so many times what operations take, before it is given up.
_PATIENCE = 4
# A wait is made of so many: a process that gets no processor counts those that it slept through as short ones.
_SLICES = 20
# So many operations of a process are at the store at once: more would only take the processor from each other.
AT_ONCE = 8
# Seconds for which one waits for its turn, as long as others get theirs.
LONGEST_QUEUE = 10.0
# Seconds that a thread may need to begin.
_STARVED = 2.0


class Operations:
    """What is asked of `store`; `timeout` is the least of the bounds, in seconds."""

    def __init__(self, store: TokenStore, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        # Whether anybody is to wait for a turn.
        self.is_open = True
        # Seconds that an operation takes lately, and when the latest one was done.
        self._cost = 0.0
        self._worked_at = -math.inf
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the operations of a parent process."""
        self._lock = threading.RLock()
        # How many operations there are at once, and who waits for a turn.
        self._at_once = 0
        self._queue: deque[Flag] = deque()

    @property
    def bound(self) -> float:
        """Seconds that an operation is waited for."""
        return min(max(self._timeout, _PATIENCE * self._cost), self.farthest)

    @property
    def farthest(self) -> float:
        """Seconds that an operation is waited for at most."""
        return FARTHEST * self._timeout

    @property
    def first(self) -> float:
        """Seconds that the first connection is waited for."""
        return FIRST * self._timeout

    @property
    def connecting(self) -> float:
        """Seconds that a connection is waited for."""
        return CONNECTING * self._timeout

    def run(
        self,
        work: Callable[[TokenStore], T],
        seconds: float,
        *,
        late: Callable[[T], object] | None = None,
        queued: bool = True,
        is_next: bool = False,
    ) -> T:
        """What the store answers within `seconds`, in one's turn where `queued`; `late` has what it answers after that.

        `is_next` where others wait for what it stores. Raises `StoreError`.
        """
        operation = _Operation(work, self._store, self._learn, late)
        if queued:
            self._enter(seconds, is_next=is_next)
        try:
            return operation.answer(seconds)
        finally:
            if queued:
                self._exit()

    def _enter(self, seconds: float, *, is_next: bool) -> None:
        """Wait for one's turn, while others get theirs. Raises `StoreError` where nobody does."""
        with self._lock:
            if self._at_once < AT_ONCE:
                self._at_once += 1
                return
            mine = Flag()
            (self._queue.appendleft if is_next else self._queue.append)(mine)
        give_up_at = elapsed() + LONGEST_QUEUE
        while not mine.wait(seconds):
            with self._lock:
                now = elapsed()
                is_stuck = not self.is_open or now - self._worked_at > self.connecting or now > give_up_at
                if is_stuck and not mine.is_set():
                    self._queue.remove(mine)
                    raise StoreError("it is too busy")

    def _exit(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._at_once -= 1

    def _learn(self, seconds: float) -> None:
        self._worked_at = elapsed()
        # One stall says little of what the next operation takes.
        seconds = min(seconds, self.farthest / _PATIENCE)
        self._cost = seconds if self._cost == 0.0 else self._cost + (seconds - self._cost) / 8


class _Operation(Generic[T]):
    """One operation, on a thread of its own."""

    def __init__(
        self,
        work: Callable[[TokenStore], T],
        store: TokenStore,
        learn: Callable[[float], object],
        late: Callable[[T], object] | None,
    ) -> None:
        self._work = work
        self._store = store
        self._learn = learn
        self._late = late
        self._answers: list[T] = []
        self._errors: list[StoreError] = []
        # Whoever takes it first decides whether the answer is late.
        self._turn = [True]
        self._begun, self._done = Flag(), Flag()

    def answer(self, seconds: float) -> T:
        """The answer, within `seconds`. Raises `StoreError`."""
        try:
            _thread.start_new_thread(self._ask, ())
        except RuntimeError:
            self._ask()
        patiently(self._done, seconds)
        if not self._begun.is_set():
            # A process that gets no processor is not to blame the store for that.
            self._begun.wait(_STARVED)
            patiently(self._done, seconds)
        if not self._done.is_set() and self._is_first():
            raise StoreError(f"no answer within {seconds:.2g} s")
        # Perhaps it came just now.
        self._done.wait(seconds)
        if self._answers:
            return self._answers[0]
        raise self._errors[0] if self._errors else StoreError("no answer")

    def _ask(self) -> None:
        self._begun.set()
        started = elapsed()
        try:
            found = self._work(self._store)
            self._learn(elapsed() - started)
            if self._is_first():
                self._answers.append(found)
            elif self._late is not None:
                self._late(found)
        except StoreError as error:
            self._errors.append(error)
        except Exception as error:  # a defect in a user's own store is no worse than its being down
            self._errors.append(StoreError(f"broke down with {type(error).__name__}"))
        finally:
            self._done.set()

    def _is_first(self) -> bool:
        try:
            return self._turn.pop()
        except IndexError:
            return False


def patiently(flag: Flag, seconds: float) -> None:
    """Wait for `flag` for `seconds`, or longer where this process gets no processor meanwhile."""
    for _ in range(_SLICES):
        if flag.wait(seconds / _SLICES):
            return
