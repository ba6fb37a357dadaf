"""A provider under supervision: what is known of it, and how it is."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from ..errors import OAuthError
from ..lifecycle.state import Health
from ..provider import TokenProvider


class Ward:
    """A provider in use, and what the supervision knows of it."""

    __slots__ = ("crashes", "due", "given_up", "provider", "refusals", "refused_with")

    def __init__(self, provider: TokenProvider) -> None:
        self.provider = provider
        self.due = -math.inf
        self.refusals = 0
        # The version of the credential that was refused, None where none was.
        self.refused_with: tuple[object, ...] | None = None
        # When it broke down, within the period that counts.
        self.crashes: tuple[float, ...] = ()
        self.given_up: OAuthError | None = None

    def hand_over(self, provider: TokenProvider) -> None:
        """Give our provider's token to `provider`, which was made from other settings, where both ask for the same."""
        before, control = self.provider.control, provider.control
        try:
            is_same = control.requester.identity() == before.requester.identity()
        except Exception:  # a key that cannot be read: no token could be asked for with it either
            return
        if is_same:
            with control.lock:
                control.life.token, control.history.landed_at = before.life.token, before.history.landed_at

    def health(self, name: str, wait: float) -> Health:
        """How it is; it is looked after next in `wait` seconds, at once where that is 0 or less."""
        state = self.provider.state()
        trouble = self.given_up or state.last_error
        if self.given_up is not None:
            word = "given up"
        elif state.refreshing:
            word = "refreshing"
        elif trouble is not None:
            word = "failing"
        else:
            word = "fresh" if state.cached else "idle"
        next_refresh = state.refresh_at
        if self.given_up is None and wait > 0:
            next_refresh = datetime.now(UTC) + timedelta(seconds=wait)
        return Health(
            name=name,
            state=word,
            valid=state.cached,
            last_success=state.last_success,
            last_error=self.given_up or state.last_failure,
            last_error_at=state.last_failure_at,
            next_refresh=next_refresh,
            expires_at=state.expires_at,
            restarts=len(self.crashes) - (self.given_up is not None),
        )
