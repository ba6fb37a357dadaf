"""`TokenProvider`: one client's token at one authorization server, for every thread, task and event loop of a process.

What is asked of a token, once there is one, is in `lifecycle.holder`.
"""

from __future__ import annotations

from .clock import Clock, elapsed
from .lifecycle.holder import ObservedHolder, TokenHolder
from .runtime import end  # noqa: F401  # pyright: ignore[reportUnusedImport] - takes our place among exit handlers
from .token_types import ACCESS_TOKEN_TYPE

# Not typing's, and the rest is imported where it is used first: a program that imports this class does not wait for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal, Self

    import httpx2

    from .auth.httpx2 import TokenAuth
    from .client.config import ClientConfig
    from .client.transport import SharedTransport
    from .events import Observer
    from .identity.sources import KeySource, Source
    from .protocol.dpop import Dpop
    from .stores import TokenStore

# How many wider scopes one provider may be asked for: a server that wants another each time is not followed for ever.
MAX_STEPS = 8


class TokenProvider(TokenHolder):
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
        extra_parameters: further form parameters of each token request. No message repeats the value of one whose name
            has `secret`, `password`, `key`, `token` or `assertion` in it, unless it ends in `_type`.
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

    __slots__ = ("_tls",)

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
            from .client.requester import Requester
            from .client.transport import SharedTransport, transport_of
            from .client.validation import check_functions, check_shareable, client_config, seconds, token_type
            from .identity.credentials import Credentials
            from .identity.tls import tls_files
            from .protocol.dpop import Dpop
            from .sharing.tier import tier_of

        check_functions(clock=clock, observer=observer)
        self._tls = tls_files(client_certificate, ca_file, private_key_password)
        config = client_config(
            client_id=client_id,
            credentials=Credentials(
                client_secret=client_secret,
                private_key=private_key,
                client_assertion=client_assertion,
                client_certificate=self._tls.certificate,
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
        time = seconds(timeout, "timeout", at_least=0.001)
        requester = Requester(
            config,
            transport_of(http_client, transport, self._tls),
            clock,
            refresh_ahead=seconds(refresh_ahead, "refresh_ahead"),
            default_lifetime=seconds(default_lifetime, "default_lifetime", at_least=1.0),
            default_token_type=token_type(default_token_type),
            attempt_timeout=time / 2,
            dpop=None if dpop is False else Dpop(None if dpop is True else dpop, private_key_password),
        )
        tier = tier_of(store, seconds(store_timeout, "store_timeout", at_least=0.001)) if store is not None else None
        if tier is not None:
            check_shareable(config, requester.dpop)
            requester.transport.prepare(requester.locator.target)
        super().__init__(name or client_id, requester, clock, time, tier, observer, revoke_on_close=revoke_on_close)
        if observer is not None:
            self.__class__ = _Observed  # pyright: ignore[reportAttributeAccessIssue]
        if tier is not None:
            tier.start()

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
        wider = self._requester.config.stepped_up(scope, self._life.token.scope, url, resource_metadata)
        root = self._root()
        if wider is None or root is None or root._control.closed:
            return None
        key = wider.scope or f"{url} {resource_metadata}"
        if key not in root._wider:
            if len(root._wider) >= MAX_STEPS:
                return None
            # Two threads may come here at once: the first to arrive stays.
            root._wider.setdefault(key, self._with_config(wider))
        return root._wider[key]

    def _with_config(self, config: ClientConfig) -> Self:
        other = object.__new__(type(self))
        requester, share = self._requester.with_config(config), self._control.share
        tier = share and share.tier
        TokenHolder.__init__(other, self.name, requester, self._clock, self._timeout, tier, self._observer)
        other._tls, other._root = self._tls, self._root
        return other

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


class _Observed(ObservedHolder, TokenProvider):
    __slots__ = ()
