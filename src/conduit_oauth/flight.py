"""One flight: the token request that everybody who needs a token waits for, with its retries.

It runs on a thread of its own, so no caller leads it: callers may be cancelled, time out or die, in threads and event
loops of any kind, and the flight goes on. That thread uses the synchronous transport, whoever waits.
"""

from __future__ import annotations

import math
import threading

from .errors import OAuthError
from .landing import Landing


class Flight:
    """What the waiters of one flight share. Guarded by the provider's lock, but for `landing` and `hurry`."""

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
