"""What a provider is configured with, after all of it was checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..identity.credentials import Credentials
from ..identity.digest import token_identity
from ..identity.sources import Source
from ..protocol.discovery import Discovery
from ..protocol.grant import is_scope
from ..protocol.urls import canonical_resource, parse_url

# Words in the name of an extra parameter whose value no message repeats.
_OF_SECRETS = ("assertion", "key", "password", "secret", "token")


@dataclass(frozen=True, slots=True)
class StepUp:
    """A resource that refused for want of scope without saying which: what it publishes is asked for beside `scope`.

    `resource_metadata` is where its challenge says that its metadata is (RFC 9728 §5.1).
    """

    url: str
    resource_metadata: str | None
    scope: str


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The checked settings of one client. Credentials and extra parameters stay out of its repr."""

    client_id: str
    credentials: Credentials
    token_endpoint: str | None
    # Whether that was derived from the MCP URL.
    derived: bool
    introspection_endpoint: str | None
    revocation_endpoint: str | None
    issuer: str | None
    scope: str | None
    # None where the user wants no resource to be sent.
    resources: tuple[str, ...] | None
    audience: str | None
    method: str | None
    assertion_audience: str
    # Whether connections carry a client certificate, ours or that of the user's HTTP client.
    presents_certificate: bool
    # The only origins that the token may be sent to; empty where the settings do not tell.
    origins: tuple[str, ...]
    mcp_url: str | None
    authorization_server: str | None
    extra_parameters: tuple[tuple[str, str], ...] = field(repr=False)
    # Sent with every request that carries the client's credential.
    headers: tuple[tuple[str, Source], ...] = field(default=(), repr=False)
    insecure_hosts: frozenset[str] = frozenset()
    # Whether scope may be added: what, or whether at all.
    step_up_to: bool | str = True
    step_up: StepUp | None = None

    @property
    def signs(self) -> bool:
        """Whether this client signs assertions."""
        return self.credentials.private_key is not None or self.method == "client_secret_jwt"

    @property
    def secret_parameters(self) -> list[str]:
        """The values of the extra parameters that are secret by their names."""
        return [
            value
            for name, value in self.extra_parameters
            if any(word in name.lower() for word in _OF_SECRETS) and not name.endswith("_type")
        ]

    def parameters(self, found: Discovery) -> list[tuple[str, str]]:
        """The parameters of a token request beside the grant: what was configured, else what was found.

        The MCP authorization specification has the resource sent by the name that it is published under, else by the
        server's canonical URL; not where an `audience` says the same to a server that wants that instead.
        """
        resources = self.resources
        if resources == () and self.audience is None and self.mcp_url is not None:
            named = found.resource.resource if found.resource else None
            resources = (named or canonical_resource(parse_url(self.mcp_url, "mcp_url")),)
        scope = self.scope or found.scope
        return [
            *([("scope", scope)] if scope is not None else []),
            *(("resource", resource) for resource in resources or ()),
            *([("audience", self.audience)] if self.audience is not None else []),
            *self.extra_parameters,
        ]

    def stepped_up(
        self, scope: str | None, granted: str | None, url: str, resource_metadata: str | None
    ) -> ClientConfig | None:
        """This one for the union of its scope and `scope`, None where that is no wider or not allowed.

        `granted` stands for a scope that was not configured. Without `scope`, `StepUp` tells what is asked for.
        """
        if self.step_up_to is False:
            return None
        if isinstance(self.step_up_to, str):
            # What was allowed is known, so the resource's metadata has nothing to add.
            allowed = self.step_up_to.split()
            scope = " ".join(name for name in (allowed if scope is None else scope.split()) if name in allowed)
        asked = (self.scope or granted or "").split()
        union = " ".join(sorted({*asked, *(scope or "").split()}))
        if scope is None:
            step_up = StepUp(url, resource_metadata, union)
            return replace(self, scope=None, step_up=step_up) if self.step_up is None else None
        is_wider = is_scope(union) and len(union.split()) > len(set(asked))
        return replace(self, scope=union, step_up=None) if is_wider else None


def identity(config: ClientConfig, key: str | None) -> bytes:
    """A digest of all that makes this client's token differ from another's, but for the credential.

    `key` stands for the key that tokens are bound to.
    """
    certificate, step_up = config.credentials.client_certificate, config.step_up
    further: list[object] = []
    if step_up is not None:
        further.append([step_up.url, step_up.resource_metadata, sorted(step_up.scope.split())])
    return token_identity(
        config.token_endpoint,
        config.issuer,
        config.mcp_url,
        config.authorization_server,
        config.client_id,
        config.scope,
        config.resources,
        config.audience,
        config.extra_parameters,
        # Tokens are bound to the certificate (RFC 8705 §3.1).
        bound_to=(key, certificate and certificate.fingerprint()),
        further=further,
    )
