"""What becomes of threads, locks, sockets and leases when this process forks or ends: the one owner of both moments.

Invariant: one thread at a time forks. At the end, requests are cut short before anything is told to a store, and stores
close last. What one resident does wrong keeps no other from its turn.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from enum import IntEnum
from pathlib import Path

from .end import at_end
from .landing import Flag, LateLock

logger = logging.getLogger("conduit_oauth")

# Seconds that the end of the process waits for requests that were cut short, all of them together.
EXIT_PATIENCE = 1.0
# Seconds that a fork, or the end, waits at most for what must not be copied, or cut off, half-way.
PATIENCE_INSIDE = 5.0
# Seconds that a fork waits at most for threads that end. The system takes microseconds, unless the machine is busy.
PATIENCE_ENDING = 1.0


class Rank(IntEnum):
    """The order in which a forked child gets its own: each needs those before it. The end goes the other way."""

    STORE = 0
    TIER = 1
    PROVIDER = 2
    SUPERVISION = 3


class Resident:
    """What has a thread, a lock or a connection. A subclass overrides what it needs; `enter` makes it known."""

    __slots__ = ("__weakref__",)

    def before_fork(self) -> None:
        """Hold still: what is copied now must be whole."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Share no lock, thread or connection with the parent."""

    def cut_short(self) -> None:
        """The process ends: begin nothing more, and end what is under way."""

    def before_exit(self, until: float) -> None:
        """Let others know what they need. What was cut short is waited for until `until`, by the monotonic clock."""


class LockOfProcess(Resident):
    """A lock of a module, which a forked child finds free whatever its parent was at."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = LateLock()
        enter(self, Rank.STORE)

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def after_fork_in_child(self) -> None:
        """Be free."""
        self._lock = LateLock()


# A dict of weak references and not a WeakSet: a copy is a single step, whatever other threads enter meanwhile.
_residents: dict[weakref.ref[Resident], Rank] = {}
# Held by the thread that forks. Reentrant, because a signal handler may fork.
_forking = threading.RLock()
# The threads that are where no fork may copy them and no end cut them off, and what tells that they left.
_inside: list[tuple[int, Flag]] = []
_is_ending = False
# The native ids of threads for which Python has done its last; those that ended long ago fall out.
_last_steps: deque[int] = deque(maxlen=1024)
_of_this_thread = threading.local()


def enter(resident: Resident, rank: Rank) -> None:
    """Have `resident` told of forks and of the end, for as long as it lives."""
    _residents[weakref.ref(resident, _forget)] = rank


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Import modules or make TLS contexts here, on whichever thread: forks and the end of the process wait meanwhile.

    A child whose parent was at that on another thread would find locks of Python or OpenSSL taken for ever, and a
    process that ends would tear down what the thread uses. Raises `RuntimeError` on a thread that comes after the end.
    """
    entry = threading.get_ident(), Flag()
    with _forking:
        if _is_ending and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the process ends")
        _inside.append(entry)
    try:
        yield
    finally:
        _inside.remove(entry)
        entry[1].set()


class _LastStep:
    """What a thread's own storage holds, and gives up at the end of the thread."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread = threading.get_native_id()

    def __del__(self) -> None:
        if not _is_ending:
            # No thread passes here while another one forks.
            with _forking:
                _last_steps.append(self._thread)


def tell_end_of_thread() -> None:
    """Have forks wait while this thread ends. Whoever may use OpenSSL on a thread calls this there first.

    The end of such a thread takes a lock of OpenSSL after Python's last step, `join()` included. A child that is forked
    in between would find the lock taken for ever.
    """
    if not hasattr(_of_this_thread, "end") and threading.get_ident() != threading.main_thread().ident:
        _of_this_thread.end = _LastStep()


def is_ending() -> bool:
    """Whether the end of the process has begun: threads that go on now are cut off anywhere."""
    return _is_ending


def shuts_down() -> bool:
    """Whether the program has returned, though threads of its own may go on: no thread can be started any more."""
    return _is_ending or not threading.main_thread().is_alive()


def _forget(reference: weakref.ref[Resident]) -> None:
    _residents.pop(reference, None)


def _living(*, backwards: bool = False) -> list[Resident]:
    ranked = sorted(_residents.copy().items(), key=lambda entry: entry[1], reverse=backwards)
    return [resident for reference, _ in ranked if (resident := reference()) is not None]


def _each(residents: Iterable[Resident], act: Callable[[Resident], None]) -> None:
    for resident in residents:
        try:
            act(resident)
        except Exception:  # a fault of ours, or of a user's own store
            logger.error("process_hook_failed\n%s", traceback.format_exc())


def _wait_for_those_inside() -> None:
    # What this thread itself is at, it has to know.
    this, give_up_at = threading.get_ident(), time.monotonic() + PATIENCE_INSIDE
    for thread, left in list(_inside):
        if thread != this:
            left.wait(give_up_at - time.monotonic())


def _wait_for_those_that_end() -> None:
    this, give_up_at = threading.get_native_id(), time.monotonic() + PATIENCE_ENDING
    while _last_steps:
        thread = _last_steps.popleft()
        # Under gevent this thread itself, which goes on. Only Linux tells: elsewhere no such path exists.
        while thread != this and Path(f"/proc/self/task/{thread}").exists() and time.monotonic() < give_up_at:
            time.sleep(0.0005)


# Those that hold still for the fork that is under way: another thread may enter more until it is done.
_held: list[Resident] = []


def _before_fork() -> None:
    _forking.acquire()
    # Nobody enters any more, and no thread ends.
    _wait_for_those_inside()
    _wait_for_those_that_end()
    _held[:] = _living(backwards=True)
    _each(_held, lambda resident: resident.before_fork())


def _after_fork_in_parent() -> None:
    _each(reversed(_held), lambda resident: resident.after_fork_in_parent())
    _held.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _held.clear()
    _inside.clear()
    _last_steps.clear()
    _forking = threading.RLock()
    _each(_living(), lambda resident: resident.after_fork_in_child())


def _before_exit() -> None:
    global _is_ending
    _is_ending = True
    residents, until = _living(backwards=True), time.monotonic() + EXIT_PATIENCE
    _each(residents, lambda resident: resident.cut_short())
    _each(residents, lambda resident: resident.before_exit(until))
    _wait_for_those_inside()


at_end(_before_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
