"""`oidc-provider`, a certified authorization server, accepts what we send and refuses what it should."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from conduit_oauth import TokenProvider, TokenRequestError
from tests.conftest import COMMAND
from tests.interop.conformance import HERE, NODE
from tests.resource_server import ResourceServer

SECRET = "a secret of more than 32 characters: &=+%/"
KEYS = {
    "RS256": RSAKey.generate_key(2048),
    "PS256": RSAKey.generate_key(2048),
    "ES256": ECKey.generate_key("P-256"),
    "ES384": ECKey.generate_key("P-384"),
    "ES512": ECKey.generate_key("P-521"),
    "Ed25519": OKPKey.generate_key("Ed25519"),
}
SECRET_METHODS = ("client_secret_basic", "client_secret_post", "client_secret_jwt")
CLIENTS: list[dict[str, Any]] = [
    *(
        {"client_id": method, "client_secret": SECRET, "token_endpoint_auth_method": method}
        for method in SECRET_METHODS
    ),
    *(
        {
            "client_id": algorithm,
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": algorithm,
            "jwks": {"keys": [key.as_dict(private=False)]},
        }
        for algorithm, key in KEYS.items()
    ),
]


class OidcProvider:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._log = process.stdout
        self.issuer = self._log.readline().strip()

    def next_request(self) -> dict[str, Any]:
        """The next line of the server's log of token requests."""
        return json.loads(self._log.readline())


@contextmanager
def running(**settings: Any) -> Iterator[OidcProvider]:
    command = [NODE, HERE / "oidc_provider.mjs", json.dumps({"clients": CLIENTS, **settings})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        try:
            yield OidcProvider(process)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server() -> Iterator[OidcProvider]:
    with running(requireNonce=False) as provider:
        yield provider


@pytest.fixture(scope="module")
def nonce_server() -> Iterator[OidcProvider]:
    with running(requireNonce=True) as provider:
        yield provider


def pem(algorithm: str) -> str:
    return KEYS[algorithm].as_pem(private=True).decode()


@pytest.mark.parametrize("method", SECRET_METHODS)
def test_each_method_of_a_secret(method: str, server: OidcProvider) -> None:
    with TokenProvider(method, SECRET, issuer=server.issuer, token_endpoint_auth_method=method, scope="read") as client:
        assert client.get_token()
        assert client.state().granted_scope == "read"
    assert server.next_request() == {"client_id": method, "method": method, "dpop": False, "bound": False}


@pytest.mark.parametrize("algorithm", KEYS)
def test_private_key_jwt_by_each_algorithm(algorithm: str, server: OidcProvider) -> None:
    settings: dict[str, Any] = {"private_key": pem(algorithm), "signing_algorithm": algorithm}
    with TokenProvider(algorithm, issuer=server.issuer, **settings) as client:
        first = client.get_token()
        server.next_request()
        client.invalidate()
        # A fresh jti: the server remembers the one before.
        assert client.get_token() != first
    assert server.next_request()["method"] == "private_key_jwt"


def assertion(issuer: str, key: Any = KEYS["ES256"], **claims: Any) -> str:
    now = int(time.time())
    standard = {"iss": "ES256", "sub": "ES256", "aud": issuer, "iat": now, "exp": now + 60, "jti": "one"}
    return jwt.encode({"alg": "ES256"}, {**standard, **claims}, key)


def test_an_assertion_made_elsewhere(server: OidcProvider) -> None:
    def make() -> str:
        return assertion(server.issuer, jti="elsewhere")

    with TokenProvider("ES256", issuer=server.issuer, client_assertion=make) as client:
        assert client.get_token()
    assert server.next_request()["client_id"] == "ES256"


REFUSED: dict[str, Callable[[str], str]] = {
    "wrong key": lambda issuer: assertion(issuer, ECKey.generate_key("P-256"), jti="wrong-key"),
    "expired": lambda issuer: assertion(issuer, exp=int(time.time()) - 60, jti="expired"),
    "another audience": lambda _: assertion("https://evil.example", jti="audience"),
    "no jti": lambda issuer: assertion(issuer, jti=None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_assertion_is_refused_and_comes_back_typed(case: str, server: OidcProvider) -> None:
    bad = REFUSED[case](server.issuer)
    with (
        TokenProvider("ES256", issuer=server.issuer, client_assertion=bad) as client,
        pytest.raises(TokenRequestError) as caught,
    ):
        client.get_token()
    assert (caught.value.error, caught.value.retryable) == ("invalid_client", False)
    assert bad not in str(caught.value)
    assert server.next_request()["error"] == "invalid_client"


def test_a_replayed_assertion_is_refused_and_comes_back_typed(server: OidcProvider) -> None:
    replayed = assertion(server.issuer, jti="replayed")
    with TokenProvider("ES256", issuer=server.issuer, client_assertion=replayed) as client:
        assert client.get_token()
        assert "error" not in server.next_request()
        client.invalidate()
        with pytest.raises(TokenRequestError) as caught:
            client.get_token()
    assert caught.value.error == "invalid_client"
    assert server.next_request()["error"] == "invalid_client"


def test_a_wrong_secret_is_refused_and_comes_back_typed(server: OidcProvider) -> None:
    with (
        TokenProvider("client_secret_basic", "wrong", issuer=server.issuer) as client,
        pytest.raises(TokenRequestError) as caught,
    ):
        client.get_token()
    assert caught.value.error == "invalid_client"
    # By the one method and by the other.
    assert [server.next_request()["error"] for _ in range(2)] == ["invalid_client"] * 2


@pytest.mark.parametrize("key", [True, pem("Ed25519")], ids=["made here", "configured"])
def test_dpop_binds_the_token(key: Any, server: OidcProvider) -> None:
    with TokenProvider("client_secret_basic", SECRET, issuer=server.issuer, dpop=key) as client:
        assert client.get_token()
    request = server.next_request()
    assert request["dpop"]
    assert request["bound"]


def test_one_request_of_the_command_line_with_a_bound_token(
    server: OidcProvider, resource_server: ResourceServer, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "dpop.pem").write_text(pem("Ed25519"))
    (tmp_path / "config.toml").write_text(
        f"""
        [profiles.default]
        client_id = "client_secret_basic"
        client_secret = {{ file = "secret" }}
        issuer = "{server.issuer}"
        dpop = {{ file = "dpop.pem" }}
        store = "memory:"
        """
    )
    command = [COMMAND, "request", "GET", f"{resource_server.url}/echo", "--config", tmp_path / "config.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert server.next_request()["bound"]
    (request,) = resource_server.requests
    token = request["authorization"].removeprefix("DPoP ")
    proof = jwt.decode(request["dpop"], KEYS["Ed25519"], algorithms=["Ed25519"]).claims
    digest = hashlib.sha256(token.encode()).digest()
    assert (proof["htm"], proof["htu"]) == ("GET", f"{resource_server.url}/echo")
    assert proof["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_the_authorization_servers_nonce_is_answered(nonce_server: OidcProvider) -> None:
    with TokenProvider("ES256", issuer=nonce_server.issuer, private_key=pem("ES256"), dpop=True) as client:
        assert client.get_token()
        assert nonce_server.next_request()["error"] == "use_dpop_nonce"
        assert nonce_server.next_request()["bound"]
        client.invalidate()
        assert client.get_token()
        # The nonce is known now.
        assert nonce_server.next_request()["bound"]
