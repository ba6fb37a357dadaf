"""The supervision of many providers by one thread or task: what is in use stays warm, what breaks down is restarted.

Invariant: What happens to one provider does not reach another. Methods of `Supervisor` that take a ward run under the
lock of the registry.
"""

from __future__ import annotations

import _thread
import contextlib
import heapq
import logging
import math
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from ..clock import Clock, jitter
from ..errors import OAuthError
from ..events import call_back
from ..lifecycle.state import Health
from ..protocol.urls import origin_of
from ..provider import TokenProvider
from ..runtime.landing import Flag, Landing, NoThreadError, in_thread
from .turns import Turns
from .ward import Ward

logger = logging.getLogger("conduit_oauth")

# Seconds that the supervision sleeps at most.
IDLE = 3600.0
# What is refused (a wrong secret) is asked for again after REFUSAL, then twice as long each time, up to REFUSAL_CAP.
REFUSAL = 30.0
REFUSAL_CAP = 900.0
# Seconds between two looks at the files of credentials that were refused, or could not be read.
CREDENTIAL_WATCH = 1.0
# Seconds that a forked child has to replace threads before the supervision goes on in it. Until then callers start the
# refreshes.
AFTER_FORK = 5.0
RESTART_BASE = 0.5
RESTART_CAP = 60.0


