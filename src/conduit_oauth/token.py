"""The access token as a value, and the arithmetic of its life. Pure: every moment is an argument.

Moments are readings of `clock.elapsed`, in seconds; lengths of time are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

EARLIEST = 0.25
# Seconds between two questions for a server that gives the same token until it ends.
REPEAT = 5.0


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token with the moments from which it is refreshed and from which it is void."""

    value: str = field(repr=False)
    refresh_at: float
    expires_at: float
    scope: str | None = None

    def early(self, jitter: float) -> AccessToken:
        """The token as one process of a fleet refreshes it: by up to a quarter of the window earlier than others.

        `jitter` in [0, 1) is this process's draw; without one, the whole fleet would look for a new token at once.
        """
        window = self.expires_at - self.refresh_at
        return replace(self, refresh_at=self.refresh_at - jitter * EARLIEST * window)

    def given_again(self, before: AccessToken, now: float) -> AccessToken:
        """This token, where the server gave it `before`: another one may come at half of what is left of it.

        A whole number of seconds makes the later answer's end up to one earlier. What is more than that was shortened.
        """
        earlier = before.expires_at - self.expires_at
        expires_at = before.expires_at if 0 < earlier <= 1 else self.expires_at
        return replace(
            self, refresh_at=min(expires_at, now + max(REPEAT, (expires_at - now) / 2)), expires_at=expires_at
        )


NO_TOKEN = AccessToken("", -math.inf, -math.inf)


def moments(
    sent_at: float, lifetime: float, refresh_ahead: float, refresh_in: float | None = None
) -> tuple[float, float]:
    """`(refresh_at, expires_at)` of a token asked for at `sent_at`; the server may say when to refresh it.

    A life shorter than twice `refresh_ahead` is refreshed at its half, so that a short-lived token is not
    fetched anew on each call.
    """
    if refresh_in is not None and refresh_in < lifetime:
        return sent_at + refresh_in, sent_at + lifetime
    return sent_at + max(lifetime - refresh_ahead, lifetime / 2), sent_at + lifetime
