"""One flight: the token request that everybody who needs a token waits for, with its retries.

It runs on a thread of its own, so no caller leads it: callers may be cancelled, time out or die, in threads and event
loops of any kind, and the flight goes on. That thread uses the synchronous transport, whoever waits.

Law: there is at most one flight; under the lock nothing waits; whatever happens to a flight, its waiters are woken.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import math
import os
import random
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .clock import Clock
from .errors import InvalidTokenResponse, OAuthError, ProviderClosedError, TokenRequestError, TransportError
from .events import Event, EventName, Observer, observe
from .gate import Busy, Gate, Refused, is_trouble
from .landing import Landing
from .life import REFUSAL_MEMORY, Life, Step, pause_after
from .requester import Requester
from .state import Counts
from .tier import Tier, local_tier
from .token import AccessToken

if TYPE_CHECKING:
    from .share import Share

logger = logging.getLogger("conduit_oauth")
logger.addHandler(logging.NullHandler())

# Not threading.Thread: its start() waits for the new thread to run, which would make a warm caller wait.
# A simulation puts its own in place of these two.
spawn: Callable[[Callable[[Flight], None], tuple[Flight]], object] = _thread.start_new_thread
pause_on: Callable[[threading.Event, float], bool] = threading.Event.wait

# Seconds for which a refresh rests where another process is at it.
REST = 1.0
# The part of the store's time limit after which a flight asks it nothing more before its request.
PATIENCE = 0.4


class Flight:
    """What the waiters of one flight share. Guarded by the lock of its control, but for `landing` and `hurry`."""

    __slots__ = ("deadline", "done", "error", "hurry", "landing", "last_error", "not_before")

    def __init__(self, not_before: float = -math.inf) -> None:
        # The latest deadline of those who wait; a refresh that nobody waits for has none left and tries once.
        self.deadline = -math.inf
        self.not_before = not_before
        # `error` ended the flight, `last_error` is that of its latest attempt.
        self.error: OAuthError | None = None
        self.last_error: OAuthError | None = None
        self.landing = Landing()
        # Set later than `landing`, when the store knows, too.
        self.done = threading.Event()
        # Set to cut a pause between two attempts short, when the provider closes.
        self.hurry = threading.Event()


class FlightControl:
    """Starts flights when the life of the token asks for one, and lets callers board."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_life",
        "_local",
        "_name",
        "_observer",
        "_timeout",
        "closed",
        "counts",
        "ended",
        "failed_at",
        "failure",
        "flight",
        "landed_at",
        "lock",
        "requester",
        "share",
    )

    def __init__(
        self,
        name: str,
        life: Life,
        requester: Requester,
        clock: Clock,
        timeout: float,
        *,
        tier: Tier | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._name = name
        self._observer = observer
        self.requester = requester
        self._clock = clock
        self._timeout = timeout
        self._life = life
        self.lock = threading.Lock()
        self.flight: Flight | None = None
        self.counts = Counts()
        self.closed = False
        # For whoever keeps providers warm: told that a flight is over, and whether it broke down, or that the token is.
        self.ended: Callable[[bool], None] | None = None
        self.landed_at: float | None = None
        self.failed_at: float | None = None
        self.failure: OAuthError | None = None
        self.share: Share | None = None
        if tier is not None:
            from .share import Share

            self.share = Share(tier, requester, clock, self)
        self._local = local_tier(clock)
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

    def held(self) -> AccessToken | None:
        """The token while it is valid. Asks nobody."""
        token = self._life.token
        return token if self._clock() < token.expires_at else None

    def keep(self) -> float | None:
        """Start the refresh if it is due, though nobody calls; else the moment to look again, None while one is on."""
        with self.lock:
            now, life = self._clock(), self._life
            if self.closed:
                return math.inf
            if self.flight is not None:
                return None
            rest = max(life.quiet_until, life.closed_until)
            if now < life.token.refresh_at or now < rest:
                return max(life.token.refresh_at, rest)
            self._start(Flight())
            return None

    def inherit(self, other: FlightControl) -> None:
        """Take over the token of one that was made from other settings, where they ask for the same token."""
        try:
            same = self.requester.identity() == other.requester.identity()
        except Exception:  # a key that cannot be read: no token could be asked for with it either
            return
        if same:
            with self.lock:
                self._life.token, self.landed_at = other._life.token, other.landed_at

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
                raise TransportError(self.requester.target, f"no token within {self._timeout:g} s")
            flight = self.flight or self._start(Flight(not_before=self._life.closed_until))
            flight.deadline = max(flight.deadline, deadline)
            return flight

    def invalidate(self, token: str | None) -> None:
        """Forget the token, if it is still `token`; where it is shared, the whole fleet does."""
        with self.lock:
            held = self._life.token
            forgotten = self._life.invalidate(token)
            self.counts.invalidations += forgotten
            if (share := self.share) is not None and (forgotten or token is None):
                share.forget(None if token is None else held)
                # The store is told on a thread of its own: this may be an event loop's.
                with contextlib.suppress(RuntimeError):
                    _thread.start_new_thread(share.tell, ())
        if forgotten:
            observe(self._observer, Event("token_invalidated", self._name))
            self._tell_keeper()

    def heard(self, floor: int) -> None:
        """Another process forgot what has a fence up to `floor`; a token that has none may help out."""
        with self.lock:
            if (share := self.share) is None:
                return
            share.floor = max(share.floor, floor)
            fence = share.fence_of(self._life.token)
            dropped = 0 < fence <= floor
            if dropped:
                self._life.drop()
        if dropped:
            self._tell_keeper()
        if fence == 0:
            self.resync()

    def resync(self) -> None:
        """The store is back: give it the token, if it has none."""
        token = self._life.token
        if (share := self.share) is not None and self.flight is None and self._clock() < token.refresh_at:
            share.offer(token)

    def close(self) -> None:
        """Forget the token, and wake everybody who waits with `ProviderClosedError`."""
        with self.lock:
            self.closed = True
            self._life.invalidate()
            flight = self.flight
        if flight is not None:
            flight.hurry.set()
            flight.landing.set()
        self.settle(flight)
        # The store's thread and connections end with the last provider that uses it, not with the next collection.
        self.share = self.requester.pins = None

    def after_fork_in_child(self) -> None:
        """Share no lock, flight or socket with the parent; keep the token."""
        self.lock = threading.Lock()
        self.flight = None
        self.requester.transport = self.requester.transport.in_child()
        if self.share is not None:
            self.share.after_fork_in_child()

    def before_exit(self) -> None:
        """Let the fleet have the token that was just asked for, or the lease, before this process is gone."""
        flight = self.flight
        if flight is not None and (share := self.share) is not None and not flight.landing.is_set():
            share.leave()
        else:
            self.settle(flight)

    def settle(self, flight: Flight | None) -> None:
        """Wait, for as long as a store may take, until it knows what we know."""
        if (share := self.share) is not None:
            if flight is not None:
                flight.done.wait(share.tier.timeout)
            share.tell()

    def _start(self, flight: Flight) -> Flight:
        try:
            spawn(self._fly, (flight,))
        except RuntimeError as error:  # no more threads, or the interpreter is shutting down
            raise TransportError(self.requester.target, f"no thread for the token request ({error})") from None
        self.flight = flight
        return flight

    def _fly(self, flight: Flight) -> None:
        share = self.share
        gate = Gate(share and share.tier, self._local, self.requester.target)
        crashed = True
        try:
            self._attempt_until_landed(flight, share, gate)
            crashed = False
        except Exception as error:  # a fault of ours: those who wait are told, and do not start the next at once
            logger.exception("token_flight_crashed name=%s", self._name)
            broken = OAuthError(f"{self.requester.target}: broke down with {type(error).__name__}. Report this.")
            self._failed(broken, flight, 0.0)
        finally:
            gate.leave()
            if share is not None:
                share.leave()
            with self.lock:
                if self.flight is flight:
                    self.flight = None
            flight.landing.set()
            flight.done.set()
            self._tell_keeper(crashed=crashed)

    def _tell_keeper(self, *, crashed: bool = False) -> None:
        """Not under the lock: the keeper has one of its own, and calls us with it."""
        if self.ended is not None:
            self.ended(crashed)

    def _attempt_until_landed(self, flight: Flight, share: Share | None, gate: Gate) -> None:
        """Find or request a token until one lands, or nobody is left who has time to wait for the next attempt."""
        attempt = 0
        pause = flight.not_before - self._clock()
        while not pause_on(flight.hurry, max(0.0, pause)):
            with self.lock:
                epoch, held = self._life.epoch, self._life.token
            found = self._clearance(share, gate, held)
            if isinstance(found, AccessToken):
                if self._adopted(found, epoch, flight):
                    return
                pause = 0.0
            elif isinstance(found, Busy):
                if (left := flight.deadline - self._clock()) <= 0:
                    self._rest(flight, gate)
                    return
                pause_on(found.ticket, min(found.seconds, left))
                pause = 0.0
            elif isinstance(found, Refused):
                pause = found.seconds
                if self._failed(found.error, flight, pause):
                    return
            else:
                asked_at = self._clock()
                outcome = self._requested(gate)
                seconds, refresh = self._clock() - asked_at, asked_at < held.expires_at
                if isinstance(outcome, AccessToken):
                    if self._landed(outcome, epoch, flight, share, seconds=seconds, refresh=refresh):
                        return
                    pause = 0.0
                    continue
                if isinstance(outcome, InvalidTokenResponse):
                    # No wrong URL, where it gave tokens before: to us or, for all we know, to others of the fleet.
                    outcome.retryable = self.landed_at is not None or (share is not None and attempt == 0)
                pause = pause_after(outcome, attempt, random.random())
                attempt += 1
                if is_trouble(outcome):
                    pause = gate.failed(outcome, pause)
                elif share is not None and isinstance(outcome, TokenRequestError):
                    share.report(outcome, held, pause if outcome.retryable else REFUSAL_MEMORY)
                over = self._failed(outcome, flight, pause)
                event = "token_request_failed" if over else "token_request_retried"
                logger.warning("%s name=%s: %s", event, self._name, outcome)
                observe(self._observer, self._event(event, seconds=seconds, error=outcome, refresh=refresh))
                if over:
                    return

    def _clearance(self, share: Share | None, gate: Gate, held: AccessToken) -> AccessToken | Busy | Refused | None:
        """A better token than `held`, or what keeps us from asking for one; None: ask."""
        if share is not None:
            try:
                if (found := share.look(held)) is not None:
                    return found
            except Exception as error:  # a credential that cannot be read: the request will say so
                logger.debug("store_not_asked name=%s: %s", self._name, type(error).__name__)
            if share.spent > share.tier.timeout * PATIENCE:
                return None
        return gate.admit()

    def _adopted(self, token: AccessToken, epoch: int, flight: Flight) -> bool:
        """Take in a token that another process stored; whether that is all there was to do."""
        with self.lock:
            now = self._clock()
            if not self._life.land(token.early(random.random()), epoch):
                return False
            self.counts.adopted += 1
            self.landed_at = now
            fresh = now < self._life.token.refresh_at
        flight.landing.set()
        observe(self._observer, self._event("token_adopted", lifetime=token.expires_at - now))
        return fresh

    def _requested(self, gate: Gate) -> AccessToken | OAuthError:
        with self.lock:
            self.counts.token_requests += 1
        outcome = self.requester.fetch()
        if isinstance(outcome, AccessToken) or not is_trouble(outcome):
            gate.answered()
        return outcome

    def _landed(self, token: AccessToken, epoch: int, flight: Flight, share: Share | None, **facts: Any) -> bool:
        """Take in a token that was asked for; whether the flight is over."""
        with self.lock:
            self.counts.tokens += 1
            landed = share is None or share.landed(token)
            landed = landed and self._life.land(token if share is None else token.early(random.random()), epoch)
            now = self._clock()
            if landed:
                self.landed_at = now
        # Who is told of it finds it in the provider.
        observe(self._observer, self._event("token_received", lifetime=token.expires_at - now, **facts))
        if share is None:
            return landed or self._clock() >= flight.deadline
        if landed:
            # Nobody of this process waits for the store.
            flight.landing.set()
            share.publish(token)
        else:
            share.leave()
        return landed or self._clock() >= flight.deadline

    def _failed(self, error: OAuthError, flight: Flight, pause: float) -> bool:
        """Remember why there is no token yet; whether that ends the flight."""
        with self.lock:
            self.counts.failures += 1
            flight.last_error = error
            self.failure = error
            self.failed_at = now = self._clock()
            if error.retryable and now + pause < flight.deadline:
                return False
            flight.error = error
            self._life.fail(error, now, random.random())
            return True

    def _rest(self, flight: Flight, gate: Gate) -> None:
        """Another process is asking, and nobody here has time left to wait for it."""
        if flight.deadline > -math.inf and isinstance(told := gate.admit(), Refused):
            flight.last_error = told.error
        with self.lock:
            self._life.rest(self._clock() + REST)

    def _event(self, name: EventName, **facts: Any) -> Event:
        return Event(name, self._name, self.requester.target, **facts)


# Weak, so that a provider lives no longer than its users do.
_controls: weakref.WeakSet[FlightControl] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for control in list(_controls):
        control.after_fork_in_child()


@atexit.register
def _before_exit() -> None:
    for control in list(_controls):
        control.before_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
