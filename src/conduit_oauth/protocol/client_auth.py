"""How the client proves who it is at the token endpoint (RFC 6749 §2.3, RFC 7523 §2.2).

A method is a function that signs one request: it is told of the request, and adds its part to headers and form.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..clock import DATED_BACK
from ..errors import ConfigurationError
from ..identity.credentials import Credentials
from ..identity.sources import read_key, read_text
from ..masking import mask
from .grant import Form, jwt_part

if TYPE_CHECKING:
    from .jose import Key

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Seconds an assertion is good for: it is used at once, and clocks differ.
ASSERTION_LIFETIME = 60


@dataclass(frozen=True, slots=True)
class Signing:
    """A request about to be signed. `audience` is who will check it, `wall_now` is Unix seconds.

    `secrets` collects what the request was signed with, so that no error message repeats it; `assertion` collects what
    a message may tell of a client assertion.
    """

    client_id: str
    credentials: Credentials
    audience: str
    wall_now: float
    algorithms: tuple[str, ...] | None
    headers: dict[str, str]
    form: Form
    secrets: list[str]
    assertion: list[str] = field(default_factory=list[str])


ClientAuth = Callable[[Signing], None]


def client_secret_post(signing: Signing) -> None:
    """Credentials in the form (RFC 6749 §2.3.1, second way)."""
    signing.form.extend([("client_id", signing.client_id), ("client_secret", _secret(signing))])


def client_secret_basic(signing: Signing) -> None:
    """Credentials in the Authorization header, each form-encoded before base64 (RFC 6749 §2.3.1)."""
    pair = base64.b64encode(f"{_encoded(signing.client_id)}:{_encoded(_secret(signing))}".encode()).decode()
    signing.secrets.append(pair)
    signing.headers["Authorization"] = f"Basic {pair}"


def _encoded(text: str) -> str:
    # A blank becomes %20 and not +: a form decoder reads both, and servers that only percent-decode read one.
    return quote(text, safe="")


def is_changed_by_basic(client_id: str, client_secret: str) -> bool:
    """Whether `client_secret_basic` sends other characters than it was given, which many servers do not decode."""
    return any(text != _encoded(text) for text in (client_id, client_secret))


def client_secret_jwt(signing: Signing) -> None:
    """An assertion signed with the secret (OpenID Connect Core §9, RFC 7523 §2.2)."""
    from .jose import shared_key

    _assert(signing, _signed(signing, shared_key(_secret(signing))))


def private_key_jwt(signing: Signing) -> None:
    """An assertion signed with the client's private key, or one that was made elsewhere (RFC 7523 §2.2)."""
    if signing.credentials.client_assertion is not None:
        assertion = read_text(signing.credentials.client_assertion, "client_assertion").strip()
        _assert(signing, assertion)
        signing.assertion.extend(_facts(jwt_part(assertion, 0), jwt_part(assertion, 1)))
        return
    from .jose import load_key

    _assert(
        signing,
        _signed(
            signing, load_key(read_key(signing.credentials.private_key), password=signing.credentials.key_password)
        ),
    )


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


TLS_METHODS = frozenset({"tls_client_auth", "self_signed_tls_client_auth"})
_SECRET_METHODS = ("client_secret_basic", "client_secret_post")


def usable_methods(credentials: Credentials) -> tuple[str, ...]:
    """The methods that the configured credential can be used by, the preferred one first."""
    if credentials.private_key is not None or credentials.client_assertion is not None:
        return ("private_key_jwt",)
    if credentials.client_secret is not None:
        return (*_SECRET_METHODS, "client_secret_jwt")
    if credentials.client_certificate is not None:
        return ("tls_client_auth", "self_signed_tls_client_auth")
    return ("none",)


def methods_to_try(
    usable: Sequence[str], supported: Sequence[str] | None, *, prefer_post: bool, derived: bool
) -> tuple[str, ...]:
    """The methods to try in turn, the likeliest first, where no setting chooses one.

    `supported` is what the server's metadata lists (RFC 8414 §2), None where nothing is known of the server. Of the two
    methods of a secret, the one that is listed goes first, and `client_secret_basic` where that leaves a choice: each
    server has to support it (RFC 6749 §2.3.1). `prefer_post` is for what Basic encodes and servers may not decode,
    `derived` for the endpoint of a gateway that publishes nothing.

    Raises `ConfigurationError` where the server lists only methods that the credential does not have.
    """
    listed = [method for method in usable if supported is None or method in supported]
    if not listed:
        raise ConfigurationError(
            "token_endpoint_auth_method",
            f"the server supports only {mask(', '.join(supported or ()), ()) or 'no method'}",
            f"The configured credential can be used by {' or '.join(usable)}: register the client for one of them, or "
            "set token_endpoint_auth_method to the one that the server takes although it does not list it.",
        )
    if listed[0] not in _SECRET_METHODS:
        return (listed[0],)
    both = all(method in listed for method in _SECRET_METHODS)
    first = "client_secret_post" if both and (prefer_post or (derived and supported is None)) else listed[0]
    return first, next(method for method in _SECRET_METHODS if method != first)


def _secret(signing: Signing) -> str:
    secret = read_text(signing.credentials.client_secret, "client_secret")
    signing.secrets.append(secret)
    return secret


def _signed(signing: Signing, key: Key) -> str:
    from .jose import sign_assertion

    now = int(signing.wall_now) - DATED_BACK
    claims: dict[str, Any] = {
        "iss": signing.client_id,
        "sub": signing.client_id,
        "aud": signing.audience,
        "iat": now,
        "exp": now + ASSERTION_LIFETIME,
        "jti": uuid.uuid4().hex,
    }
    credentials = signing.credentials
    header, assertion = sign_assertion(
        key, claims, key_id=credentials.key_id, algorithm=credentials.algorithm, supported=signing.algorithms
    )
    signing.assertion.extend(_facts(header, claims))
    return assertion


def _facts(header: Mapping[str, Any], claims: Mapping[str, Any]) -> list[str]:
    """What a message may tell of an assertion: it helps whoever registered the key, and gives nobody access."""
    said = [(name, where.get(name)) for name, where in (("alg", header), ("kid", header), ("aud", claims))]
    return [f"{name} {mask(str(value), ())}" for name, value in said if value is not None] + (
        [] if "kid" in header else ["no kid"]
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
