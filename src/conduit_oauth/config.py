"""What a provider is configured with, checked once, at construction. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .client_auth import METHODS, usable_methods
from .credentials import Credentials
from .discovery import Discovery, derive_token_endpoint
from .dpop import Dpop
from .errors import ConfigurationError
from .grant import is_scope
from .urls import canonical_resource, origin_of, parse_secure_url, parse_url

_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[\x21-\x7e]+\Z")
_PROTOCOL_PARAMETERS = frozenset(
    {"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "assertion"}
    | {"scope", "resource", "audience", "subject_token", "subject_token_type"}
)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The checked settings of one client. Credentials and extra parameters stay out of its repr."""

    client_id: str
    credentials: Credentials
    token_endpoint: str | None
    issuer: str | None
    scope: str | None
    resource: str | None
    audience: str | None
    method: str | None
    origin: str | None
    mcp_url: str | None
    authorization_server: str | None
    extra_parameters: tuple[tuple[str, str], ...] = field(repr=False)

    def parameters(self, found: Discovery) -> list[tuple[str, str]]:
        """The parameters of a token request beside the grant: what was configured, else what was found.

        The MCP authorization specification has the resource sent by the name that it is published under, else by the
        server's canonical URL; not where an `audience` says the same to a server that wants that instead.
        """
        resource = self.resource
        if resource is None and self.audience is None and self.mcp_url is not None:
            resource = found.resource or canonical_resource(parse_url(self.mcp_url, "mcp_url"))
        standard = (("scope", self.scope or found.scope), ("resource", resource), ("audience", self.audience))
        return [*((name, value) for name, value in standard if value is not None), *self.extra_parameters]


def client_config(
    *,
    client_id: object,
    credentials: Credentials,
    token_endpoint: str | None,
    mcp_url: str | None,
    issuer: str | None,
    scope: str | None,
    resource: str | None,
    audience: str | None,
    extra_parameters: Mapping[str, str] | None,
    token_endpoint_auth_method: str | None,
    discovery: bool,
    authorization_server: str | None,
) -> ClientConfig:
    """Check every setting; raises `ConfigurationError` naming the first that will not do."""
    _text(client_id, "client_id", "Pass the identifier that the authorization server gave this client.")
    _credentials(credentials, token_endpoint_auth_method)
    if scope is not None:
        _text(scope, "scope", "Leave it out, or name the scope to ask for.")
        if not is_scope(scope):
            raise ConfigurationError("scope", "is malformed", "Separate scope names by single spaces (RFC 6749 §3.3).")
    if audience is not None:
        _text(audience, "audience", "Leave it out, or name the audience the token is for.")
    if resource is not None:
        _text(resource, "resource", "Leave it out, or name the resource the token is for.")
    return ClientConfig(
        client_id=str(client_id),
        credentials=credentials,
        token_endpoint=_token_endpoint(token_endpoint, mcp_url, issuer, discovery=discovery),
        issuer=_issuer(issuer, "issuer"),
        scope=scope,
        resource=resource,
        audience=audience,
        method=token_endpoint_auth_method,
        origin=_origin(mcp_url, resource),
        mcp_url=mcp_url,
        authorization_server=_issuer(authorization_server, "authorization_server"),
        extra_parameters=_extra(extra_parameters or {}),
    )


