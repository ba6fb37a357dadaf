"""How the client proves who it is at the token endpoint (RFC 6749 §2.3, RFC 7523 §2.2).

A method is a function that signs one request: it is told of the request, and adds its part to headers and form.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from .credentials import Credentials, read_key, read_text
from .errors import ConfigurationError
from .grant import Form

if TYPE_CHECKING:
    from .jose import Key

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Seconds an assertion is good for: it is used at once, and clocks differ.
ASSERTION_LIFETIME = 60


@dataclass(frozen=True, slots=True)
class Signing:
    """A request about to be signed. `audience` is who will check it, `wall_now` is Unix seconds.

    `secrets` collects what the request was signed with, so that no error message repeats it.
    """

    client_id: str
    credentials: Credentials
    audience: str
    wall_now: float
    algorithms: tuple[str, ...] | None
    headers: dict[str, str]
    form: Form
    secrets: list[str]


ClientAuth = Callable[[Signing], None]


def client_secret_post(signing: Signing) -> None:
    """Credentials in the form (RFC 6749 §2.3.1, second way)."""
    signing.form.extend([("client_id", signing.client_id), ("client_secret", _secret(signing))])


def client_secret_basic(signing: Signing) -> None:
    """Credentials in the Authorization header, each form-encoded before base64 (RFC 6749 §2.3.1)."""
    pair = base64.b64encode(f"{quote_plus(signing.client_id)}:{quote_plus(_secret(signing))}".encode()).decode()
    signing.secrets.append(pair)
    signing.headers["Authorization"] = f"Basic {pair}"


def client_secret_jwt(signing: Signing) -> None:
    """An assertion signed with the secret (OpenID Connect Core §9, RFC 7523 §2.2)."""
    from .jose import shared_key

    _assert(signing, _signed(signing, shared_key(_secret(signing))))


def private_key_jwt(signing: Signing) -> None:
    """An assertion signed with the client's private key, or one that was made elsewhere (RFC 7523 §2.2)."""
    if signing.credentials.client_assertion is not None:
        _assert(signing, read_text(signing.credentials.client_assertion, "client_assertion").strip())
        return
    from .jose import load_key

    _assert(signing, _signed(signing, load_key(read_key(signing.credentials.private_key))))


def none(signing: Signing) -> None:
    """No proof: the client only says who it is (RFC 7591 §2)."""
    signing.form.append(("client_id", signing.client_id))


def tls_client_auth(signing: Signing) -> None:
    """The proof is the certificate of the connection (RFC 8705 §2); the form says whose it should be."""
    none(signing)


METHODS: dict[str, ClientAuth] = {
    "client_secret_basic": client_secret_basic,
    "client_secret_post": client_secret_post,
    "client_secret_jwt": client_secret_jwt,
    "private_key_jwt": private_key_jwt,
    "tls_client_auth": tls_client_auth,
    "self_signed_tls_client_auth": tls_client_auth,
    "none": none,
}


def usable_methods(credentials: Credentials) -> tuple[str, ...]:
    """The methods that the configured credential can be used by, the preferred one first."""
    if credentials.private_key is not None or credentials.client_assertion is not None:
        return ("private_key_jwt",)
    if credentials.client_secret is not None:
        return ("client_secret_basic", "client_secret_post", "client_secret_jwt")
    if credentials.client_certificate is not None:
        return ("tls_client_auth", "self_signed_tls_client_auth")
    return ("none",)


def choose_method(usable: Sequence[str], supported: Sequence[str] | None) -> str:
    """The first usable method that the server's `token_endpoint_auth_methods_supported` lists (RFC 8414 §2).

    Where nothing is known of the server, secrets go into the form: that is what most gateways take.
    """
    if supported is None:
        return "client_secret_post" if "client_secret_post" in usable else usable[0]
    for method in usable:
        if method in supported:
            return method
    raise ConfigurationError(
        "token_endpoint_auth_method",
        f"the server supports only {', '.join(supported) or 'no method'}",
        f"The configured credential can be used by {' or '.join(usable)}: register the client for one of them.",
    )


def _secret(signing: Signing) -> str:
    secret = read_text(signing.credentials.client_secret, "client_secret")
    signing.secrets.append(secret)
    return secret


def _signed(signing: Signing, key: Key) -> str:
    from .jose import sign_assertion

    now = int(signing.wall_now)
    claims: dict[str, Any] = {
        "iss": signing.client_id,
        "sub": signing.client_id,
        "aud": signing.audience,
        "iat": now,
        "exp": now + ASSERTION_LIFETIME,
        "jti": uuid.uuid4().hex,
    }
    credentials = signing.credentials
    return sign_assertion(
        key, claims, key_id=credentials.key_id, algorithm=credentials.algorithm, supported=signing.algorithms
    )


def _assert(signing: Signing, assertion: str) -> None:
    signing.secrets.append(assertion)
    signing.form.extend(
        [
            ("client_id", signing.client_id),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ]
    )
