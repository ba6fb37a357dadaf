"""The life of a token as a table. Pure: no lock, no clock, no I/O; the provider holds the lock and passes the time.

                          token fresh   in its window               void or none
    a flight in the air   SERVE         SERVE                       JOIN
    refused lately        SERVE         SERVE                       REFUSE
    resting after a fault SERVE         SERVE                       LEAD (the flight waits for Retry-After)
    else                  SERVE         REFRESH (and serve)         LEAD (and join)

A void token is never served. An answer to a request sent before an invalidation never becomes the token.
"""

from __future__ import annotations

import math
from enum import Enum

from ..errors import OAuthError, TokenRequestError
from ..protocol.pauses import REFUSAL_MEMORY, backoff, demanded_pause
from ..token import NO_TOKEN, AccessToken


class Step(Enum):
    """What a caller has to do."""

    SERVE = "serve"
    REFRESH = "refresh"
    JOIN = "join"
    LEAD = "lead"
    REFUSE = "refuse"


class Life:
    """What is known of the token now: the token, the last failure, and how often it was invalidated."""

    __slots__ = ("_failures", "closed_until", "epoch", "last_error", "quiet_until", "token")

    def __init__(self) -> None:
        self.token: AccessToken = NO_TOKEN
        self.epoch = 0
        self.last_error: OAuthError | None = None
        # Until then no refresh is begun while the token is valid; until then no request is sent at all.
        self.quiet_until = -math.inf
        self.closed_until = -math.inf
        self._failures = 0

    def step(self, now: float, deadline: float, *, in_flight: bool) -> Step:
        """What a caller who would wait until `deadline` has to do now."""
        if now < self.token.refresh_at:
            return Step.SERVE
        if now < self.token.expires_at:
            return Step.SERVE if in_flight or now < self.quiet_until else Step.REFRESH
        if in_flight:
            return Step.JOIN
        if self.last_error and now < self.closed_until:
            return Step.LEAD if self.last_error.retryable and self.closed_until <= deadline else Step.REFUSE
        return Step.LEAD

    def land(self, token: AccessToken, epoch: int) -> bool:
        """Take in an answer to a request that was sent in `epoch`; False where it came too late to be believed."""
        if epoch != self.epoch:
            return False
        self.token = token
        self.last_error = None
        self.quiet_until = self.closed_until = -math.inf
        self._failures = 0
        return True

    def fail(self, error: OAuthError, now: float, jitter: float) -> None:
        """Remember that a flight ended with `error`. The token, if any, stays what it is."""
        self.last_error = error
        self._failures += 1
        if error.retryable:
            self.closed_until = now + demanded_pause(error)
            self.quiet_until = max(self.closed_until, now + backoff(self._failures + 2, jitter))
        else:
            memory = backoff(self._failures, 1.0)
            if isinstance(error, TokenRequestError):
                # What another process met is remembered for the rest of its time only.
                memory = min(error.retry_after or REFUSAL_MEMORY, REFUSAL_MEMORY)
            self.quiet_until = self.closed_until = now + memory

    def forgive(self) -> None:
        """Ask again at once: what failed may work now. The pause that a server asked for still counts.

        That of a server in trouble is in the circuit of its endpoint, which tells it from a pause of our own.
        """
        if (error := self.last_error) is not None:
            if not (isinstance(error, TokenRequestError) and error.status == 429):
                self.closed_until = -math.inf
            self.quiet_until = self.closed_until
            self._failures = 0

    def invalidate(self, value: str | None = None) -> bool:
        """Forget the token (only if it is still `value`, where one is given); False where nothing was forgotten."""
        if value is not None and value != self.token.value:
            return False
        forgotten = self.token is not NO_TOKEN
        self.token = NO_TOKEN
        self.epoch += 1
        return forgotten

    def drop(self) -> None:
        """Forget a token that another process found to be void; answers that are under way are not in doubt."""
        self.token = NO_TOKEN

    def give_up(self) -> AccessToken:
        """Take the token out; whoever needs one now waits for the flight that brings it back, or another."""
        token, self.token = self.token, NO_TOKEN
        self.last_error = None
        self.quiet_until = self.closed_until = -math.inf
        return token

    def rest(self, until: float) -> None:
        """Begin no refresh before `until`: it is in other hands."""
        self.quiet_until = until
