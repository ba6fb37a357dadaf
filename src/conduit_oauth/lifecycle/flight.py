"""One flight: the token request that everybody who needs a token waits for, with its retries.

It runs on a thread of its own, so no caller leads it: callers may be cancelled, time out or die, in threads and event
loops of any kind, and the flight goes on. That thread uses the synchronous transport, whoever waits.

Invariant: Whatever happens to a flight, its waiters wake. Its result is stored under the lock of its control.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
from typing import TYPE_CHECKING, Any, Protocol

from ..client.network import WAITS
from ..client.transport import Errand
from ..clock import Clock, jitter
from ..errors import InvalidTokenResponse, OAuthError, TokenRequestError, TransportError, without_query
from ..protocol.pauses import LAST_SECOND, REFUSAL_MEMORY, latest_pause, pause_after
from ..runtime.landing import Flag
from ..runtime.process import is_ending
from ..sharing.gate import Busy, Gate, Refused, is_trouble
from ..sharing.tier import Tier
from ..token import AccessToken
from .boarding import Boarding
from .life import Life
from .reports import Subject, tell, tell_failure
from .state import History

if TYPE_CHECKING:
    from ..sharing.share import Share

logger = logging.getLogger("conduit_oauth")


# Seconds for which a refresh rests where another process is at it.
REST = 1.0
BEHIND = "another client or process is asking first, and has no answer yet"
# Seconds before the deadline from which those who wait for another process are told why it has no token yet.
LAST_LOOKS = 0.5
# Tokens of one flight that may be void as they come.
MOST_VOID = 2


def pause_on(flag: Flag, seconds: float) -> bool:
    """Wait until `flag` is set, or for `seconds`; whether it is set. A simulation puts its own here."""
    return flag.wait(seconds)


class Control(Subject, Protocol):
    """What a flight uses of the control that started it."""

    timeout: float
    share: Share | None
    local: Tier
    lock: threading.RLock
    life: Life
    history: History
    flight: Flight | None
    forgiven_at: float

    def tell_keeper(self, *, crashed: bool = False) -> None:
        """Tell whoever keeps the provider warm that a flight has ended."""


class Flight(Boarding):
    """The attempts of one flight. Guarded by the lock of its control, but for its flags."""

    __slots__ = (
        "_clock",
        "_control",
        "_errand",
        "_failures",
        "_is_behind",
        "_void",
        "deadline",
        "error",
        "last_error",
        "not_before",
    )

    def __init__(self, control: Control, clock: Clock, not_before: float = -math.inf) -> None:
        super().__init__(self._fly, lambda: control.requester.locator.target)
        self._control = control
        self._clock = clock
        # The latest deadline of those who wait; a refresh that nobody waits for has none left and tries once.
        self.deadline = -math.inf
        self.not_before = not_before
        # `error` ended the flight, `last_error` is that of its latest attempt.
        self.error: OAuthError | None = None
        self.last_error: OAuthError | None = None
        # How many tokens were void as they came.
        self._void = 0
        # The failed attempts, the attempt under way, and whether it waits for the attempt of another client instead.
        self._failures = 0
        self._errand: Errand | None = None
        self._is_behind = False

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
        if phase in WAITS:
            return f"{without_query(self._control.requester.locator.target)}: {WAITS[phase]}"
        return str(self.last_error or (self._is_behind and BEHIND) or "")

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
            where, kind = without_query(control.requester.locator.target), type(error).__name__
            self._failed(OAuthError(f"{where}: broke down with {kind}. Report this."), 0.0)
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
        pause = self.not_before - self._clock()
        while not pause_on(self.hurry, max(0.0, pause)):
            with control.lock:
                epoch, held = control.life.epoch, control.life.token
            control.history.credential_version = control.requester.credential_version()
            found = self._clearance(share, gate, held)
            self._is_behind = isinstance(found, Busy)
            if isinstance(found, AccessToken):
                if self._adopted(found, epoch):
                    return
                pause = 0.0
            elif isinstance(found, Busy):
                if (left := self.deadline - self._clock()) <= 0:
                    with control.lock:
                        control.life.rest(self._clock() + REST)
                    return
                if (latest := min(left, latest_pause(left))) <= max(found.seconds, LAST_LOOKS):
                    # Those who wait may give up before the next look, and are to hear why they got no token.
                    late = f"no token within {control.timeout:g} s: {BEHIND}"
                    error = TransportError(control.requester.locator.target, late)
                    self.last_error = gate.told() or self.last_error or error
                pause_on(found.ticket, min(found.seconds, latest))
                pause = 0.0
            elif isinstance(found, Refused):
                pause = found.seconds
                if self._failed(found.error, pause):
                    return
            elif (wait := self._attempt(share, gate)) is None:
                return
            else:
                pause = wait

    def _attempt(self, share: Share | None, gate: Gate) -> float | None:
        """Request a token; the seconds until the next attempt, None where the flight has ended."""
        control = self._control
        # Anew: while the store was asked, the token may have been invalidated. What is asked for now comes after that.
        with control.lock:
            epoch, held = control.life.epoch, control.life.token
        asked_at, sent = self._clock(), control.requester.sent
        budget = self.deadline - asked_at
        self._errand = Errand(control.requester.transport, budget if budget > 0 else control.timeout)
        if self.hurry.is_set():
            return None
        outcome = self._requested(gate, self._errand)
        seconds, refresh = self._clock() - asked_at, asked_at < held.expires_at
        if isinstance(outcome, AccessToken):
            if outcome.value == held.value:
                outcome = outcome.given_again(held, self._clock())
            return None if self._landed(outcome, epoch, share, seconds=seconds, refresh=refresh) else 0.0
        if self.hurry.is_set():  # cut short: it says nothing of the server
            return None
        if isinstance(outcome, InvalidTokenResponse):
            # No wrong URL, where it gave tokens before: to us or, for all we know, to others of the fleet.
            most = LAST_SECOND if outcome.retryable else int(share is not None)
            outcome.retryable = control.history.landed_at is not None or self._failures < most
        is_cut = isinstance(outcome, TransportError) and seconds >= budget > 0
        if is_cut:
            # By the deadline of the callers: it says nothing of the endpoint, and less than the failure before.
            outcome = self.last_error or outcome
        pause = self._weighed(outcome, share, gate, held, is_cut=is_cut)
        over = self._failed(outcome, pause)
        tell_failure(control, outcome, over=over, sent=control.requester.sent > sent, seconds=seconds, refresh=refresh)
        return None if over else pause

    def _weighed(self, error: OAuthError, share: Share | None, gate: Gate, held: AccessToken, *, is_cut: bool) -> float:
        """Tell others of what failed, as far as it concerns them; the seconds until the next attempt."""
        left = self.deadline - self._clock()
        pause = pause_after(error, self._failures, jitter(), left)
        self._failures += 1
        if is_cut:
            gate.leave()
        elif is_trouble(error):
            pause = gate.failed(error, pause, left)
        elif share is not None and isinstance(error, TokenRequestError):
            share.report(error, held, pause if error.retryable else REFUSAL_MEMORY)
        return pause

    def _clearance(self, share: Share | None, gate: Gate, held: AccessToken) -> AccessToken | Busy | Refused | None:
        """A better token than `held`, or what keeps us from asking for one; None: ask."""
        if share is not None:
            try:
                if (found := share.look(held)) is not None:
                    return found
            except Exception as error:  # a credential that cannot be read: the request will say so
                logger.debug("store_not_asked name=%s: %s", self._control.name, type(error).__name__)
        return gate.admit()

    def _adopted(self, token: AccessToken, epoch: int) -> bool:
        """Take in a token that another process stored; whether that is all there was to do."""
        control = self._control
        with control.lock:
            now = self._clock()
            if not control.life.land(token.early(jitter()), epoch):
                return False
            control.history.counts.adopted += 1
            control.history.landed_at = now
            fresh = now < control.life.token.refresh_at
        self.landing.set()
        tell(control, "token_adopted", lifetime=token.expires_at - now)
        return fresh

    def _requested(self, gate: Gate, errand: Errand) -> AccessToken | OAuthError:
        control = self._control
        sent = control.requester.sent
        outcome = control.requester.fetch(errand)
        with control.lock:
            # One attempt, whatever it took: a nonce, the other method, the other secret.
            control.history.counts.token_requests += control.requester.sent > sent
        if isinstance(outcome, AccessToken) or not is_trouble(outcome):
            gate.answered()
        return outcome

    def _landed(self, token: AccessToken, epoch: int, share: Share | None, **facts: Any) -> bool:
        """Take in a token that was asked for; whether the flight has ended."""
        control = self._control
        if share is not None:
            share.make_sure()
        with control.lock:
            control.history.counts.tokens += 1
            # Everything was invalidated meanwhile. If that goes on, it is forged, or not worth following.
            self._void += not (is_valid := share is None or share.landed(token))
            landed = is_valid or self._void > MOST_VOID
            landed = landed and control.life.land(token if share is None else token.early(jitter()), epoch)
            now = self._clock()
            if landed:
                control.history.landed_at = now
        # Who is told of it finds it in the provider.
        tell(control, "token_received", lifetime=token.expires_at - now, **facts)
        if share is not None:
            if landed:
                self.landing.set()  # nobody of this process waits for the store
            if landed and is_valid:
                share.publish(token)
            else:
                share.leave()
        return landed or self._clock() >= self.deadline

    def _failed(self, error: OAuthError, pause: float) -> bool:
        """Remember why there is no token yet; whether that ends the flight."""
        control = self._control
        with control.lock:
            control.history.counts.failures += 1
            self.last_error = error
            control.history.failure = error
            control.history.failed_at = now = self._clock()
            if error.retryable and now + pause < self.deadline:
                return False
            self.error = error
            control.life.fail(error, now, jitter())
            return True
