"""Private keys as people have them: encrypted, with a mark at their beginning, beside a password in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conduit_oauth import ConfigurationError, TokenProvider
from tests.certificates import issue
from tests.scripted_server import Asked, ScriptedServer

PASSWORD = "key-password-77"


def encrypted(key: ec.EllipticCurvePrivateKey) -> bytes:
    protection = serialization.BestAvailableEncryption(PASSWORD.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    _, made = issue(tmp_path, "client")
    path = tmp_path / "encrypted.pem"
    # As PowerShell writes it.
    path.write_bytes(b"\xef\xbb\xbf" + encrypted(made))
    return path


def token(asked: Asked) -> None:
    asked.answer({"access_token": "a-token", "token_type": (asked.headers.get("dpop") and "DPoP") or "Bearer"})


def test_an_encrypted_key_is_opened_by_its_password(key: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    with ScriptedServer(token) as server:
        for password in (PASSWORD, tmp_path / "password", lambda: PASSWORD):
            settings: dict[str, Any] = {"token_endpoint": f"{server.url}/token", "private_key_password": password}
            with TokenProvider("me", private_key=key, **settings) as provider:
                assert provider.get_token() == "a-token"
            with TokenProvider("me", "secret", dpop=key, **settings) as provider:
                assert provider.get_token() == "a-token"
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("password", "field", "words"),
    [
        (None, "private_key", "is encrypted"),
        ("another", "private_key_password", "does not open private_key"),
        (Path("/absent"), "private_key_password", "cannot be read"),
    ],
)
def test_what_keeps_it_closed_is_said(password: Any, field: str, words: str, key: Path) -> None:
    settings: dict[str, Any] = {"token_endpoint": "https://as.example/token", "private_key_password": password}
    with TokenProvider("me", private_key=key, **settings) as provider, pytest.raises(ConfigurationError) as caught:
        provider.get_token()
    assert (caught.value.field, words in str(caught.value)) == (field, True)
    assert "another" not in str(caught.value)


def test_the_key_of_a_certificate_may_be_encrypted(tmp_path: Path) -> None:
    _, made = issue(tmp_path, "client")
    (tmp_path / "closed.pem").write_bytes(encrypted(made))
    pair = tmp_path / "client.pem", tmp_path / "closed.pem"
    settings: dict[str, Any] = {"token_endpoint": "https://as.example/token", "client_certificate": pair}
    with TokenProvider("me", private_key_password=PASSWORD, **settings) as provider:
        assert provider.tls_context() is not None
    with pytest.raises(ConfigurationError, match=r"closed\.pem is encrypted"):
        TokenProvider("me", **settings)
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", private_key_password="another", **settings)
    assert caught.value.field == "client_certificate"
