"""Time, threads, waits and locks that a seed determines: what the code under test takes for those of Python.

A thread is a greenlet, and a wait an entry in the agenda. Nothing happens between two of its steps but what the seed
says, so a run can be had again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import greenlet

from conduit_oauth.lifecycle import boarding, control, flight
from conduit_oauth.runtime import landing
from conduit_oauth.sharing import gate, key_state, leases, operations, tier, upkeep

# A world that does more than this turns in circles.
_MOST_STEPS = 400_000


class World:
    """`now` is the true time, in seconds."""

    def __init__(self, seed: int) -> None:
        self.now = 1_000_000.0
        self.random = random.Random(seed)
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._hub = greenlet.getcurrent()
        # The process that each thread belongs to.
        self._home: dict[greenlet.greenlet, object] = {}
        self._dead: set[object] = set()
        self._waiting: dict[object, list[Callable[[], object]]] = {}
        self._is_over = False

    def at(self, moment: float, work: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (moment, self._count, work))

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        self.at(self.now + seconds, work)

    def spawn(self, work: Callable[[], object], home: object = None) -> None:
        """Do `work` on a thread of the process `home`, by default of whoever calls."""
        home = home if home is not None else self._home.get(greenlet.getcurrent())

        def run() -> None:
            if home in self._dead:
                return
            thread = greenlet.greenlet(work, self._hub)
            self._home[thread] = home
            thread.switch()

        self.at(self.now, run)

    def kill(self, home: object) -> None:
        """No thread of `home` does anything any more."""
        self._dead.add(home)

    def is_dead(self, home: object) -> bool:
        return home in self._dead

    def sleep(self, seconds: float) -> None:
        self._pause(lambda wake: self.after(seconds, wake))

    def _pause(self, arrange: Callable[[Callable[[], object]], object]) -> None:
        """Give the processor away until what `arrange` is given is called, the first time."""
        thread, once = greenlet.getcurrent(), [True]
        assert thread is not self._hub
        if self._is_over:
            raise greenlet.GreenletExit

        def wake() -> None:
            # What belongs to a process that is gone sleeps for ever.
            if once and not self._is_over and self._home.get(thread) not in self._dead:
                once.clear()
                thread.switch()

        arrange(wake)
        self._hub.switch()

    def wait(self, flag: landing.Flag, seconds: float) -> bool:
        """In place of `Flag.wait`."""
        if not flag._is_set and seconds > 0:
            self._wait_for(flag, seconds)
        return flag._is_set

    def _wait_for(self, what: object, seconds: float) -> None:
        wakes = self._waiting.setdefault(id(what), [])

        def arrange(wake: Callable[[], object]) -> None:
            wakes.append(wake)
            self.after(seconds, wake)

        self._pause(arrange)

    def notify(self, what: object) -> None:
        for wake in self._waiting.pop(id(what), []):
            self.at(self.now, wake)

    def run(self, until: float) -> None:
        steps = 0
        while self._agenda and self._agenda[0][0] <= until:
            moment, _, work = heapq.heappop(self._agenda)
            self.now = max(self.now, moment)
            work()
            steps += 1
            assert steps < _MOST_STEPS, "the world turns in circles"
        self.now = until

    def end(self) -> None:
        """Unwind the threads that wait still: each holds all that it sees."""
        self._is_over = True
        for thread in list(self._home):
            if not thread.dead:
                thread.throw()
        self._agenda.clear()
        self._waiting.clear()

    @contextmanager
    def in_place_of_threads(self) -> Iterator[None]:
        """The code under test runs in this world."""
        world = self

        class Thread:
            ident = 1

            def __init__(self, target: Callable[..., object], args: tuple[Any, ...] = (), **_: object) -> None:
                self._work = lambda: target(*args)

            def start(self) -> None:
                world.spawn(self._work)

            def join(self) -> None: ...

        class Lock:
            """Reentrant, as those that it stands for."""

            def __init__(self) -> None:
                self._owner: object = None
                self._depth = 0

            def acquire(self) -> None:
                me = greenlet.getcurrent()
                while self._owner not in (None, me):
                    world._wait_for(self, 3600.0)
                self._owner, self._depth = me, self._depth + 1

            def release(self) -> None:
                self._depth -= 1
                if self._depth == 0:
                    self._owner = None
                    world.notify(self)

            def __enter__(self) -> None:
                self.acquire()

            def __exit__(self, *_: object) -> None:
                self.release()

        def set_flag(flag: landing.Flag) -> None:
            flag._is_set = True
            world.notify(flag)

        def start(work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
            world.spawn(lambda: work(*arguments))

        threads = SimpleNamespace(
            Thread=Thread, RLock=Lock, current_thread=lambda: None, main_thread=lambda: None, get_ident=lambda: 0
        )
        patches: list[tuple[object, str, object]] = [
            (landing.Flag, "wait", lambda flag, seconds: world.wait(flag, seconds)),
            (landing.Flag, "set", set_flag),
            (boarding, "spawn", lambda work: world.spawn(work)),
            (flight, "jitter", world.random.random),
            (gate, "jitter", world.random.random),
            (control, "threading", threads),
            (control, "_thread", SimpleNamespace(start_new_thread=start)),
            (tier, "threading", threads),
            (tier, "elapsed", lambda: world.now),
            (upkeep, "threading", threads),
            (upkeep, "elapsed", lambda: world.now),
            (leases, "elapsed", lambda: world.now),
            (operations, "threading", threads),
            (operations, "_thread", SimpleNamespace(start_new_thread=start)),
            (operations, "elapsed", lambda: world.now),
            (operations, "_SLICES", 1),
            *[(module, "secrets", self._chance()) for module in (gate, key_state, upkeep)],
        ]
        patches.append((landing, "threading", SimpleNamespace(**vars(landing.threading) | {"RLock": Lock})))
        with ExitStack() as stack:
            for place, name, stand_in in patches:
                stack.enter_context(mock.patch.object(place, name, stand_in))
            yield

    def _chance(self) -> SimpleNamespace:
        return SimpleNamespace(token_hex=lambda size: self.random.randbytes(size).hex())
