"""Reads a JWT for `inspect`, and verifies it by the keys that its issuer publishes (RFC 7515, RFC 8414)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from ..discovery import discover_issuer
from ..errors import ConfigurationError, DiscoveryError, InvalidTokenResponse
from ..grant import Request, parse_json_object
from ..requester import drive
from ..transport import Transport

# Signatures by a key pair. `none` proves nothing, and a published key as an HMAC secret proves that anyone can read.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
_TIMEOUT = 10.0
# Tokens with certificates in their headers are large, and only shown here.
_READER = jws.JWSRegistry()
_READER.max_header_length = _READER.max_payload_length = 1 << 20


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of a token, and how: `source` says whose word it is."""

    source: str
    header: dict[str, Any]
    claims: dict[str, Any]


def read_jwt(token: str) -> Inspected | None:
    """Header and claims of a JWT, unverified; None for a token that is none."""
    try:
        parsed = jws.extract_compact(token.encode(), registry=_READER)
        claims = parse_json_object(parsed.payload)
    except (JoseError, ValueError):
        return None
    return None if claims is None else Inspected("JWT, signature not verified", dict(parsed.headers()), claims)


def verify_jwt(token: str, read: Inspected, issuer: str | None) -> Inspected:
    """`read`, if the issuer's keys verify it; raises `InvalidTokenResponse` if not, `DiscoveryError` without keys."""
    named = read.claims.get("iss")
    if not isinstance(named, str) or issuer not in (None, named):
        raise ConfigurationError("issuer", f"the token names {named!r}", "Pass the --issuer that issued it.")
    transport = Transport()
    try:
        found = drive(discover_issuer(named, []), transport, _TIMEOUT)
        jwks_uri = found.server.endpoint("jwks_uri", mtls=False) if found.server else None
        if jwks_uri is None:
            raise DiscoveryError("jwks_uri", named, "publishes no keys", "metadata with a jwks_uri")
        answer = transport.send(Request("GET", jwks_uri, {"Accept": "application/json"}), _TIMEOUT)
    finally:
        transport.close()
    try:
        keys = KeySet.import_key_set(parse_json_object(answer.content) or {})  # type: ignore[arg-type]
        jwt.decode(token, keys, algorithms=_ALGORITHMS)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise InvalidTokenResponse(
            named, "signature", f"is not by its issuer's keys ({type(error).__name__})"
        ) from None
    return Inspected(f"JWT, signature verified by the keys of {named}", read.header, read.claims)
