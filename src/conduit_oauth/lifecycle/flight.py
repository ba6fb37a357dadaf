"""One flight: the token request that everybody who needs a token waits for, with its retries.

It runs on a thread of its own, so no caller leads it: callers may be cancelled, time out or die, in threads and event
loops of any kind, and the flight goes on. That thread uses the synchronous transport, whoever waits.

Invariant: Whatever happens to a flight, its waiters wake. Its result is stored under the lock of its control.
"""

from __future__ import annotations

import _thread
import logging
import math
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..client.requester import Requester
from ..client.transport import Errand
from ..clock import Clock, jitter
from ..errors import InvalidTokenResponse, OAuthError, TokenRequestError, TransportError
from ..events import Event, EventName, Observer, observe
from ..protocol.pauses import REFUSAL_MEMORY, pause_after
from ..runtime.landing import Flag, Landing
from ..runtime.process import is_ending, shuts_down
from ..sharing.gate import Busy, Gate, Refused, is_trouble
from ..sharing.tier import Tier
from ..token import AccessToken
from .life import Life
from .state import Counts

if TYPE_CHECKING:
    from ..sharing.share import Share

logger = logging.getLogger("conduit_oauth")


# Seconds for which a refresh rests where another process is at it.
REST = 1.0
# Tokens of one flight that may be void as they come.
MOST_VOID = 2


_PHASES = {
    "name": "its name is not resolved yet",
    "connection": "there is no connection yet",
    "proxy": "the proxy has not opened a way yet",
    "TLS": "the TLS handshake has not ended yet",
    "request": "the request is not taken yet",
    "answer": "there is no answer yet",
}


def spawn(work: Callable[[], None]) -> None:
    """Do `work` on a thread of its own. Raises `RuntimeError` where there is none. A simulation puts its own here."""
    # Not threading.Thread: its start() waits for the new thread to run, which would make a warm caller wait.
    _thread.start_new_thread(work, ())


def pause_on(flag: Flag, seconds: float) -> bool:
    """Wait until `flag` is set, or for `seconds`; whether it is set. A simulation puts its own here."""
    return flag.wait(seconds)


def no_thread(url: str) -> TransportError:
    """The error for one whose event loop would have to stand still for a request to `url`."""
    return TransportError(
        url,
        "was not asked: there is no thread for the request",
        "Allow this process more threads (ulimit -u, pids.max).",
        local=True,
    )


class Control(Protocol):
    """What a flight uses of the control that started it."""

    name: str
    timeout: float
    observer: Observer | None
    requester: Requester
    share: Share | None
    local: Tier
    lock: threading.RLock
    life: Life
    counts: Counts
    flight: Flight | None
    forgiven_at: float
    landed_at: float | None
    failed_at: float | None
    failure: OAuthError | None

    def tell_keeper(self, *, crashed: bool = False) -> None:
        """Tell whoever keeps the provider warm that a flight has ended."""
        ...


