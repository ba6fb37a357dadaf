"""Events that anybody may set and wait for: a signal handler, a thread, an asyncio task and a trio task alike.

Invariant: Setting one never waits for an event loop. A loop that is closed or busy delays no other. Nothing here is
bound at import, because gevent and eventlet replace threads and locks later.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
# Seconds for which a signal may have to wait.
_SLICE = 0.2


class _LoopEvent(Protocol):
    def set(self) -> object: ...
    def wait(self) -> Awaitable[object]: ...


class NoThreadError(RuntimeError):
    """There is no thread to be had: too many already, or the interpreter ends."""


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, which blocks, awaited under asyncio or trio while it runs on a thread of its own.

    Raises `NoThreadError`, and does not begin, where there is none.
    """
    landing = Landing()
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # handed to the task that waits
            errors.append(error)
        finally:
            landing.set()

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:
        raise NoThreadError(str(error)) from None
    while not results and not errors:
        await landing.wait_async(3600.0)
    if errors:
        raise errors[0]
    return results[0]


def wait_until(is_over: Callable[[float], bool]) -> None:
    """Wait, on the main thread, until `is_over`, which waits for so many seconds.

    In slices: Python runs no signal handler while it waits for a lock, where the signal came just before.
    """
    while not is_over(_SLICE):
        pass


class Flag:
    """Set once, and waited for by threads.

    Unlike `threading.Event` it has no lock that a signal handler could find held by the very code it interrupts.
    """

    __slots__ = ("_baton", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        # Whoever gets the baton hands it on to the next one who waits.
        self._baton = threading.Lock()
        self._baton.acquire()

    def set(self) -> None:
        """Wake everybody who waits, and let nobody wait from now on."""
        if not self._is_set:
            self._is_set = True
            # Two may come here at once.
            with contextlib.suppress(RuntimeError):
                self._baton.release()

    def is_set(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Block this thread until set, or for `timeout` seconds; whether it is set."""
        if not self._is_set and self._baton.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX)):
            self._baton.release()
        return self._is_set


class LateLock:
    """A reentrant lock that may be held while its holder waits: it is made when it is first taken.

    A native lock that gevent did not replace is the same owner's for all tasks of a thread, and lets them all in.
    """

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[str, threading.RLock] = {}

    def __enter__(self) -> None:
        # A single step: of two threads that come here first, both get the same one.
        self._made.setdefault("", threading.RLock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._made[""].release()


class Landing(Flag):
    """A flag that tasks of asyncio and trio can wait for, too."""

    __slots__ = ("_lock", "_loops")

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        # One event and one wake-up per event loop, however many of its tasks wait.
        self._loops: dict[Any, tuple[_LoopEvent, Callable[[], object]]] = {}

    def set(self) -> None:
        """Wake everybody who waits, and let nobody wait from now on."""
        with self._lock:
            super().set()
            loops = list(self._loops.values())
        for _, wake in loops:
            try:
                wake()
            except RuntimeError:
                # Closed loop (asyncio), finished run (trio): nobody waits there any more.
                continue

    async def wait_async(self, timeout: float) -> None:
        """Suspend this task until set, or for `timeout` seconds."""
        # Imported only where it runs us, so loaded already. Trio first: as a guest it runs inside an asyncio loop.
        if sys.modules.get("trio") is not None:
            import trio

            if trio.lowlevel.in_trio_task():
                token = trio.lowlevel.current_trio_token()
                event = self._event_in(token, trio.Event, token.run_sync_soon)
                with trio.move_on_after(max(0.0, timeout)):
                    await event.wait()
                return
        import asyncio

        loop = asyncio.get_running_loop()
        event = self._event_in(loop, asyncio.Event, loop.call_soon_threadsafe)
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return

    def _event_in(self, loop: Any, make: Callable[[], _LoopEvent], call_soon: Callable[..., object]) -> _LoopEvent:
        with self._lock:
            if loop not in self._loops:
                event = make()
                self._loops[loop] = event, partial(call_soon, event.set)
                if self.is_set():
                    event.set()
            return self._loops[loop][0]