def identity(config: ClientConfig, key_thumbprint: str | None) -> bytes:
    """A digest of all that makes this client's token differ from another's, but for the credential."""
    certificate = config.credentials.client_certificate
    parts = [
        config.token_endpoint,
        config.issuer,
        config.mcp_url,
        config.authorization_server,
        config.client_id,
        None if config.scope is None else sorted(set(config.scope.split())),
        config.resource,
        config.audience,
        sorted(config.extra_parameters),
        key_thumbprint,
        # Tokens are bound to the certificate (RFC 8705 §3.1).
        certificate and hashlib.sha256(certificate.certificate.read_bytes()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def check_shareable(config: ClientConfig, dpop: Dpop | None) -> None:
    """Raise `ConfigurationError` where the client's tokens are of no use to, or not safe from, other processes."""
    credentials = config.credentials
    if dpop is not None and not dpop.configured:
        raise ConfigurationError(
            "dpop", "makes a key of this process's own, beside a store", "Pass the key to bind to."
        )
    given = _given(credentials, "client_secret", "private_key", "client_assertion", "assertion", "subject_token")
    if not given and credentials.client_certificate is None:
        raise ConfigurationError("store", "needs a credential to seal tokens with", "Leave it out for this client.")


def _token_endpoint(
    token_endpoint: str | None, mcp_url: str | None, issuer: str | None, *, discovery: bool
) -> str | None:
    """The endpoint where it is known without asking; what was configured outright goes first."""
    if token_endpoint is not None:
        if parse_secure_url(token_endpoint, "token_endpoint").fragment:
            raise ConfigurationError("token_endpoint", "has a fragment", "Leave it out (RFC 6749 §3.2).")
        return token_endpoint
    if issuer is not None:
        return None
    if mcp_url is None:
        raise ConfigurationError(
            "token_endpoint", "is missing, as are mcp_url and issuer", "Pass one of token_endpoint, mcp_url and issuer."
        )
    parse_secure_url(mcp_url, "mcp_url")
    if discovery:
        return None
    derived = derive_token_endpoint(mcp_url)
    if derived == mcp_url:
        raise ConfigurationError("mcp_url", "ends in neither /mcp nor /jsonrpc", "Pass token_endpoint or issuer too.")
    return derived


def _issuer(issuer: str | None, field: str) -> str | None:
    if issuer is not None:
        parts = parse_secure_url(issuer, field)
        if parts.query or parts.fragment:
            raise ConfigurationError(field, "has a query or a fragment", "Leave it out (RFC 8414 §2).")
    return issuer


def _origin(mcp_url: str | None, resource: str | None) -> str | None:
    """The one origin the token may be sent to, None where the settings do not tell."""
    if resource is not None and (not _ABSOLUTE_URI.match(resource) or "#" in resource):
        raise ConfigurationError("resource", "is not an absolute URI without fragment", "See RFC 8707 §2.")
    if mcp_url is not None:
        return origin_of(parse_secure_url(mcp_url, "mcp_url"))
    if resource is not None and resource.lower().startswith(("http://", "https://")):
        return origin_of(parse_url(resource, "resource"))
    return None


def seconds(value: object, field: str, *, at_least: float = 0.0) -> float:
    """A finite length of time of at least `at_least` seconds; raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < at_least:
        raise ConfigurationError(field, f"is not a number of seconds of at least {at_least:g}", "Pass seconds.")
    return float(value)


def _text(value: object, field: str, advice: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(field, "is missing or empty", advice)


def _credentials(credentials: Credentials, method: str | None) -> None:
    """One credential, of a type that can be read, for a method that can use it."""
    if method is not None and method not in METHODS:
        raise ConfigurationError("token_endpoint_auth_method", "is unknown", f"Use one of {', '.join(METHODS)}.")
    given = _given(credentials, "client_secret", "private_key", "client_assertion")
    exchanged = _given(credentials, "assertion", "subject_token")
    if not given and not exchanged and credentials.client_certificate is None and method != "none":
        raise ConfigurationError(
            "client_secret",
            "is missing, as are private_key, client_assertion and client_certificate",
            "Pass one of them, or token_endpoint_auth_method='none' for a client without a credential.",
        )
    for alternatives in (given, exchanged):
        if len(alternatives) > 1:
            first, second, *_ = alternatives
            raise ConfigurationError(second, f"is given beside {first}", "Pass one of them.")
    secrets = credentials.secrets
    if isinstance(credentials.client_secret, tuple) and len(secrets) != 2:
        raise ConfigurationError("client_secret", "is not one secret, nor two", "Pass (one, other).")
    others = [(name, value) for name, value in (given | exchanged).items() if name != "client_secret"]
    for name, value in [*others, *(("client_secret", secret) for secret in secrets)]:
        if isinstance(value, Path) or callable(value) or (name == "private_key" and isinstance(value, Mapping)):
            continue
        _text(value, name, "Pass it as text, as a Path to a file that holds it, or as a callable that returns it.")
    if method is not None and method not in usable_methods(credentials):
        raise ConfigurationError(
            "token_endpoint_auth_method",
            f"{method} does not go with {next(iter(given), 'no credential')}",
            f"Use {' or '.join(usable_methods(credentials))}, or pass the credential that {method} needs.",
        )


def _given(credentials: Credentials, *names: str) -> dict[str, object]:
    return {name: value for name in names if (value := getattr(credentials, name)) is not None}


def _extra(parameters: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in parameters.items():
        if name in _PROTOCOL_PARAMETERS:
            raise ConfigurationError("extra_parameters", f"holds {name}", "Pass it by its own argument.")
        if not name or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("extra_parameters", f"{name!r} is not text", "Pass a mapping of str to str.")
    return tuple(parameters.items())
