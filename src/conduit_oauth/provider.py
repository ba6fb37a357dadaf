"""`TokenProvider`: one client's token at one authorization server, for every thread, task and event loop of a process.

Invariant: A warm call takes no lock. While a valid token is cached, no caller waits for the network or sees an error.
"""

from __future__ import annotations

from .clock import Clock, elapsed
from .runtime import end  # noqa: F401  # pyright: ignore[reportUnusedImport] - takes our place among exit handlers
from .token_types import ACCESS_TOKEN_TYPE

# Not typing's, and the rest is imported where it is used first: a program that imports this class does not wait for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Literal, Self, TypeVar

    import httpx2

    from .auth.httpx2 import TokenAuth
    from .client.requester import Requester
    from .client.transport import SharedTransport
    from .events import Observer
    from .identity.sources import KeySource, Source
    from .lifecycle.control import FlightControl
    from .lifecycle.state import ProviderState
    from .protocol.dpop import Dpop
    from .sharing.tier import Tier
    from .stores import TokenStore

    T = TypeVar("T")

# How many wider scopes one provider may be asked for: a server that wants another each time is not followed for ever.
MAX_STEPS = 8


class TokenProvider:
    """Fetches, caches and refreshes the access token of one client (RFC 6749 §4.4, RFC 7523 §2.1, RFC 8693).

    Safe to share: any number of threads and of asyncio and trio event loops may use one provider at once, and cause
    one token request between them.

    Args:
        client_id: the client's identifier at the authorization server.
        client_secret: the client's credential: text, a `Path` to a file, or a callable (`from_environment`,
            `from_keyring`), read anew for each request. Of two, the other is tried once where one is refused as
            `invalid_client`.
        private_key: in place of the secret, what signs assertions (RFC 7523 §2.2): PEM or a JWK, read in the same way.
        private_key_id: `kid` of these assertions; by default the key's own.
        signing_algorithm: `alg` of these assertions; by default the first that key and server have in common.
        private_key_password: what a PEM key of `private_key`, `dpop` or `client_certificate` is encrypted with, read
            in the same way.
        client_assertion: in place of the secret, a JWT that was made elsewhere (a Kubernetes projected token).
        client_certificate: PEM files of a certificate and of its private key, presented in TLS (RFC 8705): the client's
            credential, or beside another one what its tokens are bound to. Changed files are used at the next request.
        token_endpoint_auth_method: `client_secret_basic`, `client_secret_post`, `client_secret_jwt`,
            `private_key_jwt`, `tls_client_auth`, `self_signed_tls_client_auth` or `none`. By default a secret is sent
            by `client_secret_basic` and by `client_secret_post`: first by the one that the metadata lists, and after a
            refusal by the other one, once. What worked is remembered, in the store, too.
        assertion_audience: `aud` of client assertions: `issuer` (the token endpoint where no issuer is known),
            `endpoint` (the URL of each request), or the text that the server expects.
        assertion: a JWT that is the grant itself, in place of client credentials (RFC 7523 §2.1, workload identity
            federation): text, `Path` or callable, read anew for each request. The client's own credential is optional.
        subject_token: a token to exchange (RFC 8693), for a service that acts for its caller: text, `Path` or callable.
        subject_token_type: what kind of token that is; an access token by default.
        token_endpoint: URL of the token endpoint, used as it is.
        mcp_url: URL of a gateway's MCP (or JSON-RPC) endpoint; without `token_endpoint` and `issuer` the token endpoint
            is found from it: by the metadata it leads to (RFC 9728, RFC 8414), or derived where there is none. It is
            also sent as `resource`, and is the only origin the adapters send the token to.
        issuer: issuer of the authorization server; the token endpoint is read from its metadata (RFC 8414). Beside
            `token_endpoint`, the metadata is read when `introspect` or `revoke` first needs another endpoint.
        authorization_server: the issuer to use where the resource lists several.
        discovery: False derives the token endpoint from `mcp_url` without asking for metadata.
        introspection_endpoint: URL of the endpoint of `introspect` (RFC 7662), in place of the published one.
        revocation_endpoint: URL of the endpoint of `revoke` (RFC 7009), in place of the published one.
        scope: space-separated scope to ask for (RFC 6749 §3.3).
        resource: resource indicator (RFC 8707) in place of `mcp_url`, or a list of several; False sends none, for
            servers that refuse the parameter.
        audience: `audience` parameter, for servers that want it in place of `resource`.
        extra_parameters: further form parameters of each token request.
        dpop: True binds the tokens to a key made here, a key (PEM, JWK, `Path` or callable) to that one (RFC 9449); the
            adapters then send a fresh proof with each request.
        step_up: whether a resource may have the adapters ask for more scope than was configured (RFC 6750 §3.1): False
            for never, or the space-separated scopes that may be added.
        refresh_ahead: seconds before expiry from which the token is refreshed (at half of its life if that is later).
        default_lifetime: seconds a token is taken to live where neither the server nor the `exp` of a JWT says.
        default_token_type: `Bearer` or `DPoP`: what a token is where the server leaves `token_type` out, which RFC 6749
            §5.1 does not allow. By default such a token is refused.
        timeout: seconds a call waits for a token at most, retries included; one request gets half of it.
        revoke_on_close: have the authorization server forget the token when the provider closes (RFC 7009).
        clock: seconds that never step back and count sleep; a test or a simulation passes its own.
        token_request_headers: further headers of each request that carries the client's credential, for a gateway in
            front of the server. Each value is text, a `Path` or a callable, and a secret.
        ca_file: PEM file of the authorities that TLS trusts, in place of those of the platform (and of SSL_CERT_FILE).
            Followed as the certificate is.
        insecure_hosts: private hosts (`gateway.internal`, `10.0.0.7`) that may be reached by plain http: secrets and
            tokens cross that network in the clear. None but loopback by default.
        http_client: an `httpx2.Client` to send token requests with, on the provider's own thread, whoever calls; it
            stays yours to close. From the first request on its connections end each read at the request's deadline.
        transport: in place of `http_client`, a transport for a client of our own.
        name: what this provider is called in logs and states; the client id by default.
        store: what is shared with other processes: the URL of a store (`memory:` shares nothing, `sqlite:`,
            `sqlite:///path`, `redis://…`, see `conduit_oauth.stores`), or a `TokenStore`. A warm call never touches it.
        store_timeout: seconds that an operation of the store is waited for before the call goes on without: twice that
            where none failed in the last second, ten times at most where operations take longer, and sixty times for
            the first connection.
        observer: called with each `Event` of the token's life, on the thread where it happens; see `events`.

    Raises:
        ConfigurationError: a setting is missing, empty or malformed; its `field` is named.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_control",
        "_life",
        "_observer",
        "_requester",
        "_revoke_on_close",
        "_timeout",
        "_tls",
        "_wider",
        "name",
    )

    def __init__(
        self,
        client_id: str,
        client_secret: Source | tuple[Source, Source] | None = None,
        *,
        # What the client proves itself with.
        private_key: KeySource | None = None,
        private_key_id: str | None = None,
        signing_algorithm: str | None = None,
        private_key_password: Source | None = None,
        client_assertion: Source | None = None,
        client_certificate: tuple[str | Path, str | Path] | None = None,
        token_endpoint_auth_method: str | None = None,
        assertion_audience: str = "issuer",
        # What it exchanges for the token, in the grants that exchange something.
        assertion: Source | None = None,
        subject_token: Source | None = None,
        subject_token_type: str = ACCESS_TOKEN_TYPE,
        # Where the authorization server is.
        token_endpoint: str | None = None,
        mcp_url: str | None = None,
        issuer: str | None = None,
        authorization_server: str | None = None,
        discovery: bool = True,
        introspection_endpoint: str | None = None,
        revocation_endpoint: str | None = None,
        # What the token is for.
        scope: str | None = None,
        resource: str | Sequence[str] | Literal[False] | None = None,
        audience: str | None = None,
        extra_parameters: Mapping[str, str] | None = None,
        dpop: bool | KeySource = False,
        step_up: bool | str = True,
        # How long it lives.
        refresh_ahead: float = 60.0,
        default_lifetime: float = 3600.0,
        default_token_type: str | None = None,
        timeout: float = 30.0,
        revoke_on_close: bool = False,
        clock: Clock = elapsed,
        # How requests are sent.
        token_request_headers: Mapping[str, Source] | None = None,
        ca_file: str | Path | None = None,
        insecure_hosts: Sequence[str] = (),
        http_client: httpx2.Client | SharedTransport | None = None,
        transport: httpx2.BaseTransport | None = None,
        # Who else has a part in it.
        name: str | None = None,
        store: str | TokenStore | None = None,
        store_timeout: float = 0.05,
        observer: Observer | None = None,
    ) -> None:
        # A fork on another thread waits meanwhile.
        from .runtime.process import undisturbed

        with undisturbed():
            from functools import partial
            from pathlib import Path

            from .client.config import check_shareable, client_config, seconds, token_type
            from .client.requester import Requester
            from .client.transport import SharedTransport, transport_of
            from .identity.credentials import Credentials
            from .identity.sources import read_text
            from .identity.tls import ClientCertificate, TlsFiles
            from .places import expanded
            from .protocol.dpop import Dpop
            from .sharing.tier import tier_of

        certificate = client_certificate and ClientCertificate(*(expanded(Path(file)) for file in client_certificate))
        self._tls = TlsFiles(
            certificate,
            None if ca_file is None else expanded(Path(ca_file)),
            partial(read_text, private_key_password, "private_key_password") if private_key_password else None,
        )
        if self._tls.is_set:
            # Loaded once here, so that a wrong file is an error at construction.
            self._tls.context()
        config = client_config(
            client_id=client_id,
            credentials=Credentials(
                client_secret=client_secret,
                private_key=private_key,
                client_assertion=client_assertion,
                client_certificate=certificate,
                assertion=assertion,
                subject_token=subject_token,
                subject_token_type=subject_token_type,
                key_id=private_key_id,
                key_password=private_key_password,
                algorithm=signing_algorithm,
            ),
            token_endpoint=token_endpoint,
            introspection_endpoint=introspection_endpoint,
            revocation_endpoint=revocation_endpoint,
            mcp_url=mcp_url,
            issuer=issuer,
            scope=scope,
            resource=resource,
            audience=audience,
            extra_parameters=extra_parameters,
            token_request_headers=token_request_headers,
            insecure_hosts=insecure_hosts,
            token_endpoint_auth_method=token_endpoint_auth_method,
            assertion_audience=assertion_audience,
            discovery=discovery,
            authorization_server=authorization_server,
            step_up_to=step_up,
            has_own_client=transport is not None or not isinstance(http_client, SharedTransport | None),
        )
        self.name = name or client_id
        self._timeout = seconds(timeout, "timeout", at_least=0.001)
        requester = Requester(
            config,
            transport_of(http_client, transport, self._tls),
            clock,
            refresh_ahead=seconds(refresh_ahead, "refresh_ahead"),
            default_lifetime=seconds(default_lifetime, "default_lifetime", at_least=1.0),
            default_token_type=token_type(default_token_type),
            attempt_timeout=self._timeout / 2,
            dpop=None if dpop is False else Dpop(None if dpop is True else dpop, private_key_password),
        )
        self._revoke_on_close = revoke_on_close
        tier = tier_of(store, seconds(store_timeout, "store_timeout", at_least=0.001)) if store is not None else None
        if tier is not None:
            check_shareable(config, requester.dpop)
            requester.transport.prepare(requester.locator.target)
        self._assemble(requester, clock, tier, observer)
        if tier is not None:
            tier.start()

    def _assemble(self, requester: Requester, clock: Clock, tier: Tier | None, observer: Observer | None) -> None:
        from .runtime.process import undisturbed

        with undisturbed():
            from .lifecycle.control import FlightControl
            from .lifecycle.life import Life

        self._requester = requester
        self._clock = clock
        self._life = Life()
        self._observer = observer
        self._control = FlightControl(
            self.name, self._life, requester, clock, self._timeout, tier=tier, observer=observer
        )
        if observer is not None:
            self.__class__ = _Observed  # pyright: ignore[reportAttributeAccessIssue]
        self._wider: dict[str, TokenProvider] = {}

    def get_token(self) -> str:
        """A valid access token; blocks only while there is none.

        Raises:
            TokenRequestError, InvalidTokenResponse, TransportError, DiscoveryError: no token could be had in time.
            ProviderClosedError: the provider was closed.
        """
        # Bound to locals first: an attribute that is called in place is looked up as a method, at twice the cost.
        clock = self._clock
        token = self._life.token
        if clock() < token.refresh_at:
            return token.value
        if (ticket := self._control.serve_in_window()) is not None:
            return ticket
        deadline = clock() + self._timeout
        while not isinstance(ticket := self._control.board(deadline, ticket), str):
            ticket.wait(deadline - clock())
        return ticket

    async def get_token_async(self) -> str:
        """As `get_token`, suspending the task instead of blocking; works under asyncio and trio."""
        clock = self._clock
        token = self._life.token
        if clock() < token.refresh_at:
            return token.value
        if (ticket := self._control.serve_in_window()) is not None:
            return ticket
        deadline = clock() + self._timeout
        while not isinstance(ticket := self._control.board(deadline, ticket), str):
            await ticket.wait_async(deadline - clock())
        return ticket

    def refresh(self) -> str:
        """A new access token, though the cached one may still be valid; that one is replaced only by the new one.

        Raises as `get_token` does; the cached token stays where no new one can be had.
        """
        deadline = self._clock() + self._timeout
        token, ticket = self._control.renew(deadline)
        ticket.wait(deadline - self._clock())
        return self._control.renewed(token, ticket)

    async def refresh_async(self) -> str:
        """As `refresh`, for asyncio and trio."""
        deadline = self._clock() + self._timeout
        token, ticket = self._control.renew(deadline)
        await ticket.wait_async(deadline - self._clock())
        return self._control.renewed(token, ticket)

    def invalidate(self, token: str | None = None, *, claims: str | None = None) -> None:
        """Forget the cached token; with `token`, only if it is still that one, so that a late 401 harms no newer one.

        An answer to a request that was sent before is not cached after it. `claims` (JSON, OpenID Connect Core §5.5) is
        what a resource demanded of the next token: the next token request sends it.
        """
        if claims is not None:
            self._requester.claims = claims
        self._control.invalidate(token)

    def introspect(self, token: str | None = None) -> dict[str, Any]:
        """What the server says of `token`, or of ours (RFC 7662): `active`, and what else it cares to tell.

        Retries for `timeout` seconds and raises as `get_token` does, and raises `DiscoveryError` where no introspection
        endpoint is configured or published.
        """
        from .errors import OAuthError
        from .lifecycle import inquiry

        deadline = self._clock() + self._timeout
        told = inquiry.introspect(self._requester, self._clock, token or self.get_token(), deadline)
        if isinstance(told, OAuthError):
            raise told
        return told

    async def introspect_async(self, token: str | None = None) -> dict[str, Any]:
        """As `introspect`, for asyncio and trio."""
        return await self._aside(lambda: self.introspect(token))

    def revoke(self) -> None:
        """Forget the cached token and have the authorization server forget it, too (RFC 7009); nothing without one.

        Retries for `timeout` seconds and raises as `get_token` does, and raises `DiscoveryError` where no revocation
        endpoint is configured or published; the token is forgotten here all the same.
        """
        from .lifecycle import inquiry

        token = self._life.token
        if self._clock() < token.expires_at:
            self.invalidate(token.value)
            error = inquiry.revoke(self._requester, self._clock, token.value, self._clock() + self._timeout)
            if error is not None:
                raise error

    async def revoke_async(self) -> None:
        """As `revoke`, for asyncio and trio."""
        await self._aside(self.revoke)

    async def _aside(self, work: Callable[[], T]) -> T:
        from .lifecycle.flight import no_thread
        from .runtime.landing import NoThreadError, in_thread

        try:
            return await in_thread(work)
        except NoThreadError:
            raise no_thread(self._requester.locator.target) from None

    def auth(self) -> TokenAuth:
        """An auth object for `httpx2.Client` and `httpx2.AsyncClient`; see `conduit_oauth.auth` for other clients."""
        from .auth.httpx2 import TokenAuth

        return TokenAuth(self)

    def stepped_up(
        self, scope: str | None, *, url: str = "", resource_metadata: str | None = None
    ) -> TokenProvider | None:
        """A provider for the union of this one's scope and `scope`, None where that is no wider (RFC 6750 §3.1).

        Without `scope`, what the metadata of the resource at `url` publishes takes its place (RFC 9728 §2). Its token
        is apart from this one's, so that a refusal of the wider scope costs nothing; it closes with this one.
        """
        from .client.config import StepUp
        from .protocol.grant import is_scope

        config = self._requester.config
        if config.step_up_to is False:
            return None
        if isinstance(config.step_up_to, str):
            # What was allowed is known, so the resource's metadata has nothing to add.
            allowed = config.step_up_to.split()
            scope = " ".join(name for name in (allowed if scope is None else scope.split()) if name in allowed)
        asked = (config.scope or self._life.token.scope or "").split()
        union = " ".join(sorted({*asked, *(scope or "").split()}))
        if scope is None:
            if config.step_up is not None:
                return None
            key = f"{url} {resource_metadata}"
            requester = self._requester.with_scope(None, StepUp(url, resource_metadata, union))
        elif is_scope(union) and len(union.split()) > len(set(asked)):
            key, requester = union, self._requester.with_scope(union)
        else:
            return None
        if key not in self._wider:
            if len(self._wider) >= MAX_STEPS:
                return None
            wider = object.__new__(TokenProvider)
            wider.name, wider._timeout, wider._tls, wider._revoke_on_close = self.name, self._timeout, self._tls, False
            share = self._control.share
            wider._assemble(requester, self._clock, share and share.tier, self._observer)
            # Two threads may come here at once: the first to arrive stays.
            self._wider.setdefault(key, wider)
        return self._wider[key]

    @property
    def origins(self) -> tuple[str, ...]:
        """The only origins the token may be sent to, empty where neither `mcp_url` nor `resource` tells them."""
        return self._requester.config.origins

    @property
    def insecure_hosts(self) -> frozenset[str]:
        """The private hosts that the token may be sent to without TLS."""
        return self._requester.config.insecure_hosts

    @property
    def mcp_url(self) -> str | None:
        """The gateway's MCP endpoint, where one was configured."""
        return self._requester.config.mcp_url

    def tls_context(self) -> ssl.SSLContext | None:
        """A context that presents the client certificate and trusts `ca_file`, None where neither is set.

        For the HTTP client that uses tokens bound to it (RFC 8705 §3): `httpx2.Client(verify=provider.tls_context())`.
        """
        return self._tls.new_context() if self._tls.is_set else None

    @property
    def dpop(self) -> Dpop | None:
        """What makes the proofs that the tokens need, None for bearer tokens."""
        return self._requester.dpop

    @property
    def control(self) -> FlightControl:
        """The flights of this provider, for who supervises it."""
        return self._control

    def state(self) -> ProviderState:
        """A snapshot of what the provider knows, without secrets."""
        from dataclasses import replace
        from datetime import UTC, datetime, timedelta

        from .lifecycle.state import ProviderState

        config = self._requester.config
        control = self._control
        with control.lock:
            now, wall = self._clock(), datetime.now(UTC)
            token = self._life.token
            cached = now < token.expires_at

            def moment(reading: float | None) -> datetime | None:
                return None if reading is None else wall + timedelta(seconds=reading - now)

            return ProviderState(
                name=self.name,
                client_id=config.client_id,
                client_secret="***",  # noqa: S106
                token_endpoint=self._requester.locator.token_endpoint,
                issuer=self._requester.locator.issuer,
                scope=config.scope,
                resource=resources[0] if len(resources := config.resources or ()) == 1 else resources or None,
                audience=config.audience,
                cached=cached,
                granted_scope=token.scope if cached else None,
                refresh_at=moment(token.refresh_at) if cached else None,
                expires_at=moment(token.expires_at) if cached else None,
                refreshing=control.flight is not None,
                closed=control.closed,
                last_error=self._life.last_error,
                last_success=moment(control.landed_at),
                last_failure=control.failure,
                last_failure_at=moment(control.failed_at),
                counts=replace(control.counts),
            )

    def close(self) -> None:
        """Forget the token, wake everybody who waits with `ProviderClosedError`, close our HTTP client.

        A shared store hears first of what this process knows; `store_timeout` seconds are waited for that at most.
        With `revoke_on_close` the server is asked to forget the token; where it does not, that is logged.
        """
        token = self._life.token
        self._control.close()
        for wider in self._wider.values():
            wider._control.close()
        if self._revoke_on_close and self._clock() < token.expires_at:
            from .lifecycle import inquiry
            from .lifecycle.control import logger

            # Once: nobody waits long for a provider that closes.
            deadline = self._clock() + self._requester.attempt_timeout
            error = inquiry.revoke(self._requester, self._clock, token.value, deadline, once=True)
            if error is not None:
                logger.warning("token_revocation_failed name=%s: %s", self.name, error)
        self._requester.transport.close()

    async def aclose(self) -> None:
        """As `close`, for asyncio and trio."""
        from .runtime.landing import NoThreadError, in_thread

        try:
            if self._revoke_on_close or self._control.share is not None:
                await in_thread(self.close)
                return
        except NoThreadError:
            # It closes all the same: the loop stands still for that once.
            pass
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> str:
        raise TypeError(
            "a TokenProvider is for one process and is not copied or pickled: send its settings to the other process, "
            "and create one there (with the same store, if both are to share a token)"
        )

    def __repr__(self) -> str:
        return f"<TokenProvider {self.name!r} client_id={self._requester.config.client_id!r}>"


class _Observed(TokenProvider):
    """A provider with an observer. It is a class of its own, so that warm calls of the others cost no more."""

    __slots__ = ()

    def get_token(self) -> str:
        self._tell()
        return super().get_token()

    async def get_token_async(self) -> str:
        self._tell()
        return await super().get_token_async()

    def _tell(self) -> None:
        from .events import Event, observe

        left = self._life.token.expires_at - self._clock()
        if left > 0:
            observe(self._observer, Event("token_served", self.name, self._requester.locator.target, lifetime=left))
