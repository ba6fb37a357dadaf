from __future__ import annotations

import base64

import pytest

from conduit_oauth import ConfigurationError, TokenRequestError
from conduit_oauth.client_auth import choose_method, client_secret_basic
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider

AWKWARD = ("client:with colon", "s3cr%t&=+ \u00e4/?")


def test_basic_encodes_both_parts_before_base64() -> None:
    headers: dict[str, str] = {}
    client_secret_basic(*AWKWARD)(headers, [])
    pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "client%3Awith+colon:s3cr%25t%26%3D%2B+%C3%A4%2F%3F"


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_strict_server_accepts_awkward_credentials(
    method: str, authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    client_id, client_secret = AWKWARD
    authorization_server.add_client(client_id, client_secret)
    provider = make_provider(client_id=client_id, client_secret=client_secret, token_endpoint_auth_method=method)
    assert provider.get_token()
    (request,) = authorization_server.token_requests
    assert request["method"] == method


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_wrong_secret_is_refused_by_either_method(method: str, make_provider: MakeProvider) -> None:
    with pytest.raises(TokenRequestError) as caught:
        make_provider(client_secret="wrong", token_endpoint_auth_method=method).get_token()
    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)


def test_post_is_the_default_where_nothing_is_known(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    make_provider(mcp_url=authorization_server.mcp_url(), discovery=False).get_token()
    assert authorization_server.token_requests[0]["method"] == "client_secret_post"


def test_the_issuers_metadata_chooses(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    make_provider(issuer=authorization_server.issuer()).get_token()
    assert authorization_server.token_requests[0]["method"] == "client_secret_basic"


def test_a_server_that_supports_no_method_of_ours_is_named() -> None:
    assert choose_method(["private_key_jwt", "client_secret_post"]) == "client_secret_post"
    with pytest.raises(ConfigurationError, match="private_key_jwt"):
        choose_method(["private_key_jwt"])
