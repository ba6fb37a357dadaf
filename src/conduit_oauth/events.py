"""What happens in the life of a token, for whoever asked to be told: hooks, logs, metrics.

An observer is a function of one `Event`. It is called on the thread where the event happens, and must be quick; what it
raises is logged and goes no further.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .errors import OAuthError

logger = logging.getLogger("conduit_oauth")

EventName = Literal[
    "token_served",  # from memory; told only where there is an observer
    "token_received",  # from the authorization server, after `seconds`; it lives for `lifetime`
    "token_adopted",  # from the store
    "discovery_retried",  # the token endpoint could not be found yet; no token request was sent
    "discovery_failed",
    "token_request_retried",
    "token_request_failed",
    "token_invalidated",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to the provider called `provider`. Holds no secret.

    `url` is the token endpoint (or what it is found from), `seconds` how long the request took, `lifetime` the seconds
    the token has left, `refresh` whether a valid token was at hand meanwhile.
    """

    name: EventName
    provider: str
    url: str = ""
    seconds: float | None = None
    lifetime: float | None = None
    error: OAuthError | None = None
    refresh: bool = False


Observer = Callable[[Event], object]


def observe(observer: Observer | None, event: Event) -> None:
    """Tell the observer, if there is one."""
    if observer is not None:
        call_back(event.name, observer, event)


def call_back(event: str, callback: Callable[..., object], *arguments: object) -> None:
    """Call what a user of ours gave us for `event`. Its fault is logged, and does not become a caller's."""
    try:
        callback(*arguments)
    except Exception:
        logger.error("observer_failed event=%s\n%s", event, traceback.format_exc())
