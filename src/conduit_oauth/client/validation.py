"""The settings of a provider, checked once, at construction. Pure."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import ConfigurationError
from ..identity.credentials import Credentials
from ..identity.sources import Source, check_encodable
from ..protocol.client_auth import METHODS, TLS_METHODS, usable_methods
from ..protocol.discovery import derive_token_endpoint
from ..protocol.dpop import Dpop
from ..protocol.grant import is_scope
from ..protocol.http import is_http_token
from ..protocol.urls import is_private, origins_of_token, parse_secure_url, parse_url
from .config import ClientConfig

# In seconds, some thirty years: what waits takes no number of any size.
_LONGEST_TIME = 1e9
_WELL_KNOWN = re.compile(r"/\.well-known/(?:oauth-authorization-server|openid-configuration)")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*+:[\x21-\x7e]++\Z")
# What says who the client is, and what is in the request.
_PROTOCOL_HEADERS = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie", "dpop"}
    | {"host", "te", "trailer", "transfer-encoding", "upgrade"}
)
_PROTOCOL_PARAMETERS = frozenset(
    {"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "assertion"}
    | {"scope", "resource", "audience", "subject_token", "subject_token_type"}
)


def client_config(
    *,
    client_id: object,
    credentials: Credentials,
    token_endpoint: str | None,
    introspection_endpoint: str | None,
    revocation_endpoint: str | None,
    mcp_url: str | None,
    issuer: str | None,
    scope: str | None,
    resource: str | Sequence[str] | Literal[False] | None,
    audience: str | None,
    extra_parameters: Mapping[str, str] | None,
    token_request_headers: Mapping[str, Source] | None,
    insecure_hosts: Sequence[str],
    token_endpoint_auth_method: str | None,
    assertion_audience: str,
    discovery: bool,
    authorization_server: str | None,
    step_up_to: object,
    has_own_client: bool,
) -> ClientConfig:
    """Check every setting; raises `ConfigurationError` naming the first invalid one.

    `has_own_client` tells that the user gave an HTTP client or transport, which may carry a certificate.
    """
    method = token_endpoint_auth_method
    certified_client = has_own_client and method in TLS_METHODS
    _text(client_id, "client_id", "Pass the identifier that the authorization server gave this client.")
    _credentials(credentials, method, certified_client=certified_client)
    if scope is not None:
        _text(scope, "scope", "Leave it out, or name the scope to ask for.")
        if not is_scope(scope):
            raise ConfigurationError("scope", "is malformed", "Separate scope names by single spaces (RFC 6749 §3.3).")
    if audience is not None:
        _text(audience, "audience", "Leave it out, or name the audience the token is for.")
    _text(assertion_audience, "assertion_audience", "Use issuer, endpoint, or the audience that the server expects.")
    resources = _resources(resource)
    insecure = insecure_hosts_of(insecure_hosts)
    endpoint = _token_endpoint(token_endpoint, mcp_url, issuer, insecure, discovery=discovery)
    return ClientConfig(
        client_id=str(client_id),
        credentials=credentials,
        token_endpoint=endpoint,
        derived=endpoint is not None and token_endpoint is None,
        introspection_endpoint=_endpoint(introspection_endpoint, "introspection_endpoint", insecure),
        revocation_endpoint=_endpoint(revocation_endpoint, "revocation_endpoint", insecure),
        issuer=_issuer(issuer, "issuer", insecure),
        scope=scope,
        resources=resources,
        audience=audience,
        method=method,
        assertion_audience=assertion_audience,
        presents_certificate=credentials.client_certificate is not None or certified_client,
        origins=origins_of_token(mcp_url, resources, insecure),
        mcp_url=mcp_url,
        authorization_server=_authorization_server(
            authorization_server, insecure, has_endpoint=endpoint is not None or issuer is not None
        ),
        extra_parameters=_extra(extra_parameters or {}),
        headers=_headers(token_request_headers or {}),
        insecure_hosts=insecure,
        step_up_to=_step_up_to(step_up_to),
    )


def check_functions(*, clock: object, **optional: object) -> None:
    """Raise `ConfigurationError` for one that is given and cannot be called."""
    given = {name: value for name, value in optional.items() if value is not None}
    for name, value in {"clock": clock, **given}.items():
        if not callable(value):
            raise ConfigurationError(name, "cannot be called", "Pass a function.")


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
    token_endpoint: str | None, mcp_url: str | None, issuer: str | None, insecure: frozenset[str], *, discovery: bool
) -> str | None:
    """The endpoint where it is known without asking; what was configured outright goes first."""
    if token_endpoint is not None:
        return _endpoint(token_endpoint, "token_endpoint", insecure)
    if issuer is not None:
        return None
    if mcp_url is None:
        raise ConfigurationError(
            "token_endpoint", "is missing, as are mcp_url and issuer", "Pass one of token_endpoint, mcp_url and issuer."
        )
    parse_secure_url(mcp_url, "mcp_url", insecure)
    if discovery:
        return None
    derived = derive_token_endpoint(mcp_url)
    if derived == mcp_url:
        raise ConfigurationError("mcp_url", "ends in neither /mcp nor /jsonrpc", "Pass token_endpoint or issuer too.")
    return derived


def _endpoint(url: str | None, field: str, insecure: frozenset[str]) -> str | None:
    if url is not None and parse_secure_url(url, field, insecure).fragment:
        raise ConfigurationError(field, "has a fragment", "Leave it out (RFC 6749 §3.2).")
    return url


def _issuer(issuer: str | None, field: str, insecure: frozenset[str]) -> str | None:
    if issuer is not None:
        parts = parse_secure_url(issuer, field, insecure)
        if parts.query or parts.fragment:
            raise ConfigurationError(field, "has a query or a fragment", "Leave it out (RFC 8414 §2).")
        if (location := _WELL_KNOWN.search(issuer)) is not None:
            meant = issuer[: location.start()] + issuer[location.end() :]
            raise ConfigurationError(
                field, "is the URL of a metadata document", f"Pass the issuer that the document names: {meant}"
            )
    return issuer


def _authorization_server(issuer: str | None, insecure: frozenset[str], *, has_endpoint: bool) -> str | None:
    if issuer is not None and has_endpoint:
        raise ConfigurationError(
            "authorization_server",
            "is given where nothing is discovered from mcp_url",
            "It chooses between the servers that a resource lists: pass it with mcp_url alone, or pass it as issuer.",
        )
    return _issuer(issuer, "authorization_server", insecure)


def _resources(resource: object) -> tuple[str, ...] | None:
    """The resource indicators: none, one, or several (RFC 8707 §2); None where none is to be sent."""
    if resource is None or resource is False:
        return () if resource is None else None
    several = cast("Sequence[object]", resource) if isinstance(resource, list | tuple) else (resource,)
    for each in several:
        _text(each, "resource", "Leave it out, or name the resource the token is for.")
        if not _ABSOLUTE_URI.match(str(each)) or "#" in str(each):
            raise ConfigurationError("resource", "is not an absolute URI without fragment", "See RFC 8707 §2.")
    if not several:
        raise ConfigurationError("resource", "is an empty list", "Leave it out, or name a resource.")
    return tuple(dict.fromkeys(map(str, several)))


def seconds(value: object, field: str, *, at_least: float = 0.0) -> float:
    """A length of time of at least `at_least` seconds, which a lock can wait for; raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= _LONGEST_TIME:
        problem = f"is not a number of seconds between {at_least:g} and {_LONGEST_TIME:g}"
        raise ConfigurationError(field, problem, "Pass seconds.")
    return float(value)


