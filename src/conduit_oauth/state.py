"""What a provider tells of itself: a snapshot without secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .errors import OAuthError


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


@dataclass(frozen=True, slots=True)
class ProviderState:
    """A snapshot of a `TokenProvider`. Moments are aware UTC datetimes, None where no valid token is cached.

    `scope`, `resource` and `audience` are as configured, `granted_scope` is what the cached token has.
    `client_secret` is always masked.
    """

    name: str
    client_id: str
    client_secret: str
    token_endpoint: str | None
    issuer: str | None
    scope: str | None
    resource: str | None
    audience: str | None
    cached: bool
    granted_scope: str | None
    refresh_at: datetime | None
    expires_at: datetime | None
    refreshing: bool
    closed: bool
    last_error: OAuthError | None
    counts: Counts
