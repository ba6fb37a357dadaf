"""Who waits for a flight, and the thread that it flies on: one of its own, or that of one who waits.

Invariant: A flight takes off once. An event loop never stands still for it.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

from ..errors import TransportError
from ..runtime.landing import Flag, Landing
from ..runtime.process import is_ending, shuts_down


def spawn(work: Callable[[], None]) -> None:
    """Do `work` on a thread of its own. Raises `RuntimeError` where there is none. A simulation puts its own here."""
    # Not threading.Thread: its start() waits for the new thread to run, which would make a warm caller wait.
    _thread.start_new_thread(work, ())


def no_thread(url: str) -> TransportError:
    """The error for one whose event loop would have to stand still for a request to `url`."""
    return TransportError(
        url,
        "was not asked: there is no thread for the request",
        "Allow this process more threads (ulimit -u, pids.max).",
        local=True,
    )


class Boarding:
    """What the waiters of one flight share. `fly` does its work, `target` is the URL that it asks."""

    __slots__ = ("_grounded", "_target", "done", "hurry", "landing")

    def __init__(self, fly: Callable[[], None], target: Callable[[], str]) -> None:
        self.landing = Landing()
        # Set later than `landing`, when the store knows, too.
        self.done = Landing()
        # Set when no attempt is to begin any more.
        self.hurry = Flag()
        # What is left to do until a thread does it.
        self._grounded = [fly]
        self._target = target

    def start(self) -> None:
        """Take off, on a thread of its own. Raises `RuntimeError` where there is none to be had."""
        spawn(self._grounded.pop())

    def start_or_ground(self) -> None:
        """Take off, if it has not yet; where there is no thread for it, one of those who wait is to fly."""
        if not is_ending() and (fly := self._claimed()) is not None:
            try:
                spawn(fly)
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                self._grounded.append(fly)

    def wait(self, seconds: float) -> None:
        """Block until there is something to see, or for `seconds`."""
        self._take_over()
        self._next().wait(seconds)

    async def wait_async(self, seconds: float) -> None:
        """As `wait`, for tasks. Raises `TransportError` where the loop would have to stand still for a request."""
        if self._grounded and not shuts_down():
            raise no_thread(self._target())
        self._take_over()
        await self._next().wait_async(seconds)

    def _next(self) -> Landing:
        # A token that landed and is void by now: the next flight starts when this one has told the store of it.
        return self.done if self.landing.is_set() else self.landing

    def _take_over(self) -> None:
        # At the end of the process other threads are cut off anywhere: they just wait.
        if is_ending() and threading.current_thread() is not threading.main_thread():
            return
        if (fly := self._claimed()) is not None:
            fly()

    def _claimed(self) -> Callable[[], None] | None:
        try:
            return self._grounded.pop()
        except IndexError:  # it flies already
            return None
