"""What a provider tells of itself: a snapshot without secrets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from ..errors import OAuthError

if TYPE_CHECKING:
    from .control import FlightControl


@dataclass(slots=True)
class Counts:
    """What happened since the provider was made. Warm calls are not counted: counting would cost more than the call.

    `tokens` came from the server, `adopted` ones from the shared store.
    """

    token_requests: int = 0
    tokens: int = 0
    adopted: int = 0
    failures: int = 0
    invalidations: int = 0


@dataclass(slots=True)
class History:
    """What came of a provider's flights. Moments are readings of its clock, None where there was nothing yet."""

    counts: Counts = field(default_factory=Counts)
    landed_at: float | None = None
    failed_at: float | None = None
    failure: OAuthError | None = None
    # The version of the credential's files as they were before the latest attempt read them.
    credential_version: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A snapshot of a `TokenProvider`. Moments are aware UTC datetimes, None where no valid token is cached.

    `scope`, `resource` and `audience` are as configured, `granted_scope` is what the cached token has.
    `client_secret` is always masked. `last_success` is when the latest token came, `last_failure` what the latest
    failure at `last_failure_at` was, mended since or not; `last_error` is None once a token came after it.
    """

    name: str
    client_id: str
    client_secret: str
    token_endpoint: str | None
    issuer: str | None
    scope: str | None
    resource: str | tuple[str, ...] | None
    audience: str | None
    cached: bool
    granted_scope: str | None
    refresh_at: datetime | None
    expires_at: datetime | None
    refreshing: bool
    closed: bool
    last_error: OAuthError | None
    last_success: datetime | None
    last_failure: OAuthError | None
    last_failure_at: datetime | None
    counts: Counts


@dataclass(frozen=True, slots=True)
class Health:
    """What a `TokenProviders` tells of one of its providers. Moments are aware UTC datetimes.

    `state` is `idle` (not in use yet), `fresh` (a valid token, no trouble), `refreshing` (asking now), `failing` (the
    latest request failed; `valid` tells whether there is a token still) or `given up` (it broke down more often than
    allowed, or cannot be made from its settings). `next_refresh` is when it is looked after next, `expires_at` when its
    token has expired.
    """

    name: str
    state: Literal["idle", "fresh", "refreshing", "failing", "given up"]
    valid: bool
    last_success: datetime | None
    last_error: OAuthError | None
    last_error_at: datetime | None
    next_refresh: datetime | None
    expires_at: datetime | None
    restarts: int


def state_of(control: FlightControl) -> ProviderState:
    """The state of the provider that `control` belongs to."""
    config, locator = control.requester.config, control.requester.locator
    with control.lock:
        now, wall = control.clock(), datetime.now(UTC)
        life, token, history = control.life, control.life.token, control.history
        cached = now < token.expires_at

        def moment(reading: float | None) -> datetime | None:
            return None if reading is None else wall + timedelta(seconds=reading - now)

        return ProviderState(
            name=control.name,
            client_id=config.client_id,
            client_secret="***",  # noqa: S106
            token_endpoint=locator.token_endpoint,
            issuer=locator.issuer,
            scope=config.scope,
            resource=resources[0] if len(resources := config.resources or ()) == 1 else resources or None,
            audience=config.audience,
            cached=cached,
            granted_scope=token.scope if cached else None,
            refresh_at=moment(token.refresh_at) if cached else None,
            expires_at=moment(token.expires_at) if cached else None,
            refreshing=control.flight is not None,
            closed=control.closed,
            last_error=life.last_error,
            last_success=moment(history.landed_at),
            last_failure=history.failure,
            last_failure_at=moment(history.failed_at),
            counts=replace(history.counts),
        )
