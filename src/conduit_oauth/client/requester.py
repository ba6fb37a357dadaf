"""Gets one token for one client: finds the endpoint where it is not known yet, sends the request, judges the answer."""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from importlib import import_module

from ..clock import Clock
from ..errors import ConfigurationError, InvalidTokenResponse, OAuthError, TokenRequestError, without_query
from ..identity.credentials import Credentials
from ..identity.sources import files_of, header_value, read_text
from ..places import version_of
from ..protocol.client_auth import METHODS, Signing
from ..protocol.discovery import Discovery, resource_scopes
from ..protocol.dpop import Dpop
from ..protocol.grant import (
    Form,
    Grant,
    client_credentials_form,
    is_scope,
    judge_token_response,
    jwt_bearer_form,
    jwt_lifetime,
    token_exchange_form,
    token_request,
    wants_nonce,
)
from ..protocol.http import Request
from ..refusals import Asked, is_refused_client
from ..runtime.process import undisturbed
from ..token import AccessToken, moments
from .authentication import Authentication
from .config import ClientConfig, StepUp, identity
from .locator import Locator, drive
from .transport import Sender, Transport

logger = logging.getLogger("conduit_oauth")


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
        "_clock",
        "_default_lifetime",
        "_default_token_type",
        "_refresh_ahead",
        "attempt_timeout",
        "authentication",
        "claims",
        "config",
        "dpop",
        "locator",
        "sent",
        "transport",
        "tried",
    )

    def __init__(
        self,
        config: ClientConfig,
        transport: Transport,
        clock: Clock,
        *,
        refresh_ahead: float,
        default_lifetime: float,
        default_token_type: str | None,
        attempt_timeout: float,
        dpop: Dpop | None,
    ) -> None:
        self.config = config
        self.dpop = dpop
        self.authentication = Authentication(config)
        self.locator = Locator(config, clock)
        self.transport = transport
        # What a resource demanded of the next token.
        self.claims: str | None = None
        # How many token requests were sent; discovery's requests are none.
        self.sent = 0
        # The authentication methods of the latest token request, in the order in which they were sent.
        self.tried: tuple[str, ...] = ()
        self.attempt_timeout = attempt_timeout
        self._clock = clock
        self._refresh_ahead = refresh_ahead
        self._default_lifetime = default_lifetime
        self._default_token_type = default_token_type

    def with_config(self, config: ClientConfig) -> Requester:
        """As this one, asking for what `config` says; what is known and connections are shared."""
        other = copy.copy(self)
        other.config = config
        return other

    def credential_version(self) -> tuple[object, ...]:
        """Changes when a file does that a request is made with; what is missing has a version, too."""
        headers = files_of(*(source for _, source in self.config.headers))
        proof = () if self.dpop is None else self.dpop.files()
        return tuple(map(version_of, (*self.config.credentials.files(), *headers, *proof, *self.transport.tls.files())))

    def identity(self) -> bytes:
        """A digest of all that makes this client's token differ from another's, but for the credential."""
        return identity(self.config, self.dpop and self.dpop.identity())

    def fetch(self, sender: Sender) -> AccessToken | OAuthError:
        """One attempt through `sender`, by each secret and method that the settings leave open.

        Errors are returned, without the traceback whose frames hold the credential.
        """
        try:
            if self.dpop or self.config.signs:
                with undisturbed():
                    # The second is what a key's first use imports.
                    for module in ("conduit_oauth.protocol.jose", "cryptography.hazmat.backends.openssl.backend"):
                        import_module(module)
            return self._fetch(sender)
        except OAuthError as error:
            return error.again()
        except Exception as error:  # A fault of ours or of an injected transport must reach the waiters, not hang them.
            where = without_query(self.locator.target)
            return OAuthError(f"{where}: the token request broke down with {type(error).__name__}. Report this.")

    def _fetch(self, sender: Sender) -> AccessToken:
        found = self.locate(sender)
        if found.resource is not None and found.resource.dpop_required and self.dpop is None:
            raise ConfigurationError(
                "dpop", f"is not set, and {found.resource.resource} takes only bound tokens", "Set dpop=True (--dpop)."
            )
        if self.config.step_up is not None:
            found = self._widened(sender, found, self.config.step_up)
        parameters = self.config.parameters(found)
        scope = next((value for name, value in parameters if name == "scope"), None)

        def run(parameters: list[tuple[str, str]]) -> AccessToken:
            def attempt(credentials: Credentials, tried: tuple[str, ...]) -> AccessToken:
                self.tried = tried
                return self._requested(sender, found, credentials, tried, parameters, scope)

            return self.authentication.run("token_endpoint", found, attempt)

        claims, self.claims = self.claims, None
        if claims is not None:
            try:
                return run([*(pair for pair in parameters if pair[0] != "claims"), ("claims", claims)])
            except OAuthError as error:
                if error.retryable and self.claims is None:
                    self.claims = claims
                if not isinstance(error, TokenRequestError) or error.retryable:
                    raise
                if is_refused_client(error.status, error.error):
                    raise
                # The resource's affair: they must not keep this client from its token.
                logger.warning("claims_refused: %s", error)
        return run(parameters)

    def _requested(
        self,
        sender: Sender,
        found: Discovery,
        credentials: Credentials,
        tried: tuple[str, ...],
        parameters: list[tuple[str, str]],
        scope: str | None,
    ) -> AccessToken:
        for last in (False, True):
            signing, request = self._token_request(found, credentials, tried[-1], parameters)
            self.sent += 1
            sent_at = self._clock()
            response = sender.send(request, self.attempt_timeout)
            if self.dpop is None:
                break
            has_nonce = self.dpop.remember(request.url, response.headers.get("dpop-nonce"), resource=False)
            if last or not has_nonce or not wants_nonce(response):
                break
        grant = judge_token_response(
            request.url,
            response,
            secrets=signing.secrets,
            wall_now=time.time(),
            token_type="DPoP" if self.dpop else "Bearer",
            default_token_type=self._default_token_type,
            asked=self.asked("token_endpoint", found, signing, tried, dict(signing.form)["grant_type"], scope),
        )
        lifetime = self._lifetime(request.url, grant, signing.wall_now)
        refresh_at, expires_at = moments(sent_at, lifetime, self._refresh_ahead, grant.refresh_in)
        token = AccessToken(grant.access_token, refresh_at, expires_at, grant.scope or scope)
        if self._clock() >= token.expires_at:
            problem = f"is {lifetime:g} s: it had expired when it arrived"
            late = InvalidTokenResponse(request.url, "expires_in", problem)
            # Some servers give one token to all until it ends, and then the next one.
            late.retryable = True
            raise late
        return token

    def _lifetime(self, url: str, grant: Grant, wall_now: float) -> float:
        if grant.is_cut:
            where = without_query(url)
            logger.warning("token_lifetime_cut url=%s: expires_in is above ten years, and counts as ten years", where)
        if grant.lifetime is not None:
            return grant.lifetime
        told = jwt_lifetime(grant.access_token, wall_now)
        return self._default_lifetime if told is None else told

    def _token_request(
        self, found: Discovery, credentials: Credentials, method: str, parameters: list[tuple[str, str]]
    ) -> tuple[Signing, Request]:
        """A token request with everything in it that must be fresh: credential, assertion, proof."""
        url = self.endpoint(found, "token_endpoint") or found.token_endpoint
        signing = self.signing("token_endpoint", url, found, credentials)
        signing.secrets.extend(self.config.secret_parameters)
        signing.form.extend(_grant_form(signing, parameters))
        METHODS[method](signing)
        if self.dpop is not None:
            signing.headers["DPoP"] = self.dpop.proof("POST", url, wall_now=signing.wall_now)
        return signing, token_request(url, signing.headers, signing.form)

    def endpoint(self, found: Discovery, name: str) -> str | None:
        """The URL of a published endpoint, None where there is none; its alias for a client with a certificate."""
        return found.server.endpoint(name, mtls=self.config.presents_certificate) if found.server else None

    def signing(self, endpoint: str, url: str, found: Discovery, credentials: Credentials) -> Signing:
        """What an authentication method signs: a request to `url`, which is the `endpoint` of the metadata."""
        headers = {name: header_value(source, name) for name, source in self.config.headers}
        audience = self.config.assertion_audience
        if audience == "issuer":
            # RFC 7523bis: the issuer, which no other server can pass on; without one known, the endpoint.
            audience = found.issuer or found.token_endpoint
        elif audience == "endpoint":
            audience = url
        return Signing(
            client_id=self.config.client_id,
            credentials=credentials,
            audience=audience,
            wall_now=time.time(),
            algorithms=found.server.algorithms_at(endpoint) if found.server else None,
            headers=headers,
            form=[],
            secrets=list(headers.values()),
        )

    def asked(
        self,
        endpoint: str,
        found: Discovery,
        signing: Signing,
        tried: tuple[str, ...],
        grant_type: str = "",
        scope: str | None = None,
    ) -> Asked:
        """What a request was, for the words about its refusal."""
        return Asked(
            endpoint=endpoint,
            grant_type=grant_type,
            tried=tried,
            configured=self.config.method is not None,
            published=found.server.methods_at(endpoint) if found.server else None,
            assertion=", ".join(signing.assertion),
            scope=scope,
            scopes_supported=found.server.scopes if found.server else (),
            dpop=self.dpop is not None,
            secrets=tuple(signing.secrets),
        )

    def locate(self, sender: Sender) -> Discovery:
        """Where tokens come from. Raises `OAuthError`."""
        found = self.locator.locate(sender, self.attempt_timeout)
        if self.dpop is not None:
            self.dpop.obey(
                found.server.dpop_algorithms if found.server else None,
                found.resource.dpop_algorithms if found.resource else None,
            )
        return found

    def _widened(self, sender: Sender, found: Discovery, step_up: StepUp) -> Discovery:
        """`found`, with the scope that a resource publishes beside the one that was asked for before."""
        scopes = resource_scopes(step_up.url, step_up.resource_metadata, self.locator.search())
        if found.resource is not None and step_up.resource_metadata is None and step_up.url == self.config.mcp_url:
            published = found.resource.scopes
        else:
            published = drive(scopes, sender, self.attempt_timeout)
        union = " ".join(sorted({*step_up.scope.split(), *(scope for scope in published if is_scope(scope))}))
        # A resource may publish any number of them.
        return dataclasses.replace(found, scope=(union if is_scope(union) else step_up.scope) or None)
