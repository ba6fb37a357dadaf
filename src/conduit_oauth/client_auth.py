"""How the client proves who it is at the token endpoint (RFC 6749 §2.3).

A method is a function that signs one request: it is given the headers and the form, and adds its part.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from urllib.parse import quote_plus

from .errors import ConfigurationError

Form = list[tuple[str, str]]
ClientAuth = Callable[[dict[str, str], Form], None]


def client_secret_post(client_id: str, client_secret: str) -> ClientAuth:
    """Credentials in the form (RFC 6749 §2.3.1, second way)."""

    def sign(headers: dict[str, str], form: Form) -> None:
        form += [("client_id", client_id), ("client_secret", client_secret)]

    return sign


def client_secret_basic(client_id: str, client_secret: str) -> ClientAuth:
    """Credentials in the Authorization header, each form-encoded before base64 (RFC 6749 §2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"

    def sign(headers: dict[str, str], form: Form) -> None:
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    return sign


METHODS: dict[str, Callable[[str, str], ClientAuth]] = {
    "client_secret_basic": client_secret_basic,
    "client_secret_post": client_secret_post,
}


def choose_method(supported: Sequence[str]) -> str:
    """The first of ours that the server's `token_endpoint_auth_methods_supported` lists (RFC 8414 §2)."""
    for method in METHODS:
        if method in supported:
            return method
    raise ConfigurationError(
        "token_endpoint_auth_method",
        f"the server supports only {', '.join(supported) or 'no method'}",
        f"This client can use {' or '.join(METHODS)}: register it for one of them.",
    )