class Flight:
    """What the waiters of one flight share. Guarded by the lock of its control, but for its flags."""

    __slots__ = (
        "_clock",
        "_control",
        "_errand",
        "_grounded",
        "_void",
        "deadline",
        "done",
        "error",
        "hurry",
        "landing",
        "last_error",
        "not_before",
    )

    def __init__(self, control: Control, clock: Clock, not_before: float = -math.inf) -> None:
        self._control = control
        self._clock = clock
        # The latest deadline of those who wait; a refresh that nobody waits for has none left and tries once.
        self.deadline = -math.inf
        self.not_before = not_before
        # `error` ended the flight, `last_error` is that of its latest attempt.
        self.error: OAuthError | None = None
        self.last_error: OAuthError | None = None
        self.landing = Landing()
        # Set later than `landing`, when the store knows, too.
        self.done = Landing()
        # Set when no attempt is to begin any more.
        self.hurry = Flag()
        # How many tokens were void as they came.
        self._void = 0
        # The attempt that is under way.
        self._errand: Errand | None = None
        # What is left to do until a thread does it.
        self._grounded: list[Callable[[], None]] = [self._fly]

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
            raise no_thread(self._control.requester.locator.target)
        self._take_over()
        await self._next().wait_async(seconds)

    def cut(self) -> None:
        """End at once: nobody wants the token any more."""
        self.hurry.set()
        if self._errand is not None:
            self._errand.cut()

    @property
    def is_unreached(self) -> bool:
        """Whether it waits for an answer of the network that no cut can end, and that nothing depends on."""
        return self._errand is not None and self._errand.is_unreached

    @property
    def progress(self) -> str:
        """What it waits for, in words for a person."""
        phase = "" if self._errand is None else self._errand.phase
        if phase in _PHASES:
            return f"{self._control.requester.locator.target}: {_PHASES[phase]}"
        return "" if self.last_error is None else str(self.last_error)

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

    def _fly(self) -> None:
        control = self._control
        share = control.share
        forgiven_for = self._clock() - control.forgiven_at
        gate = Gate(share and share.tier, control.local, control.requester.locator.target, forgiven_for)
        crashed = True
        try:
            self._attempt_until_landed(share, gate)
            crashed = False
        except Exception as error:  # a fault of ours: those who wait are told, and do not start the next at once
            # Its words only: a record with frames keeps what is in them, secrets and the store's thread.
            logger.error("token_flight_crashed name=%s\n%s", control.name, traceback.format_exc())
            broken = OAuthError(
                f"{control.requester.locator.target}: broke down with {type(error).__name__}. Report this."
            )
            self._failed(broken, 0.0)
        finally:
            gate.leave()
            if share is not None:
                share.leave()
            with control.lock:
                if control.flight is self:
                    control.flight = None
            # Whoever waited for a flight that the end of the process cut short is cut off, too: no use in an error.
            if not (is_ending() and self.hurry.is_set()):
                self.landing.set()
            self.done.set()
            control.tell_keeper(crashed=crashed)

    def _attempt_until_landed(self, share: Share | None, gate: Gate) -> None:
        """Find or request a token until one lands, or nobody is left who has time to wait for the next attempt."""
        control = self._control
        attempt = 0
        pause = self.not_before - self._clock()
        while not pause_on(self.hurry, max(0.0, pause)):
            with control.lock:
                epoch, held = control.life.epoch, control.life.token
            found = self._clearance(share, gate, held)
            if isinstance(found, AccessToken):
                if self._adopted(found, epoch):
                    return
                pause = 0.0
            elif isinstance(found, Busy):
                if (left := self.deadline - self._clock()) <= 0:
                    self._rest(gate)
                    return
                pause_on(found.ticket, min(found.seconds, left))
                pause = 0.0
            elif isinstance(found, Refused):
                pause = found.seconds
                if self._failed(found.error, pause):
                    return
            else:
                asked_at, sent = self._clock(), control.requester.sent
                budget = self.deadline - asked_at
                self._errand = Errand(control.requester.transport, budget if budget > 0 else control.timeout)
                if self.hurry.is_set():
                    return
                outcome = self._requested(gate, self._errand)
                seconds, refresh = self._clock() - asked_at, asked_at < held.expires_at
                if isinstance(outcome, AccessToken):
                    if outcome.value == held.value:
                        outcome = outcome.given_again(held, self._clock())
                    if self._landed(outcome, epoch, share, seconds=seconds, refresh=refresh):
                        return
                    pause = 0.0
                    continue
                if self.hurry.is_set():
                    # Cut short: it says nothing of the server.
                    return
                if isinstance(outcome, InvalidTokenResponse):
                    # No wrong URL, where it gave tokens before: to us or, for all we know, to others of the fleet.
                    outcome.retryable = control.landed_at is not None or (share is not None and attempt == 0)
                cut = isinstance(outcome, TransportError) and seconds >= budget > 0
                if cut:
                    # By the deadline of the callers: it says nothing of the endpoint, and less than the failure before.
                    outcome = self.last_error or outcome
                left = self.deadline - self._clock()
                pause = pause_after(outcome, attempt, jitter(), left)
                attempt += 1
                if cut:
                    gate.leave()
                elif is_trouble(outcome):
                    pause = gate.failed(outcome, pause, left)
                elif share is not None and isinstance(outcome, TokenRequestError):
                    share.report(outcome, held, pause if outcome.retryable else REFUSAL_MEMORY)
                over = self._failed(outcome, pause)
                self._tell(outcome, over=over, sent=control.requester.sent > sent, seconds=seconds, refresh=refresh)
                if over:
                    return

    def _tell(self, error: OAuthError, *, over: bool, sent: bool, seconds: float, refresh: bool) -> None:
        """Log and report a failed attempt by its own name: one that ended in discovery sent no token request."""
        control = self._control
        event: EventName
        if sent:
            event = "token_request_failed" if over else "token_request_retried"
        else:
            event = "discovery_failed" if over else "discovery_retried"
        # Some servers give the same token until it ends: between that and the next one, there is nothing to report.
        ending = isinstance(error, InvalidTokenResponse) and error.field == "expires_in" and error.retryable
        logger.log(
            logging.DEBUG if ending and not over else logging.WARNING, "%s name=%s: %s", event, control.name, error
        )
        observe(control.observer, self._event(event, seconds=seconds, error=error, refresh=refresh))

    def _clearance(self, share: Share | None, gate: Gate, held: AccessToken) -> AccessToken | Busy | Refused | None:
        """A better token than `held`, or what keeps us from asking for one; None: ask."""
        control = self._control
        if share is not None:
            try:
                if (found := share.look(held)) is not None:
                    return found
            except Exception as error:  # a credential that cannot be read: the request will say so
                logger.debug("store_not_asked name=%s: %s", control.name, type(error).__name__)
        return gate.admit()

    def _adopted(self, token: AccessToken, epoch: int) -> bool:
        """Take in a token that another process stored; whether that is all there was to do."""
        control = self._control
        with control.lock:
            now = self._clock()
            if not control.life.land(token.early(jitter()), epoch):
                return False
            control.counts.adopted += 1
            control.landed_at = now
            fresh = now < control.life.token.refresh_at
        self.landing.set()
        observe(control.observer, self._event("token_adopted", lifetime=token.expires_at - now))
        return fresh

    def _requested(self, gate: Gate, errand: Errand) -> AccessToken | OAuthError:
        control = self._control
        sent = control.requester.sent
        outcome = control.requester.fetch(errand)
        with control.lock:
            # One attempt, whatever it took: a nonce, the other method, the other secret.
            control.counts.token_requests += control.requester.sent > sent
        if isinstance(outcome, AccessToken) or not is_trouble(outcome):
            gate.answered()
        return outcome

    def _landed(self, token: AccessToken, epoch: int, share: Share | None, **facts: Any) -> bool:
        """Take in a token that was asked for; whether the flight has ended."""
        control = self._control
        if share is not None:
            share.make_sure()
        with control.lock:
            control.counts.tokens += 1
            # Everything was invalidated meanwhile. If that goes on, it is forged, or not worth following.
            self._void += not (is_valid := share is None or share.landed(token))
            landed = is_valid or self._void > MOST_VOID
            landed = landed and control.life.land(token if share is None else token.early(jitter()), epoch)
            now = self._clock()
            if landed:
                control.landed_at = now
        # Who is told of it finds it in the provider.
        observe(control.observer, self._event("token_received", lifetime=token.expires_at - now, **facts))
        if share is None:
            return landed or self._clock() >= self.deadline
        if landed:
            # Nobody of this process waits for the store.
            self.landing.set()
        if landed and is_valid:
            share.publish(token)
        else:
            share.leave()
        return landed or self._clock() >= self.deadline

    def _failed(self, error: OAuthError, pause: float) -> bool:
        """Remember why there is no token yet; whether that ends the flight."""
        control = self._control
        with control.lock:
            control.counts.failures += 1
            self.last_error = error
            control.failure = error
            control.failed_at = now = self._clock()
            if error.retryable and now + pause < self.deadline:
                return False
            self.error = error
            control.life.fail(error, now, jitter())
            return True

    def _rest(self, gate: Gate) -> None:
        """Another process is asking, and nobody here has time left to wait for it."""
        control = self._control
        if self.deadline > -math.inf and isinstance(told := gate.admit(), Refused):
            self.last_error = told.error
        with control.lock:
            control.life.rest(self._clock() + REST)

    def _event(self, name: EventName, **facts: Any) -> Event:
        return Event(name, self._control.name, self._control.requester.locator.target, **facts)