def _step_up_to(value: object) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and is_scope(value)):
        return value
    raise ConfigurationError("step_up", "is neither True, False nor a scope", "Name the scopes that may be added.")


def token_type(value: object) -> str | None:
    """None, or one of the two types that the adapters can present; raises `ConfigurationError`."""
    if value is None:
        return None
    if not isinstance(value, str) or value.lower() not in ("bearer", "dpop"):
        raise ConfigurationError("default_token_type", "is neither Bearer nor DPoP", "Leave it out, or name one.")
    return value


def _text(value: object, field: str, advice: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(field, "is missing or empty", advice)
    check_encodable(value, field)


def _credentials(credentials: Credentials, method: str | None, *, certified_client: bool) -> None:
    """One credential, of a type that can be read, for a method that can use it."""
    if method is not None and not (isinstance(method, str) and method in METHODS):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("token_endpoint_auth_method", "is unknown", f"Use one of {', '.join(METHODS)}.")
    given = _given(credentials, "client_secret", "private_key", "client_assertion")
    exchanged = _given(credentials, "assertion", "subject_token")
    certified = certified_client or credentials.client_certificate is not None
    if not given and not exchanged and not certified and method != "none":
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
    if method is not None and not certified_client and method not in usable_methods(credentials):
        raise ConfigurationError(
            "token_endpoint_auth_method",
            f"{method} does not go with {next(iter(given), 'no credential')}",
            f"Use {' or '.join(usable_methods(credentials))}, or pass the credential that {method} needs.",
        )


def _given(credentials: Credentials, *names: str) -> dict[str, object]:
    return {name: value for name in names if (value := getattr(credentials, name)) is not None}


def _extra(parameters: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in _mapping(parameters, "extra_parameters"):
        if name in _PROTOCOL_PARAMETERS:
            raise ConfigurationError("extra_parameters", f"holds {name}", "Pass it by its own argument.")
        if not name or not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError("extra_parameters", f"{name!r} is not text", "Pass a mapping of str to str.")
        check_encodable(name + value, "extra_parameters")
    return tuple(parameters.items())


def _mapping(value: object, field: str) -> ItemsView[Any, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(field, "is no mapping", 'Pass {"name": "value"}.')
    return cast("Mapping[Any, Any]", value).items()


def _headers(headers: Mapping[str, Source]) -> tuple[tuple[str, Source], ...]:
    for name, value in _mapping(headers, "token_request_headers"):
        if not isinstance(name, str) or not is_http_token(name):
            raise ConfigurationError("token_request_headers", f"{name!r} is not the name of a header", "Check it.")
        if name.lower() in _PROTOCOL_HEADERS:
            raise ConfigurationError("token_request_headers", f"holds {name}", "That one is set by the protocol.")
        if not isinstance(value, Path) and not callable(value):
            _text(value, "token_request_headers", f"Pass the value of {name} as text, a Path or a callable.")
    return tuple(headers.items())


def insecure_hosts_of(hosts: Sequence[str]) -> frozenset[str]:
    """The setting `insecure_hosts`, checked. Raises `ConfigurationError`."""
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("insecure_hosts", "is no list", 'Pass a list: ["gateway.internal"].')
    named: set[str] = set()
    for host in hosts:
        # An address of version 6 has brackets in a URL.
        bare = str(host).lower().removeprefix("[").removesuffix("]")
        try:
            url = parse_url(f"http://[{bare}]" if ":" in bare else f"http://{bare}", "insecure_hosts")
            is_host = isinstance(host, str) and url.hostname == bare  # pyright: ignore[reportUnnecessaryIsInstance]
        except ConfigurationError:
            is_host = False
        if not is_host or not is_private(bare):
            raise ConfigurationError(
                "insecure_hosts",
                f"{host!r} is no private host",
                "Reach a public host by https; name hosts without port.",
            )
        named.add(bare)
    return frozenset(named)
