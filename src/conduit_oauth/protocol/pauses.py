"""How long to wait before a server is asked again. Pure: the caller passes the time and the random number."""

from __future__ import annotations

import math

from ..errors import OAuthError, TokenRequestError

# How long a refusal that repeating cannot mend (a wrong secret) is remembered, so that no account gets locked.
REFUSAL_MEMORY = 30.0
BACKOFF_BASE = 0.25
BACKOFF_CAP = 8.0
# While a caller waits, a server that works again is found within this and the time of one request.
WAITING_CAP = 1.5
# The last attempt of one who waits begins so long before the deadline.
_LAST_ATTEMPT = 0.5
# How often one asks again for a token that ends as it comes.
LAST_SECOND = 3
# With less time left than this, callers get their error.
_TOO_LATE = 0.05
# A Retry-After beyond this is taken for a mistake: no header may switch a client off for a day.
RETRY_AFTER_CAP = 600.0


def backoff(attempt: int, jitter: float, cap: float = BACKOFF_CAP) -> float:
    """Seconds before the next attempt, after `attempt` failed ones; `jitter` in [0, 1) is the full jitter's draw."""
    return jitter * min(cap, BACKOFF_BASE * 2.0 ** min(attempt, 16))


def pause_after(error: OAuthError, attempt: int, jitter: float, left: float = math.inf) -> float:
    """Seconds until a flight's next attempt: our backoff, or what the server asked for where that is longer.

    `left` is how long callers wait for it at most: the backoff leaves them time for one last attempt.
    """
    # A server that limits requests is not down: to knock as often would only prolong that.
    cap = BACKOFF_CAP if isinstance(error, TokenRequestError) and error.status == 429 else WAITING_CAP
    return max(demanded_pause(error), min(backoff(attempt, jitter, cap), latest_pause(left)))


def latest_pause(left: float) -> float:
    """The longest pause before one last attempt of callers who wait `left` seconds more; no bound where it is late."""
    return left - min(_LAST_ATTEMPT, left / 4) if left >= _TOO_LATE else math.inf


def demanded_pause(error: OAuthError) -> float:
    """Seconds that the server asked for by Retry-After, bounded."""
    asked = error.retry_after if isinstance(error, TokenRequestError) else None
    return min(asked or 0.0, RETRY_AFTER_CAP)
