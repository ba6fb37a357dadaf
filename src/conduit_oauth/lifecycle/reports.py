"""What the log and an observer are told of a provider's flights."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ..client.requester import Requester
from ..errors import InvalidTokenResponse, OAuthError
from ..events import Event, EventName, Observer, observe

logger = logging.getLogger("conduit_oauth")


class Subject(Protocol):
    """Whose flights they are."""

    name: str
    observer: Observer | None
    requester: Requester


def tell(subject: Subject, name: EventName, **facts: Any) -> None:
    """Tell the observer, if there is one."""
    observe(subject.observer, Event(name, subject.name, subject.requester.locator.target, **facts))


def tell_failure(subject: Subject, error: OAuthError, *, over: bool, sent: bool, **facts: Any) -> None:
    """Log and report a failed attempt by its own name: one that ended in discovery sent no token request."""
    event: EventName
    if sent:
        event = "token_request_failed" if over else "token_request_retried"
    else:
        event = "discovery_failed" if over else "discovery_retried"
    # Some servers give the same token until it ends: between that and the next one, there is nothing to report.
    ending = isinstance(error, InvalidTokenResponse) and error.field == "expires_in" and error.retryable
    logger.log(logging.DEBUG if ending and not over else logging.WARNING, "%s name=%s: %s", event, subject.name, error)
    tell(subject, event, error=error, **facts)
