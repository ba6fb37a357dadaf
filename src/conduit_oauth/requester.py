"""Gets one token for one client: finds the endpoint where it is not known yet, sends the request, judges the answer."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from .client_auth import METHODS, Signing, choose_method, usable_methods
from .clock import Clock
from .config import ClientConfig, identity
from .credentials import Credentials, read_text
from .discovery import Discovery, Finding, Steps, discover_issuer, discover_resource
from .dpop import Dpop
from .errors import DiscoveryError, InvalidTokenResponse, OAuthError, TokenRequestError
from .grant import (
    Form,
    Request,
    Response,
    about_token_form,
    client_credentials_form,
    judge_introspection,
    judge_revocation,
    judge_token_response,
    jwt_bearer_form,
    token_exchange_form,
    token_request,
    wants_nonce,
)
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


def _grant_form(signing: Signing, parameters: list[tuple[str, str]]) -> Form:
    """The form of the grant that the configured material is for."""
    credentials = signing.credentials
    if credentials.assertion is not None:
        signing.secrets.append(assertion := read_text(credentials.assertion, "assertion").strip())
        return jwt_bearer_form(assertion, parameters)
    if credentials.subject_token is not None:
        signing.secrets.append(subject_token := read_text(credentials.subject_token, "subject_token").strip())
        return token_exchange_form(subject_token, credentials.subject_token_type, parameters)
    return client_credentials_form(parameters)


class Requester:
    """The protocol side of a provider. Used by one flight at a time."""

    __slots__ = (
        "_attempt_timeout",
        "_clock",
        "_default_lifetime",
        "_found",
        "_fresh_until",
        "_refresh_ahead",
        "_second",
        "config",
        "dpop",
        "pins",
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
        dpop: Dpop | None,
    ) -> None:
        self.config = config
        self.dpop = dpop
        # What else remembers where this client's credential goes, beyond this process.
        self.pins: Callable[[tuple[str | None, str]], tuple[str | None, str]] | None = None
        self.transport = transport
        self._clock = clock
        self._refresh_ahead = refresh_ahead
        self._default_lifetime = default_lifetime
        self._attempt_timeout = attempt_timeout
        # Whether the second of two secrets is the one that the server took last.
        self._second = False
        self._found = Discovery(config.token_endpoint, math.inf, config.issuer) if config.token_endpoint else None
        self._fresh_until = math.inf if self._found else -math.inf

    def with_scope(self, scope: str) -> Requester:
        """As this one, asking for `scope`; what was found and the connections are shared."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, scope=scope)
        return other

    @property
    def token_endpoint(self) -> str | None:
        """The token endpoint, None while it still has to be discovered."""
        return self._found and self._found.token_endpoint

    @property
    def issuer(self) -> str | None:
        """The authorization server's issuer, None while it is not known."""
        return self._found.issuer if self._found else self.config.issuer

    @property
    def target(self) -> str:
        """The URL to name where something goes wrong."""
        return self.token_endpoint or self.config.issuer or self.config.mcp_url or ""

    @property
    def credentials(self) -> Credentials:
        """The credentials as they are in use now: of two secrets, the one that the server took last."""
        credentials = self.config.credentials
        if len(credentials.secrets) < 2:
            return credentials
        return dataclasses.replace(credentials, client_secret=credentials.secrets[self._second])

    def identity(self) -> bytes:
        """A digest of all that makes this client's token differ from another's, but for the credential."""
        return identity(self.config, self.dpop.thumbprint() if self.dpop else None)

    def fetch(self) -> AccessToken | OAuthError:
        """One attempt, or two where one of two secrets was refused. Errors are returned, as `_attempt` says."""
        outcome = self._attempt()
        refused = isinstance(outcome, TokenRequestError) and outcome.error == "invalid_client"
        if refused and len(self.config.credentials.secrets) > 1:
            self._second = not self._second
            other = self._attempt()
            if isinstance(other, AccessToken) or other.retryable:
                return other
            self._second = not self._second
        return outcome

    def _attempt(self) -> AccessToken | OAuthError:
        """One attempt. Errors are returned, without the traceback whose frames hold the credential."""
        try:
            return self._fetch()
        except OAuthError as error:
            return error.again()
        except Exception as error:  # A fault of ours or of an injected transport must reach the waiters, not hang them.
            return OAuthError(f"{self.target}: the token request broke down with {type(error).__name__}. Report this.")

    def _fetch(self) -> AccessToken:
        found = self._locate()
        parameters = self.config.parameters(found)
        signing, request = self._token_request(found, parameters)
        sent_at = self._clock()
        response = self.transport.send(request, self._attempt_timeout)
        if self.dpop is not None:
            nonce = response.headers.get("dpop-nonce")
            if self.dpop.remember(request.url, nonce, resource=False) and wants_nonce(response):
                signing, request = self._token_request(found, parameters)
                sent_at = self._clock()
                response = self.transport.send(request, self._attempt_timeout)
                self.dpop.remember(request.url, response.headers.get("dpop-nonce"), resource=False)
        grant = judge_token_response(
            request.url,
            response,
            secrets=signing.secrets,
            wall_now=time.time(),
            token_type="DPoP" if self.dpop else "Bearer",
        )
        lifetime = self._default_lifetime if grant.lifetime is None else grant.lifetime
        scope = grant.scope or dict(parameters).get("scope")
        token = AccessToken(grant.access_token, *moments(sent_at, lifetime, self._refresh_ahead), scope)
        if self._clock() >= token.expires_at:
            raise InvalidTokenResponse(request.url, "expires_in", f"is {lifetime:g} s: it had expired when it arrived")
        return token

    def introspect(self, token: str) -> dict[str, Any]:
        """What the server says of `token` (RFC 7662). Raises `OAuthError`."""
        signing, url, response = self._ask_about(token, "introspection_endpoint")
        return judge_introspection(url, response, secrets=signing.secrets, wall_now=time.time())

    def revoke(self, token: str) -> None:
        """Have the server forget `token` (RFC 7009). Raises `OAuthError`."""
        signing, url, response = self._ask_about(token, "revocation_endpoint")
        judge_revocation(url, response, secrets=signing.secrets, wall_now=time.time())

    def _ask_about(self, token: str, endpoint: str) -> tuple[Signing, str, Response]:
        found = self._locate()
        url = self._endpoint(found, endpoint)
        if url is None:
            raise DiscoveryError(
                endpoint, self.target, "is not known", f"metadata of the issuer that names its {endpoint}"
            )
        signing = self._signing(found)
        signing.secrets.append(token)
        signing.form.extend(about_token_form(token))
        self._authenticate(signing, found)
        response = self.transport.send(token_request(url, signing.headers, signing.form), self._attempt_timeout)
        return signing, url, response

    def _token_request(self, found: Discovery, parameters: list[tuple[str, str]]) -> tuple[Signing, Request]:
        """A token request with everything in it that must be fresh: credential, assertion, proof."""
        signing = self._signing(found)
        signing.form.extend(_grant_form(signing, parameters))
        self._authenticate(signing, found)
        endpoint = self._endpoint(found, "token_endpoint") or found.token_endpoint
        if self.dpop is not None:
            signing.headers["DPoP"] = self.dpop.proof("POST", endpoint, wall_now=signing.wall_now)
        return signing, token_request(endpoint, signing.headers, signing.form)

    def _endpoint(self, found: Discovery, name: str) -> str | None:
        has_certificate = self.config.credentials.client_certificate is not None
        return found.server.endpoint(name, mtls=has_certificate) if found.server else None

    def _signing(self, found: Discovery) -> Signing:
        return Signing(
            client_id=self.config.client_id,
            credentials=self.credentials,
            # RFC 7523bis: the issuer, which no other server can pass on; without one known, the endpoint.
            audience=found.issuer or found.token_endpoint,
            wall_now=time.time(),
            algorithms=found.server.token_endpoint_auth_signing_algs if found.server else None,
            headers={},
            form=[],
            secrets=[],
        )

    def _authenticate(self, signing: Signing, found: Discovery) -> None:
        supported = found.server.token_endpoint_auth_methods if found.server else None
        METHODS[self.config.method or choose_method(usable_methods(signing.credentials), supported)](signing)

    def _locate(self) -> Discovery:
        """Where tokens come from: as found before while that holds, or while nobody can say anything newer."""
        if self._found is not None and self._clock() < self._fresh_until:
            return self._found
        try:
            found = drive(self.discovery([]), self.transport, self._attempt_timeout)
        except OAuthError as error:
            if self._found is not None and error.retryable:
                return self._found
            raise
        found = self._pinned(found)
        if (pins := self.pins) is not None:
            self._check(pins((found.issuer, found.token_endpoint)), found)
        self._found = found
        self._fresh_until = self._clock() + found.lifetime
        return self._found

    def discovery(self, findings: list[Finding]) -> Steps:
        """The steps from what is configured to the token endpoint; each location that is asked is noted."""
        config = self.config
        if config.issuer is not None:
            return discover_issuer(config.issuer, findings)
        return discover_resource(
            config.mcp_url or "", findings, authorization_server=config.authorization_server, method=config.method
        )

    def _pinned(self, found: Discovery) -> Discovery:
        """`found`, unless it would send the credential to another authorization server than the first time."""
        before = self._found
        if before is None:
            return found
        self._check((before.issuer, before.token_endpoint), found)
        # Metadata that came or went, and says of the token endpoint what was known before.
        return found if before.issuer is not None and before.issuer == found.issuer else before

    def _check(self, pinned: tuple[str | None, str], found: Discovery) -> None:
        """Raise `DiscoveryError` where `found` is another authorization server than the pinned one."""
        issuer, token_endpoint = pinned
        # An issuer may move its own endpoints; nobody may put another issuer, with endpoints of its own, in its place.
        if issuer is not None and issuer == found.issuer:
            return
        if None in (issuer, found.issuer) and token_endpoint == found.token_endpoint:
            return
        raise DiscoveryError(
            "pinned authorization server",
            self.config.mcp_url or "",
            f"now leads to {found.issuer or found.token_endpoint}",
            f"{issuer or token_endpoint}, as before; if the move is meant, name the new one as authorization_server",
        )
