"""Which form each grant sends, read off a real HTTP client."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TokenRequestError


class Server:
    """Grants everything, or refuses as told; keeps the forms."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[str | None] = []
        self.refusal: dict[str, str] | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.forms.append(dict(parse_qsl(request.content.decode())))
        self.authorizations.append(request.headers.get("authorization"))
        if self.refusal is not None:
            return httpx2.Response(400, json=self.refusal)
        token = {"access_token": f"token-{len(self.forms)}", "token_type": "Bearer", "expires_in": 60}
        return httpx2.Response(200, json=token)

    def provider(self, **options: Any) -> TokenProvider:
        transport = httpx2.MockTransport(self)
        return TokenProvider("me", token_endpoint="https://as.example/token", transport=transport, **options)


def test_the_jwt_bearer_grant_reads_its_assertion_anew_for_each_request(tmp_path: Path) -> None:
    server, file = Server(), tmp_path / "workload.jwt"
    with server.provider(assertion=file, scope="a") as provider:
        for content in ("first", "second"):
            file.write_text(f"{content}\n")
            provider.invalidate()
            provider.get_token()
    assert server.forms[0] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "first",
        "scope": "a",
        "client_id": "me",
    }
    assert server.forms[1]["assertion"] == "second"


def test_the_jwt_bearer_grant_goes_with_client_authentication() -> None:
    server = Server()
    with server.provider(client_secret="secret", assertion=lambda: "made-now") as provider:
        provider.get_token()
    assert server.forms[0]["assertion"] == "made-now"
    assert server.authorizations[0] == "Basic bWU6c2VjcmV0"


def test_token_exchange_acts_for_the_caller() -> None:
    server = Server()
    with server.provider(client_secret="secret", subject_token="callers-token", audience="backend") as provider:
        provider.get_token()
    assert server.forms[0] == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "callers-token",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "backend",
    }
    assert server.authorizations[0] == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize("name", ["assertion", "subject_token"])
def test_a_refused_grant_is_not_repeated_and_its_material_not_quoted(name: str) -> None:
    server = Server()
    server.refusal = {"error": "invalid_grant", "error_description": "very-secret-jwt has expired"}
    with server.provider(**{name: "very-secret-jwt"}) as provider:
        for _ in range(3):
            with pytest.raises(TokenRequestError) as caught:
                provider.get_token()
            assert "very-secret-jwt" not in str(caught.value)
    assert len(server.forms) == 1


def test_an_extra_parameter_that_is_secret_is_not_quoted_and_another_is() -> None:
    server = Server()
    said = "api_key sk-12-ab is unknown at https://api.example for urn:example:one"
    server.refusal = {"error": "invalid_request", "error_description": said}
    extra = {"api_key": "sk-12-ab", "tenant": "https://api.example", "requested_token_type": "urn:example:one"}
    with server.provider(client_secret="secret", extra_parameters=extra) as provider:
        with pytest.raises(TokenRequestError) as caught:
            provider.get_token()
        assert "api_key *** is unknown at https://api.example for urn:example:one" in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with Server().provider(assertion=Path("/absent/token")) as provider, pytest.raises(ConfigurationError) as caught:
        provider.get_token()
    assert caught.value.field == "assertion"