class Supervisor:
    """Looks after `wards`, which belong to a registry, as does `lock`.

    `replace` puts a new provider into a ward; `look` is done in each round, and tells in how many seconds it wants to
    be done again; `changed` is told whose token came, went or could not be had. `max_restarts` and `restart_period` are
    an OTP supervisor's intensity, for each ward.
    """

    def __init__(
        self,
        wards: Mapping[str, Ward],
        lock: threading.RLock,
        clock: Clock,
        *,
        max_refreshes: int,
        max_restarts: int,
        restart_period: float,
        replace: Callable[[str, Ward], None],
        look: Callable[[], float],
        changed: Callable[[str], object] | None,
    ) -> None:
        self.lock = lock
        self._wards = wards
        self._clock = clock
        self._max_restarts = max_restarts
        self._restart_period = restart_period
        self._replace = replace
        self._look = look
        self._changed = changed
        # (moment, name); of several for one ward the one that it knows counts.
        self._agenda: list[tuple[float, str]] = []
        # In a forked child: whether the thread is still to be started, and what ends the wait for that.
        self._is_put_off = False
        self._ended = Flag()
        self._turns = Turns(max_refreshes)
        self._wake = Landing()
        self._thread: threading.Thread | None = None
        self.running = False

    def watch(self, name: str, ward: Ward, provider: TokenProvider) -> None:
        """Look after `provider` from now on, in the place of the one that the ward had."""
        ward.provider.control.ended = None
        self._free(name)
        ward.provider = provider
        ward.given_up = None
        provider.control.ended = self._over(name)
        self._schedule(name, ward, -math.inf)

    def let_go(self, name: str, ward: Ward) -> None:
        """Look after it no more."""
        ward.provider.control.ended = None
        self._free(name)

    def forgive(self, name: str, ward: Ward) -> None:
        """Ask at once for what failed: what the failure was about may have changed."""
        if ward.given_up is None and ward.provider.control.life.last_error is not None:
            ward.refusals, ward.refused_with = 0, None
            ward.provider.control.forgive()
            self._schedule(name, ward, -math.inf)

    def health(self, name: str, ward: Ward | None) -> Health:
        """How a provider is; one without a ward was not asked for yet."""
        if ward is None:
            return Health(name, "idle", False, None, None, None, None, None, 0)
        return ward.health(name, ward.due - self._clock() if self.running else 0.0)

    def begin(self) -> None:
        """Let `run` or `run_async` do its rounds."""
        self.running = True
        for name, ward in self._wards.items():
            self._schedule(name, ward, -math.inf)

    def start(self) -> None:
        """Run on a thread, until `end`. Raises `OAuthError` where there is none."""
        if self._thread is None:
            # Known before it starts: the start may let other tasks of this thread come here (gevent).
            self._thread = thread = threading.Thread(target=self._run, name="conduit-oauth-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._thread, self.running = None, False
                raise OAuthError(
                    f"there is no thread for the supervision ({error}). "
                    "Allow this process more threads (ulimit -u, pids.max), and start it again."
                ) from None

    async def run_async(self) -> None:
        """Run in this task, until it is cancelled or `end` is called."""
        while self.running:
            try:
                # A provider that is made anew may read files.
                wake, pause = await in_thread(self._round)
            except NoThreadError:
                wake, pause = self._wake, RESTART_BASE
            await wake.wait_async(pause)

    def end(self) -> None:
        """Do no more rounds. Waits for the thread, so it is called without the lock."""
        with self.lock:
            self.running = self._is_put_off = False
            thread, self._thread = self._thread, None
            self._wake.set()
            self._ended.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork_in_child(self, lock: threading.RLock) -> None:
        """Share no lock with the parent; run on a thread of our own where the parent did."""
        self.lock = lock
        self._wake, self._ended = Landing(), Flag()
        self._turns.clear()
        self.running = self._is_put_off = self._thread is not None or self._is_put_off
        self._thread = None
        if self.running:
            self.begin()
            # Without a thread in the child, its callers start the refreshes. Of `threading` nothing is used here: a
            # framework that comes later would not know the thread.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._wait_out_the_fork, (_thread.start_new_thread,))

    def _wait_out_the_fork(self, start: Callable[..., object]) -> None:
        """Start the thread, but not where a framework puts something else in the place of threads now.

        gunicorn's gevent worker does. There the first flight starts it, as a thread of the framework's own kind.
        """
        if not self._ended.wait(AFTER_FORK) and _thread.start_new_thread is start:
            self._start_late()

    def _start_late(self) -> None:
        with self.lock:
            if self._is_put_off:
                self._is_put_off = False
                with contextlib.suppress(OAuthError):
                    self.start()

    def _run(self) -> None:
        while self.running:
            wake, pause = self._round()
            wake.wait(pause)

    def _round(self) -> tuple[Landing, float]:
        """Look after everything that is due; what to wait for, and for how long."""
        try:
            wake, pause = self._tend_all()
            return wake, min(pause, self._look(), self._look_at_credentials())
        except Exception:  # a fault of ours: the supervision goes on
            logger.error("supervision_failed\n%s", traceback.format_exc())
            return self._wake, RESTART_BASE

    def _look_at_credentials(self) -> float:
        """Forgive each refusal whose credential's file changed; the seconds until the next look."""
        with self.lock:
            refused = {name: ward for name, ward in self._wards.items() if ward.refused_with}
            for name, ward in refused.items():
                if ward.provider.control.requester.credential_version() != ward.refused_with:
                    self.forgive(name, ward)
        return CREDENTIAL_WATCH if refused else math.inf

    def _tend_all(self) -> tuple[Landing, float]:
        with self.lock:
            if self._wake.is_set():
                self._wake = Landing()
            now = self._clock()
            while self._agenda and self._agenda[0][0] <= now and not self._turns.is_full:
                moment, name = heapq.heappop(self._agenda)
                ward = self._wards.get(name)
                if ward is not None and moment == ward.due:
                    self._tend(name, ward)
            # With as many refreshes on as there may be, the end of one wakes us.
            pause = self._agenda[0][0] - now if self._agenda and not self._turns.is_full else IDLE
            return self._wake, max(0.0, pause) if self.running else 0.0

    def _tend(self, name: str, ward: Ward) -> None:
        control = ward.provider.control
        origin = origin_of(urlsplit(control.requester.locator.target))
        if not self._turns.admits(name, origin):
            return
        try:
            moment = control.keep()
        except OAuthError as error:
            self._call_next(origin)
            self._restart(name, ward, error)
            return
        if moment is None:
            self._turns.begin(name, origin)
            return
        self._call_next(origin)
        if moment < math.inf:
            self._schedule(name, ward, moment)

    def _free(self, name: str) -> None:
        """Its refresh has ended, if there was one."""
        if (origin := self._turns.end(name)) is not None:
            self._call_next(origin)

    def _call_next(self, origin: str) -> None:
        while (name := self._turns.next_at(origin)) is not None:
            if (ward := self._wards.get(name)) is not None:
                self._schedule(name, ward, -math.inf)
                return

    def _over(self, name: str) -> Callable[[bool], None]:
        """What the provider calls when its flight has ended. It does not keep us alive."""
        reference = weakref.ref(self)

        def over(crashed: bool) -> None:
            if (supervisor := reference()) is not None:
                supervisor._flight_over(name, crashed=crashed)

        return over

    def _flight_over(self, name: str, *, crashed: bool) -> None:
        with self.lock:
            self._free(name)
            ward = self._wards.get(name)
            if ward is not None and crashed:
                self._restart(name, ward, OAuthError(f"provider {name!r} broke down; the log has the traceback."))
            elif ward is not None:
                error = ward.provider.state().last_error
                refused = error is not None and not error.retryable
                ward.refusals = ward.refusals + 1 if refused else 0
                ward.refused_with = ward.provider.control.history.credential_version if refused else None
                rest = min(REFUSAL_CAP, REFUSAL * 2.0 ** min(ward.refusals - 1, 16))
                self._schedule(name, ward, self._clock() + rest if refused else -math.inf)
            self._wake.set()
            self._start_late()
        if self._changed is not None:
            call_back("on_change", self._changed, name)

    def _restart(self, name: str, ward: Ward, error: OAuthError) -> None:
        """Make a provider anew that broke down, a little later each time; give it up where that does not help."""
        now = self._clock()
        ward.crashes = (*(moment for moment in ward.crashes if now - moment < self._restart_period), now)
        restarts = len(ward.crashes)
        if restarts > self._max_restarts:
            ward.given_up = error
            logger.error("provider_given_up name=%s restarts=%d: %s", name, restarts - 1, error)
            return
        pause = min(RESTART_CAP, RESTART_BASE * 2.0 ** (restarts - 1)) * (0.5 + jitter() / 2)
        logger.warning("provider_restarted name=%s in=%.1f: %s", name, pause, error)
        self._replace(name, ward)
        self._schedule(name, ward, now + pause)

    def _schedule(self, name: str, ward: Ward, moment: float) -> None:
        if self.running:
            ward.due = moment
            heapq.heappush(self._agenda, (moment, name))
            self._wake.set()
