"""Who boards a flight, when one starts, and what makes a token void: a provider's token and all that guards it.

Invariant: There is at most one flight. Nothing waits under the lock.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..client.requester import Requester
from ..clock import Clock
from ..errors import OAuthError, ProviderClosedError, TransportError
from ..events import Event, Observer, observe
from ..runtime.process import Rank, Resident, enter, is_ending
from ..sharing.tier import Tier, local_tier
from ..stores import Entry
from ..token import NO_TOKEN, AccessToken
from .flight import Flight
from .life import Life, Step
from .state import History

if TYPE_CHECKING:
    from ..sharing.share import Share

logger = logging.getLogger("conduit_oauth")
logger.addHandler(logging.NullHandler())

# Seconds between two tries to find a thread for a refresh.
THREAD_PAUSE = 5.0


class FlightControl(Resident):
    """Starts flights when the life of the token asks for one, and lets callers board."""

    __slots__ = (
        "clock",
        "closed",
        "ended",
        "flight",
        "forgiven_at",
        "history",
        "life",
        "local",
        "lock",
        "name",
        "observer",
        "requester",
        "share",
        "timeout",
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
        self.name = name
        self.observer = observer
        self.requester = requester
        self.clock = clock
        self.timeout = timeout
        self.life = life
        # Reentrant, because a signal handler may ask, invalidate or close while the lock is held by what it interrupts.
        self.lock = threading.RLock()
        self.flight: Flight | None = None
        self.history = History()
        self.closed = False
        # For the supervision: told that a flight has ended, and whether it broke down, or that the token expired.
        self.ended: Callable[[bool], None] | None = None
        # When what had failed was to be tried again at once.
        self.forgiven_at: float = -math.inf
        self.share: Share | None = None
        if tier is not None:
            from ..sharing.share import Share

            self.share = Share(tier, requester, clock, self)
        self.local = local_tier(clock)
        enter(self, Rank.PROVIDER)

    def serve_in_window(self) -> str | None:
        """The token while it is valid, and its one refresh started unless it is under way or resting."""
        now = self.clock()
        token = self.life.token
        if now >= token.expires_at:
            return None
        # Looked at before the lock, so that callers in the window do not queue for it.
        if self.flight is None and now >= self.life.quiet_until:
            with self.lock:
                if self.life.step(now, now, in_flight=self.flight is not None) is Step.REFRESH:
                    self._refresh(now)
        return token.value

    def held(self) -> AccessToken | None:
        """The token while it is valid. Asks nobody."""
        token = self.life.token
        return token if self.clock() < token.expires_at else None

    def progress(self) -> str:
        """What the flight that is under way waits for, in words for a person; empty where there is none."""
        flight = self.flight
        return "" if flight is None else flight.progress

    def keep(self) -> float | None:
        """Start the refresh if it is due, though nobody calls; else the moment to look again, None while one is on."""
        with self.lock:
            now, life = self.clock(), self.life
            if self.closed or is_ending():
                return math.inf
            if self.flight is not None:
                return None
            rest = max(life.quiet_until, life.closed_until)
            if now >= life.token.refresh_at and now >= rest and self._refresh(now):
                return None
            return max(life.token.refresh_at, life.quiet_until, life.closed_until)

    def board(self, deadline: float, waited_for: Flight | None) -> str | Flight:
        """A valid token, or the flight to wait for until `deadline`; raises what keeps us from both."""
        with self.lock:
            if self.closed:
                raise ProviderClosedError(self.name)
            now = self.clock()
            step = self.life.step(now, deadline, in_flight=self.flight is not None)
            if step in (Step.SERVE, Step.REFRESH):
                return self.life.token.value
            if waited_for is not None and waited_for.error is not None:
                raise waited_for.error.again()
            if step is Step.REFUSE and self.life.last_error is not None:
                raise self.life.last_error.again()
            if now >= deadline:
                raise self._reason(waited_for)
            return self._awaited(deadline)

    def renew(self, deadline: float) -> tuple[str, Flight]:
        """The token at hand, valid or not, and the flight that is to bring another."""
        with self.lock:
            if self.closed:
                raise ProviderClosedError(self.name)
            self._recall(None)
            error = self.life.last_error
            if error is not None and not error.retryable and self.clock() < self.life.closed_until:
                raise error.again()
            return self.life.token.value, self._awaited(deadline)

    def renewed(self, before: str, flight: Flight) -> str:
        """The token that `flight` brought in the place of `before`; raises why there is none."""
        with self.lock:
            token = self.life.token
            if self.closed:
                raise ProviderClosedError(self.name)
            if token.value != before and self.clock() < token.expires_at:
                return token.value
        raise self._reason(flight)

    def invalidate(self, token: str | None) -> None:
        """Forget the token, if it is still `token`; where it is shared, the whole fleet does."""
        with self.lock:
            self._recall(token)
            held = self.life.token
            forgotten = self.life.invalidate(token)
            self.history.counts.invalidations += forgotten
            if (share := self.share) is not None and (forgotten or token is None):
                share.forget(held, everything=token is None)
                # The store is told on a thread of its own: this may be an event loop's.
                with contextlib.suppress(RuntimeError):
                    _thread.start_new_thread(share.tell, ())
        if forgotten:
            observe(self.observer, Event("token_invalidated", self.name))
            self.tell_keeper()

    def heard(self, entry: Entry) -> None:
        """Another process told of the key; where our token has no place in the store, it may help out."""
        with self.lock:
            if (share := self.share) is None:
                return
            share.hear(entry)
            has_none = self.flight is None and share.fence_of(self.life.token) == 0
        self._drop_if_void(share)
        if has_none:
            self.resync()

    def forgive(self) -> None:
        """Let what failed be asked for again, here and where the fleet remembers it."""
        with self.lock:
            self.life.forgive()
            self.forgiven_at = self.clock()
        if (share := self.share) is not None:
            share.forgive()

    def resync(self, *, distrust: bool = False) -> None:
        """Look at the store again, and give it the token, if it has none."""
        token = self.life.token
        if (share := self.share) is not None:
            share.look_again(token, offer=self.flight is None and self.clock() < token.refresh_at, distrust=distrust)
            self._drop_if_void(share)

    def _drop_if_void(self, share: Share) -> None:
        with self.lock:
            if dropped := share.is_void(self.life.token):
                self.life.drop()
        if dropped:
            self.tell_keeper()

    def close(self) -> None:
        """Forget the token, and wake everybody who waits with `ProviderClosedError`."""
        with self.lock:
            self.closed = True
            self.life.invalidate()
            flight = self.flight
        if flight is not None:
            flight.cut()
            flight.landing.set()
        self.settle(flight)
        # The store's thread and connections end with the last provider that uses it, not with the next collection.
        with self.lock:
            share, self.share = self.share, None
        self.requester.locator.pins = self.requester.authentication.memory = None
        if share is not None:
            share.tier.part(share)

    def after_fork_in_child(self) -> None:
        """Share no lock, flight or socket with the parent; keep the token, where the store does not call it void."""
        self.lock = threading.RLock()
        self.flight = None
        self.requester.transport = self.requester.transport.in_child()
        if self.share is not None:
            self.share.after_fork_in_child()
            if self.life.token is not NO_TOKEN:
                self.share.inherited = self.life.give_up()

    def cut_short(self) -> None:
        """End the flight that is under way, but for one whose token is there and only has to be stored."""
        if (flight := self.flight) is not None and not flight.landing.is_set():
            flight.cut()

    def before_exit(self, until: float) -> None:
        """Let the fleet have the token that was just asked for, or the lease, before this process is gone."""
        if (flight := self.flight) is not None and not flight.is_unreached:
            flight.done.wait(until - time.monotonic())
        if (share := self.share) is not None:
            share.leave()
            share.tell()

    def settle(self, flight: Flight | None) -> None:
        """Wait, for as long as a store may take, until it knows what we know."""
        if (share := self.share) is not None:
            if flight is not None:
                flight.done.wait(share.tier.timeout)
            share.tell()

    def _recall(self, token: str | None) -> None:
        """Have the token that a fork left here, if it is `token`, back in its life."""
        share = self.share
        if share is not None and share.inherited is not None and token in (None, share.inherited.value):
            self.life.token, share.inherited = share.inherited, None

    def _reason(self, flight: Flight | None) -> OAuthError:
        """Why one who waited for `flight` has no token."""
        if flight is not None and (error := flight.error or flight.last_error) is not None:
            return error.again()
        return TransportError(self.requester.locator.target, f"no token within {self.timeout:g} s")

    def _awaited(self, deadline: float) -> Flight:
        """The flight, for one who waits for it until `deadline`."""
        if self.flight is None:
            self.flight = Flight(self, self.clock, self.life.closed_until)
        self.flight.deadline = max(self.flight.deadline, deadline)
        self.flight.start_or_ground()
        return self.flight

    def _refresh(self, now: float) -> bool:
        """Start a flight that nobody waits for; False, and not again at once, where there is no thread for it."""
        flight = Flight(self, self.clock)
        try:
            flight.start()
        except RuntimeError as error:
            # Not the token's fault: whoever needs one is not refused for it.
            logger.warning("token_refresh_put_off name=%s: there is no thread for it (%s)", self.name, error)
            self.life.rest(now + THREAD_PAUSE)
            return False
        self.flight = flight
        return True

    def tell_keeper(self, *, crashed: bool = False) -> None:
        """Not under the lock: the keeper has one of its own, and calls us with it."""
        if self.ended is not None:
            self.ended(crashed)
