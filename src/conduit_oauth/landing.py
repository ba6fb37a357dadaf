"""One event for threads, asyncio tasks and trio tasks alike: set once, from any thread, it wakes them all.

Law: whoever sets it never waits for a loop, and a loop that is gone or busy harms nobody else.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class _LoopEvent(Protocol):
    def set(self) -> object: ...
    def wait(self) -> Awaitable[object]: ...


async def in_thread(work: Callable[[], T]) -> T:
    """The result of `work`, which blocks, awaited under asyncio or trio while it runs on a thread of its own."""
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

    threading.Thread(target=run, daemon=True).start()
    while not results and not errors:
        await landing.wait_async(3600.0)
    if errors:
        raise errors[0]
    return results[0]


class Landing:
    """Set once; waited for with a bound in seconds, from wherever the caller runs."""

    __slots__ = ("_event", "_lock", "_loops")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        # One event and one wake-up per event loop, however many of its tasks wait.
        self._loops: dict[Any, tuple[_LoopEvent, Callable[[], object]]] = {}

    def set(self) -> None:
        """Wake everybody who waits, and let nobody wait from now on."""
        with self._lock:
            self._event.set()
            loops = list(self._loops.values())
        for _, wake in loops:
            try:
                wake()
            except RuntimeError:
                # Closed loop (asyncio), finished run (trio): nobody waits there any more.
                continue

    def is_set(self) -> bool:
        """Whether nobody waits any more."""
        return self._event.is_set()

    def wait(self, timeout: float) -> None:
        """Block this thread until set, or for `timeout` seconds."""
        self._event.wait(max(0.0, timeout))

    async def wait_async(self, timeout: float) -> None:
        """Suspend this task until set, or for `timeout` seconds."""
        # Imported only where it runs us, so loaded already. Trio first: as a guest it runs inside an asyncio loop.
        if "trio" in sys.modules:
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
                if self._event.is_set():
                    event.set()
            return self._loops[loop][0]
