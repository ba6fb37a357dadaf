"""Reads a JWT for `inspect`, and verifies it by the keys that its issuer publishes (RFC 7515, RFC 8414)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeySet

from ..client.locator import drive
from ..client.transport import Transport
from ..client.validation import insecure_hosts_of
from ..errors import ConfigurationError, DiscoveryError
from ..identity.tls import tls_files
from ..masking import mask
from ..protocol.discovery import discover_issuer
from ..protocol.http import Request, parse_json_object
from ..protocol.jose import Algorithms
from ..protocol.locations import Search
from ..protocol.metadata import same_issuer
from ..settings import Settings
from .exits import InvalidTokenError

# Signatures by a key pair. `none` proves nothing, and a published key as an HMAC secret proves that anyone can read.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
_TIMEOUT = 10.0
# Tokens with certificates in their headers are large, and only shown here.
_READER = jws.JWSRegistry()
_READER.max_header_length = _READER.max_payload_length = 1 << 20


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of a token, and how: `source` says whose word it is, `verified` whether that is its issuer's."""

    source: str
    header: dict[str, Any]
    claims: dict[str, Any]
    verified: bool = False


def read_jwt(token: str) -> Inspected | None:
    """Header and claims of a JWT, unverified; None for a token that is none."""
    try:
        parsed = jws.extract_compact(token.encode(), registry=_READER)
        claims = parse_json_object(parsed.payload)
    except (JoseError, ValueError, RecursionError):
        return None
    return None if claims is None else Inspected("JWT, signature not verified", dict(parsed.headers()), claims)


def has_ended(inspected: Inspected, now: datetime) -> bool:
    """Whether the token is of no use any more: its server calls it inactive, or its `exp` has passed."""
    expires = inspected.claims.get("exp")
    over = isinstance(expires, int | float) and expires <= now.timestamp()
    return over or inspected.claims.get("active") is False


def verify_jwt(token: str, read: Inspected, settings: Settings) -> Inspected:
    """`read`, if the issuer's keys verify it. The settings of a client say which issuer that is, and what TLS trusts.

    Raises `InvalidTokenError` if they do not, and `DiscoveryError` or `TransportError` where there are none.
    """
    issuer, named = settings.get("issuer"), read.claims.get("iss")
    if not isinstance(named, str) or (issuer is not None and not same_issuer(issuer, named)):
        said = "names no issuer" if named is None else f"names the issuer {mask(str(named), ())}"
        raise ConfigurationError("issuer", f"the token {said}", "Pass the --issuer that issued it.")
    algorithm = mask(str(read.header.get("alg")), ())
    if algorithm == "none":
        raise InvalidTokenError("is not signed (alg none)", "Anybody could have made it: do not accept it.")
    if algorithm.startswith("HS"):
        raise InvalidTokenError(
            f"is signed with a secret of the server ({algorithm}), which published keys cannot verify",
            "Ask the server instead: `introspect` in a program, or its introspection endpoint.",
        )
    jwks_uri, keys = _published_keys(named, settings)
    try:
        with warnings.catch_warnings():
            # joserfc warns of keys that are short or of an unusual kind; whose keys they are is not ours to say.
            warnings.simplefilter("ignore", SecurityWarning)
            key_set = KeySet.import_key_set(keys)  # type: ignore[arg-type]
            jwt.decode(token, key_set, registry=Algorithms(algorithms=_ALGORITHMS))
    except (JoseError, ValueError, KeyError, TypeError):
        kid = read.header.get("kid")
        of = f"alg {algorithm}" if kid is None else f"alg {algorithm}, kid {mask(str(kid), ())}"
        raise InvalidTokenError(
            f"has a signature ({of}) that no key of {jwks_uri} verifies",
            "It was changed, or another server issued it, or its key was replaced: do not accept it.",
        ) from None
    return Inspected(f"JWT, signature verified by the keys of {named}", read.header, read.claims, verified=True)


def _published_keys(issuer: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Where the keys of `issuer` are, and the document that holds them."""
    certificate, authorities, password = map(settings.get, ("client_certificate", "ca_file", "private_key_password"))
    transport = Transport(tls=tls_files(certificate, authorities, password))
    search = Search(insecure_hosts_of(settings.get("insecure_hosts", ())))
    try:
        found = drive(discover_issuer(issuer, search), transport, _TIMEOUT)
        jwks_uri = found.server.endpoint("jwks_uri", mtls=False) if found.server else None
        if jwks_uri is None:
            raise DiscoveryError(
                "jwks_uri", issuer, "publishes no keys", "metadata with a jwks_uri", advice="Ask its operator for them."
            )
        answer = transport.send(Request("GET", jwks_uri, {"Accept": "application/json"}), _TIMEOUT)
    finally:
        transport.close()
    keys = parse_json_object(answer.content) if answer.status == 200 else None
    if keys is None or not isinstance(keys.get("keys"), list):
        problem = f"answered {answer.status}" if answer.status != 200 else "answered with something else"
        raise DiscoveryError(
            "jwks_uri", jwks_uri, problem, "a set of keys (RFC 7517)", advice="Ask the server's operator to publish it."
        )
    return jwks_uri, keys
