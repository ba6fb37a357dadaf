"""Client assertions (RFC 7523 §2.2, §3), signed by joserfc. Pure but for the key's randomness; loaded at first use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError

try:
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, JWKRegistry, OctKey, OKPKey, RSAKey
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "token_endpoint_auth_method", f"needs {missing.name}, which is not installed", "Install conduit-oauth[jwt]."
    ) from None

Key = RSAKey | ECKey | OKPKey | OctKey
_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "RSA": ("RS256", "PS256", "RS384", "RS512", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("Ed25519", "EdDSA"),  # the first by RFC 9864, the second for servers that name only that
    "oct": ("HS256", "HS384", "HS512"),
}


def load_key(material: str | Mapping[str, Any]) -> Key:
    """A private key from PEM text, a JWK as JSON text, or a JWK. Raises `ConfigurationError`."""
    try:
        if isinstance(material, str) and material.lstrip().startswith("{"):
            material = json.loads(material)
        key = _from_pem(material) if isinstance(material, str) else JWKRegistry.import_key(dict(material))
        if key.is_private:
            return key
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        # What was wrong with it could quote it.
        raise ConfigurationError(
            "private_key",
            "is neither a PEM nor a JWK of a kind that can sign",
            "Pass an RSA, EC or Ed25519 private key.",
        ) from None
    raise ConfigurationError("private_key", "is a public key", "Pass the private key of the pair.")


def _from_pem(text: str) -> Key:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            return kind.import_key(text)
        except (JoseError, ValueError, TypeError):
            continue
    raise ValueError("no key")


def shared_key(client_secret: str) -> Key:
    """The key of `client_secret_jwt`: the octets of the secret (OpenID Connect Core §10.1)."""
    return OctKey.import_key(client_secret.encode())


def sign_assertion(
    key: Key, claims: dict[str, Any], *, key_id: str | None, algorithm: str | None, supported: tuple[str, ...] | None
) -> str:
    """A signed JWT by the algorithm that was chosen, else the first of the key's that the server supports."""
    possible = _possible(key)
    wanted = (algorithm,) if algorithm else supported or possible
    usable = [name for name in possible if name in wanted]
    if not usable:
        raise ConfigurationError(
            "signing_algorithm",
            f"the key can sign by {', '.join(possible) or 'none we know'}, and {', '.join(wanted)} is wanted",
            "Use another key, or another algorithm.",
        )
    header = {"alg": usable[0], "typ": "JWT"}
    if kid := key_id or key.kid:
        header["kid"] = kid
    return jwt.encode(header, claims, key, algorithms=usable)


def generate_key() -> Key:
    """A key for proofs of possession (RFC 9449), as long-lived as the process."""
    return ECKey.generate_key("P-256")


def sign_proof(key: Key, claims: dict[str, Any]) -> str:
    """A DPoP proof (RFC 9449 §4.2), with the public key that verifies it in its header."""
    usable = [name for name in _possible(key) if not name.startswith("HS")]
    if not usable:
        raise ConfigurationError("dpop", "is no key for signatures by a key pair", "Use an EC, RSA or Ed25519 key.")
    header = {"typ": "dpop+jwt", "alg": usable[0], "jwk": key.as_dict(private=False)}
    return jwt.encode(header, claims, key, algorithms=usable)


def _possible(key: Key) -> tuple[str, ...]:
    curve = key.as_dict(private=False).get("crv") if isinstance(key, ECKey | OKPKey) else None
    return _ALGORITHMS.get(str(curve or key.key_type), ())
