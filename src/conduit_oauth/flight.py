"""One flight: the token request that everybody who needs a token waits for, with its retries.

It runs on a thread of its own, so no caller leads it: callers may be cancelled, time out or die, in threads and event
loops of any kind, and the flight goes on. That thread uses the synchronous transport, whoever waits.

Law: there is at most one flight; under the lock nothing waits; whatever happens to a flight, its waiters are woken.
"""

from __future__ import annotations

import _thread
import logging
import math
import os
import random
import threading
import weakref

from .clock import Clock
from .errors import OAuthError, ProviderClosedError, TransportError
from .landing import Landing
from .life import Life, Step, pause_after
from .requester import Requester
from .state import Counts
from .token import AccessToken

logger = logging.getLogger("conduit_oauth")
logger.addHandler(logging.NullHandler())


class Flight:
    """What the waiters of one flight share. Guarded by the lock of its control, but for `landing` and `hurry`."""

    __slots__ = ("deadline", "error", "hurry", "landing", "last_error", "not_before")

    def __init__(self, not_before: float = -math.inf) -> None:
        # The latest deadline of those who wait; a refresh that nobody waits for has none left and tries once.
        self.deadline = -math.inf
        self.not_before = not_before
        # `error` ended the flight, `last_error` is that of its latest attempt.
        self.error: OAuthError | None = None
        self.last_error: OAuthError | None = None
        self.landing = Landing()
        # Set to cut a pause between two attempts short, when the provider closes.
        self.hurry = threading.Event()


class FlightControl:
    """Starts flights when the life of the token asks for one, and lets callers board."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_life",
        "_name",
        "_requester",
        "_timeout",
        "closed",
        "counts",
        "flight",
        "lock",
    )

    def __init__(self, name: str, life: Life, requester: Requester, clock: Clock, timeout: float) -> None:
        self._name = name
        self._requester = requester
        self._clock = clock
        self._timeout = timeout
        self._life = life
        self.lock = threading.Lock()
        self.flight: Flight | None = None
        self.counts = Counts()
        self.closed = False
        _controls.add(self)

    def serve_in_window(self) -> str | None:
        """The token while it is valid, and its one refresh started unless it is under way or resting."""
        now = self._clock()
        token = self._life.token
        if now >= token.expires_at:
            return None
        # Looked at before the lock, so that callers in the window do not queue for it.
        if self.flight is None and now >= self._life.quiet_until:
            with self.lock:
                if self._life.step(now, now, in_flight=self.flight is not None) is Step.REFRESH:
                    try:
                        self._start(Flight())
                    except TransportError as error:
                        self._life.fail(error, now, jitter=1.0)
        return token.value

    def board(self, deadline: float, waited_for: Flight | None) -> str | Flight:
        """A valid token, or the flight to wait for until `deadline`; raises what keeps us from both."""
        with self.lock:
            if self.closed:
                raise ProviderClosedError(self._name)
            now = self._clock()
            step = self._life.step(now, deadline, in_flight=self.flight is not None)
            if step in (Step.SERVE, Step.REFRESH):
                return self._life.token.value
            if waited_for is not None and waited_for.error is not None:
                raise waited_for.error.again()
            if step is Step.REFUSE and self._life.last_error is not None:
                raise self._life.last_error.again()
            if now >= deadline:
                if waited_for is not None and waited_for.last_error is not None:
                    raise waited_for.last_error.again()
                raise TransportError(self._requester.target, f"no token within {self._timeout:g} s")
            flight = self.flight or self._start(Flight(not_before=self._life.closed_until))
            flight.deadline = max(flight.deadline, deadline)
            return flight

    def invalidate(self, token: str | None) -> None:
        """Forget the token, if it is still `token`."""
        with self.lock:
            self.counts.invalidations += self._life.invalidate(token)

    def close(self) -> None:
        """Forget the token, and wake everybody who waits with `ProviderClosedError`."""
        with self.lock:
            self.closed = True
            self._life.invalidate()
            flight = self.flight
        if flight is not None:
            flight.hurry.set()
            flight.landing.set()

    def after_fork_in_child(self) -> None:
        """Share no lock, flight or socket with the parent; keep the token."""
        self.lock = threading.Lock()
        self.flight = None
        self._requester.transport = self._requester.transport.in_child()

    def _start(self, flight: Flight) -> Flight:
        # Not threading.Thread: its start() waits for the new thread to run, which would make a warm caller wait.
        try:
            _thread.start_new_thread(self._fly, (flight,))
        except RuntimeError as error:  # no more threads, or the interpreter is shutting down
            raise TransportError(self._requester.target, f"no thread for the token request ({error})") from None
        self.flight = flight
        return flight

    def _fly(self, flight: Flight) -> None:
        try:
            self._attempt_until_landed(flight)
        finally:
            with self.lock:
                if self.flight is flight:
                    self.flight = None
            flight.landing.set()

    def _attempt_until_landed(self, flight: Flight) -> None:
        """Send the request until a token lands, or nobody is left who has time to wait for the next attempt."""
        attempt = 0
        pause = flight.not_before - self._clock()
        while not flight.hurry.wait(max(0.0, pause)):
            with self.lock:
                epoch = self._life.epoch
                self.counts.token_requests += 1
            outcome = self._requester.fetch()
            now = self._clock()
            if isinstance(outcome, AccessToken):
                with self.lock:
                    self.counts.tokens += 1
                    if self._life.land(outcome, epoch) or now >= flight.deadline:
                        return
                pause = 0.0
                continue
            with self.lock:
                self.counts.failures += 1
                flight.last_error = outcome
                pause = pause_after(outcome, attempt, random.random())
                attempt += 1
                if not outcome.retryable or now + pause >= flight.deadline:
                    flight.error = outcome
                    self._life.fail(outcome, now, random.random())
            event = "token_request_retried" if flight.error is None else "token_request_failed"
            logger.warning("%s name=%s: %s", event, self._name, outcome)
            if flight.error is not None:
                return


# Weak, so that a provider lives no longer than its users do.
_controls: weakref.WeakSet[FlightControl] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for control in list(_controls):
        control.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
