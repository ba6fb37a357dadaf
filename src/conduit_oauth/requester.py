"""Gets one token for one client: finds the endpoint where it is not known yet, sends the request, judges the answer."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

from .client_auth import choose_method
from .clock import Clock
from .config import ClientConfig
from .discovery import ServerMetadata, server_metadata
from .errors import DiscoveryError, InvalidTokenResponse, OAuthError
from .grant import Request, Response, client_credentials_request, judge_token_response
from .token import AccessToken, moments
from .transport import Transport

T = TypeVar("T")


def drive(steps: Generator[Request, Response, T], transport: Transport, timeout: float) -> T:
    """Run a protocol step: send each request that it yields, and give it the answer."""
    try:
        request = next(steps)
        while True:
            request = steps.send(transport.send(request, timeout))
    except StopIteration as stop:
        return stop.value


class Requester:
    """The protocol side of a provider. Used by one flight at a time."""

    __slots__ = (
        "_attempt_timeout",
        "_clock",
        "_default_lifetime",
        "_metadata",
        "_refresh_ahead",
        "config",
        "transport",
    )

    def __init__(
        self,
        config: ClientConfig,
        transport: Transport,
        clock: Clock,
        *,
        refresh_ahead: float,
        default_lifetime: float,
        attempt_timeout: float,
    ) -> None:
        self.config = config
        self.transport = transport
        self._clock = clock
        self._refresh_ahead = refresh_ahead
        self._default_lifetime = default_lifetime
        self._attempt_timeout = attempt_timeout
        self._metadata: ServerMetadata | None = None

    @property
    def token_endpoint(self) -> str | None:
        """The token endpoint, None while it still has to be discovered."""
        return self.config.token_endpoint or (self._metadata and self._metadata.token_endpoint)

    @property
    def target(self) -> str:
        """The URL to name where something goes wrong."""
        return self.token_endpoint or self.config.issuer or ""

    def fetch(self) -> AccessToken | OAuthError:
        """One attempt. Errors are returned, without the traceback whose frames hold the credential."""
        try:
            return self._fetch()
        except OAuthError as error:
            return error.again()
        except Exception as error:  # A fault of ours or of an injected transport must reach the waiters, not hang them.
            return OAuthError(f"{self.target}: the token request broke down with {type(error).__name__}. Report this.")

    def _fetch(self) -> AccessToken:
        config = self.config
        endpoint = self.token_endpoint or self._discover().token_endpoint
        known = config.method or (choose_method(self._metadata.token_endpoint_auth_methods) if self._metadata else None)
        sign = config.sign(known or "client_secret_post")
        request = client_credentials_request(endpoint, sign, config.parameters)
        sent_at = self._clock()
        response = self.transport.send(request, self._attempt_timeout)
        grant = judge_token_response(endpoint, response, secrets=[config.client_secret], wall_now=time.time())
        lifetime = self._default_lifetime if grant.lifetime is None else grant.lifetime
        token = AccessToken(
            grant.access_token, *moments(sent_at, lifetime, self._refresh_ahead), grant.scope or config.scope
        )
        if self._clock() >= token.expires_at:
            raise InvalidTokenResponse(endpoint, "expires_in", f"is {lifetime:g} s: it had expired when it arrived")
        return token

    def _discover(self) -> ServerMetadata:
        issuer = self.config.issuer or ""
        self._metadata = drive(server_metadata(issuer, []), self.transport, self._attempt_timeout)
        if self._metadata is None:
            raise DiscoveryError("authorization server metadata (RFC 8414)", issuer, "publishes none", "metadata")
        return self._metadata
