"""Client assertions (RFC 7523 §2.2, §3), signed by joserfc. Pure but for the key's randomness; loaded at first use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigurationError
from ..identity.sources import Source, read_text
from ..masking import mask

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from joserfc import jws, jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
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
    # The name of RFC 8037 first: servers that know that of RFC 9864 list it.
    "Ed25519": ("EdDSA", "Ed25519"),
    "oct": ("HS256", "HS384", "HS512"),
}
_SHORTEST_RSA = 2048
_KINDS: dict[object, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class Algorithms(jws.JWSRegistry):
    """Algorithms by name. joserfc's own registry also warns of EdDSA, which many servers know by no other name."""

    def get_alg(self, name: str) -> Any:
        """The algorithm `name`, if it is one of those that were allowed."""
        if name not in (self.allowed or ()):
            raise JoseError(f"{name} is not allowed")
        return self.algorithms[name]


def load_key(material: str | Mapping[str, Any], field: str = "private_key", password: Source | None = None) -> Key:
    """A private key from PEM text, a JWK as JSON text, or a JWK. Raises `ConfigurationError` naming `field`.

    `password` is the source of what a PEM is encrypted with; it is read only for one that is.
    """
    try:
        if isinstance(material, str) and material.lstrip().startswith("{"):
            material = json.loads(material)
        key = _from_pem(material, field, password) if isinstance(material, str) else _from_jwk(material)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UnsupportedAlgorithm):
        # What was wrong with it could quote it.
        raise ConfigurationError(
            field,
            "is neither a PEM nor a JWK of a private key that can sign",
            "Pass an RSA, EC or Ed25519 private key.",
        ) from None
    if key is None:
        raise ConfigurationError(field, "is shorter than 2048 bits", "Use a longer RSA key (RFC 7518 §3.3).")
    if not key.is_private:
        raise ConfigurationError(field, "is a public key", "Pass the private key of the pair.")
    return key


def _from_pem(text: str, field: str, password: Source | None) -> Key | None:
    """The key, None for one that is too short."""
    try:
        raw = load_pem_private_key(text.encode(), None)
    except TypeError:
        # How cryptography says that it is encrypted.
        if password is None:
            raise ConfigurationError(field, "is encrypted", "Set private_key_password, or decrypt the key.") from None
        try:
            raw = load_pem_private_key(text.encode(), read_text(password, "private_key_password").encode())
        except ValueError:
            raise ConfigurationError("private_key_password", f"does not open {field}", "Check it.") from None
    match raw:
        case RSAPrivateKey():
            return None if raw.key_size < _SHORTEST_RSA else RSAKey(raw, raw)
        case EllipticCurvePrivateKey():
            return ECKey(raw, raw)
        case Ed25519PrivateKey():
            return OKPKey(raw, raw)
        case _:
            raise ValueError("no key that signs JWTs")


def _from_jwk(jwk: Mapping[str, Any]) -> Key | None:
    # Looked at before joserfc does, which warns on stderr.
    if jwk["kty"] == "RSA" and len(jwk["n"]) * 6 < _SHORTEST_RSA:
        return None
    return _KINDS[jwk["kty"]].import_key(dict(jwk))


def shared_key(client_secret: str) -> Key:
    """The key of `client_secret_jwt`: the octets of the secret (OpenID Connect Core §10.1).

    RFC 7518 §3.2 asks for as many bits as the hash has. The secret is the server's choice, so a shorter one is used.
    """
    octets = client_secret.encode()
    return OctKey(octets, octets)


def sign_assertion(
    key: Key, claims: dict[str, Any], *, key_id: str | None, algorithm: str | None, supported: tuple[str, ...] | None
) -> tuple[dict[str, Any], str]:
    """Header and text of a signed JWT.

    The algorithm is the key's own (the `alg` of a JWK), else the configured one, else the first of those for its type
    that the server supports. Raises `ConfigurationError` where these contradict each other.
    """
    possible = _possible(key, "private_key")
    if algorithm is not None and algorithm not in possible:
        raise ConfigurationError(
            "signing_algorithm",
            f"is {algorithm}, and the key can sign by {', '.join(possible)}",
            "Use another key, or leave signing_algorithm out.",
        )
    usable = [algorithm] if algorithm is not None else [name for name in possible if name in (supported or possible)]
    if not usable:
        raise ConfigurationError(
            "signing_algorithm",
            f"the key can sign by {', '.join(possible)}, and the server lists {mask(', '.join(supported or ()), ())}",
            "Use another key, or set signing_algorithm to the one that the server takes although it does not list it.",
        )
    header = {"alg": usable[0], "typ": "JWT"}
    if kid := key_id or key.kid:
        header["kid"] = kid
    return header, _sign(header, claims, key, "private_key")


def generate_key(accepted: Callable[[str], bool]) -> Key:
    """A key for proofs of possession (RFC 9449), as long-lived as the process, of a type that `accepted` allows."""
    for curve in ("P-256", "P-384", "P-521"):
        if accepted(_ALGORITHMS[curve][0]):
            return ECKey.generate_key(curve)
    if any(accepted(name) for name in _ALGORITHMS["Ed25519"]):
        return OKPKey.generate_key("Ed25519")
    if any(accepted(name) for name in _ALGORITHMS["RSA"]):
        return RSAKey.generate_key(2048)
    raise ConfigurationError("dpop", "no algorithm is known that all servers of this client list", "Leave dpop out.")


def sign_proof(key: Key, claims: dict[str, Any], supported: tuple[str, ...] | None) -> str:
    """A DPoP proof (RFC 9449 §4.2), with the public key that verifies it in its header."""
    possible = _possible(key, "dpop")
    usable = [name for name in possible if name in (supported or possible)]
    if not usable:
        raise ConfigurationError(
            "dpop",
            f"the key can sign by {', '.join(possible)}, and the server lists {mask(', '.join(supported or ()), ())}",
            "Use another key, or dpop=True for one that is made here.",
        )
    header = {"typ": "dpop+jwt", "alg": usable[0], "jwk": key.as_dict(private=False)}
    return _sign(header, claims, key, "dpop")


def _sign(header: dict[str, Any], claims: dict[str, Any], key: Key, field: str) -> str:
    try:
        return jwt.encode(header, claims, key, registry=Algorithms(algorithms=[header["alg"]]))
    except JoseError:
        raise ConfigurationError(
            field, "is a JWK that is not for signatures", "Check its use and key_ops, or use another key."
        ) from None


def _possible(key: Key, field: str) -> tuple[str, ...]:
    """The algorithms that the key can sign by: the `alg` of a JWK is the only one (RFC 7517 §4.4)."""
    curve = key.as_dict(private=False).get("crv") if isinstance(key, ECKey | OKPKey) else None
    possible = _ALGORITHMS.get(str(curve or key.key_type), ())
    if not possible:
        raise ConfigurationError(field, "is of a type that signs by no algorithm known here", "Use another key.")
    own = key.get("alg")
    if own is None:
        return possible
    if own not in possible:
        raise ConfigurationError(
            field,
            f"says alg {mask(str(own), ())}, and a key of its type signs by {', '.join(possible)}",
            "Correct the alg of the JWK, or use another key.",
        )
    return (own,)
