"""Gateways in front of authorization servers: headers that they want, and private hosts without TLS."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TokenRequestError
from conduit_oauth.settings import from_file
from tests.addresses import resolve_to
from tests.scripted_server import Asked, ScriptedServer

KEY = "gateway-key-8d1f4b"


def test_each_request_with_the_credential_has_the_headers(tmp_path: Path) -> None:
    def script(asked: Asked) -> None:
        if asked.path == "/token":
            asked.answer(
                {"access_token": "a-token", "token_type": "Bearer", "expires_in": 60}, Set_Cookie="s=1; Path=/"
            )
        else:
            asked.answer({"active": True})

    (tmp_path / "key").write_text(KEY + "\n")
    with ScriptedServer(script) as server:
        file = tmp_path / "providers.toml"
        file.write_text(
            f"""
            [providers.one]
            client_id = "me"
            client_secret = {{ file = "key" }}
            token_endpoint = "{server.url}/token"
            introspection_endpoint = "{server.url}/introspect"
            revocation_endpoint = "{server.url}/revoke"
            [providers.one.token_request_headers]
            X-Gateway-Key = {{ file = "key" }}
            """
        )
        settings = from_file(file, {}, {})[0]["one"]
        with TokenProvider(**settings) as provider:
            assert provider.get_token() == "a-token"
            assert provider.introspect()["active"]
            provider.revoke()
            assert KEY not in repr(provider.state()) + repr(provider)
    assert [(path, headers["x-gateway-key"]) for path, headers, _ in server.seen] == [
        (path, KEY) for path in ("/token", "/introspect", "/revoke")
    ]
    assert not any("cookie" in headers for _, headers, _ in server.seen)


def test_their_values_are_secrets() -> None:
    def script(asked: Asked) -> None:
        asked.answer({"error": "invalid_request", "error_description": f"bad key {asked.headers['x-key']}"}, 400)

    with (
        ScriptedServer(script) as server,
        TokenProvider(
            "me", "secret", token_endpoint=f"{server.url}/token", token_request_headers={"X-Key": KEY}
        ) as provider,
        pytest.raises(TokenRequestError) as caught,
    ):
        provider.get_token()
    assert "bad key" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["Authorization", "content-type", "Host", "X Key", "", "DPoP"])
def test_headers_of_the_protocol_are_not_theirs(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "secret", token_endpoint="https://as.example/token", token_request_headers={name: "value"})
    assert caught.value.field == "token_request_headers"


def test_a_value_that_no_header_can_have_is_refused() -> None:
    headers = {"X-Key": "one\r\ntwo"}
    settings = {"token_endpoint": "https://as.example/token", "token_request_headers": headers}
    with TokenProvider("me", "secret", **settings) as provider, pytest.raises(ConfigurationError) as caught:  # type: ignore[arg-type]
        provider.get_token()
    assert caught.value.field == "token_request_headers.X-Key"
    assert "one" not in str(caught.value)


def test_a_private_host_is_reached_without_tls_by_an_explicit_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    answer = {"access_token": "a-token", "token_type": "Bearer"}
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer(lambda asked: asked.answer(answer)))
        endpoint = f"http://as.internal:{server.port}/token"
        with pytest.raises(ConfigurationError, match="insecure_hosts"):
            TokenProvider("me", "secret", token_endpoint=endpoint)
        provider = stack.enter_context(
            TokenProvider("me", "secret", token_endpoint=endpoint, insecure_hosts=["as.internal"])
        )
        assert provider.get_token()
        # The list holds for the token, too, and for no other host.
        auth = provider.auth()
        with httpx2.Client(auth=auth, transport=httpx2.MockTransport(lambda _: httpx2.Response(200))) as client:
            assert client.get("http://as.internal/api").status_code == 200
            with pytest.raises(ConfigurationError, match=r"plain http to other\.internal"):
                client.get("http://other.internal/api")


@pytest.mark.parametrize("host", ["fd00::1", "[FD00::1]"])
def test_an_address_of_version_6_is_named_as_in_a_url_or_without_brackets(host: str) -> None:
    TokenProvider("me", "secret", token_endpoint="http://[fd00::1]:8080/token", insecure_hosts=[host]).close()


@pytest.mark.parametrize(
    "hosts",
    # What is no host would be one label alone.
    [["as.example"], ["8.8.8.8"], "as.internal", [""], ["gateway:8080"], [5], ["[fd00::1]:8080"], ["http://gateway"]],
)
def test_no_public_host_is_reached_without_tls(hosts: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "secret", token_endpoint="https://as.example/token", insecure_hosts=hosts)
    assert caught.value.field == "insecure_hosts"
