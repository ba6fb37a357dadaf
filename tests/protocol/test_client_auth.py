from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from conduit_oauth import ConfigurationError, TokenProvider, TokenRequestError
from conduit_oauth.clock import DATED_BACK
from conduit_oauth.identity.credentials import Credentials
from conduit_oauth.identity.tls import ClientCertificate
from conduit_oauth.protocol.client_auth import METHODS, Signing, methods_to_try, usable_methods
from conduit_oauth.protocol.jose import Algorithms
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider

AWKWARD = ("client:with colon", "s3cr%t&=+ \u00e4/?")


def sign(method: str, credentials: Credentials, **changes: Any) -> Signing:
    settings: dict[str, Any] = {"algorithms": None, "client_id": "me", **changes}
    signing = Signing(
        credentials=credentials,
        audience="https://as.example",
        wall_now=1e9,
        headers={},
        form=[],
        secrets=[],
        **settings,
    )
    METHODS[method](signing)
    return signing


def test_basic_encodes_both_parts_before_base64() -> None:
    signing = sign("client_secret_basic", Credentials(AWKWARD[1]), client_id=AWKWARD[0])
    pair = base64.b64decode(signing.headers["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "client%3Awith%20colon:s3cr%25t%26%3D%2B%20%C3%A4%2F%3F"
    assert signing.form == []


KEYS = {
    "RS256": RSAKey.generate_key(2048),
    "ES256": ECKey.generate_key("P-256"),
    "ES384": ECKey.generate_key("P-384"),
    "ES512": ECKey.generate_key("P-521"),
    "Ed25519": OKPKey.generate_key("Ed25519"),
}


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("form", ["pem", "jwk", "json", "file", "callable"])
def test_a_key_of_any_kind_and_form_signs_a_fresh_assertion(algorithm: str, form: str, tmp_path: Path) -> None:
    key = KEYS[algorithm]
    pem, jwk = key.as_pem(private=True).decode(), dict(key.as_dict(private=True))
    file = tmp_path / "key.pem"
    file.write_text(pem)
    source: Any = {"pem": pem, "jwk": jwk, "json": json.dumps(jwk), "file": file, "callable": lambda: pem}[form]
    credentials = Credentials(private_key=source, key_id="key-1")
    first, second = (dict(sign("private_key_jwt", credentials).form) for _ in range(2))
    assert first["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    name = "EdDSA" if algorithm == "Ed25519" else algorithm
    token = jwt.decode(first["client_assertion"], key, registry=Algorithms(algorithms=[name]))
    assert (token.header["alg"], token.header["kid"]) == (name, "key-1")
    assert (
        token.claims.items()
        >= {"iss": "me", "sub": "me", "aud": "https://as.example", "iat": 10**9 - DATED_BACK}.items()
    )
    assert token.claims["exp"] == token.claims["iat"] + 60
    again = jwt.decode(second["client_assertion"], key, registry=Algorithms(algorithms=[name]))
    assert again.claims["jti"] != token.claims["jti"]


def test_the_algorithm_is_the_one_chosen_or_the_first_in_common() -> None:
    def algorithm(supported: tuple[str, ...] | None, chosen: str | None = None) -> str:
        credentials = Credentials(private_key=KEYS["RS256"].as_pem(private=True).decode(), algorithm=chosen)
        form = dict(sign("private_key_jwt", credentials, algorithms=supported).form)
        return jws.extract_compact(form["client_assertion"].encode()).headers()["alg"]

    assert algorithm(None) == "RS256"
    assert algorithm(("ES256", "PS256")) == "PS256"
    assert algorithm(("RS256",), "PS512") == "PS512"
    with pytest.raises(ConfigurationError) as caught:
        algorithm(("ES256",))
    assert caught.value.field == "signing_algorithm"
    with pytest.raises(ConfigurationError):
        algorithm(None, "none")


@pytest.mark.parametrize(
    "material",
    [
        "nonsense",
        "{}",
        '{"kty": ' + "[" * 100_000,
        '{"kty": "RSA"}',
        {"kty": "oct"},
        KEYS["ES256"].as_pem(private=False).decode(),
        dict(KEYS["RS256"].as_dict(private=False)),
        "-----BEGIN PRIVATE KEY-----\nvery-secret\n-----END PRIVATE KEY-----",
    ],
)
def test_what_is_no_private_key_is_refused_without_being_quoted(material: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sign("private_key_jwt", Credentials(private_key=material))
    assert caught.value.field == "private_key"
    assert "very-secret" not in str(caught.value)


def test_an_assertion_made_elsewhere_is_read_anew_at_each_use(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for content in ("first", "second"):
        file.write_text(f"{content}\n")
        form = dict(sign("private_key_jwt", Credentials(client_assertion=file)).form)
        assert form["client_assertion"] == content
    file.unlink()
    with pytest.raises(ConfigurationError) as caught:
        sign("private_key_jwt", Credentials(client_assertion=file))
    assert caught.value.field == "client_assertion"


def test_what_a_message_may_tell_of_an_assertion() -> None:
    pem = KEYS["ES256"].as_pem(private=True).decode()
    assert sign("private_key_jwt", Credentials(private_key=pem, key_id="key-1")).assertion == [
        "alg ES256",
        "kid key-1",
        "aud https://as.example",
    ]
    foreign = jwt.encode({"alg": "ES256"}, {"aud": "https://other.example"}, KEYS["ES256"])
    told = sign("private_key_jwt", Credentials(client_assertion=lambda: foreign)).assertion
    assert told == ["alg ES256", "aud https://other.example", "no kid"]


CERTIFICATE = ClientCertificate(Path("cert.pem"), Path("key.pem"))


@pytest.mark.parametrize(
    ("credentials", "methods"),
    [
        (Credentials("secret"), ("client_secret_basic", "client_secret_post", "client_secret_jwt")),
        (Credentials(private_key="key"), ("private_key_jwt",)),
        (Credentials(client_assertion="assertion"), ("private_key_jwt",)),
        (
            Credentials(client_certificate=ClientCertificate(Path("cert.pem"), Path("key.pem"))),
            ("tls_client_auth", "self_signed_tls_client_auth"),
        ),
        (Credentials(), ("none",)),
    ],
)
def test_the_methods_that_a_credential_can_be_used_by(credentials: Credentials, methods: tuple[str, ...]) -> None:
    assert usable_methods(credentials) == methods


def test_a_secret_that_changes_on_disk_is_in_the_next_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("demo-secret\n")
    provider = make_provider(client_secret=file)
    provider.get_token()
    file.write_text("rotated\n")
    authorization_server.add_client("demo", "rotated")
    provider.invalidate()
    assert provider.get_token()


def test_a_client_without_a_credential_only_says_who_it_is() -> None:
    signing = sign("none", Credentials())
    assert (signing.headers, signing.form) == ({}, [("client_id", "me")])


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("client_secret", {}),
        ("private_key", {"client_secret": "a", "private_key": "b"}),
        ("client_assertion", {"private_key": "a", "client_assertion": "b"}),
        ("private_key", {"private_key": ""}),
        ("client_assertion", {"client_assertion": 5}),
        ("subject_token", {"assertion": "a", "subject_token": "b"}),
        ("assertion", {"assertion": " "}),
        ("token_endpoint_auth_method", {"client_secret": "a", "token_endpoint_auth_method": "private_key_jwt"}),
        ("token_endpoint_auth_method", {"private_key": "a", "token_endpoint_auth_method": "client_secret_post"}),
        ("token_endpoint_auth_method", {"client_secret": "a", "token_endpoint_auth_method": "none"}),
    ],
)
def test_one_credential_that_goes_with_the_method(field: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", token_endpoint="https://as.example/token", **settings)
    assert caught.value.field == field


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


BASIC, POST = "client_secret_basic", "client_secret_post"


@pytest.mark.parametrize(
    ("supported", "prefer_post", "derived", "expected"),
    [
        (None, False, False, (BASIC, POST)),
        (None, False, True, (POST, BASIC)),
        (None, True, False, (POST, BASIC)),
        ([BASIC], False, False, (BASIC, POST)),
        ([POST], False, False, (POST, BASIC)),
        ([POST, BASIC], False, False, (BASIC, POST)),
        ([POST, BASIC], True, False, (POST, BASIC)),
        # What the server does not list is no better for being easier to decode.
        ([BASIC], True, False, (BASIC, POST)),
        (["private_key_jwt", POST], False, False, (POST, BASIC)),
        (["client_secret_jwt"], False, False, ("client_secret_jwt",)),
    ],
)
def test_the_likelier_method_of_a_secret_goes_first(
    supported: list[str] | None, prefer_post: bool, derived: bool, expected: tuple[str, ...]
) -> None:
    secret = (BASIC, POST, "client_secret_jwt")
    assert methods_to_try(secret, supported, prefer_post=prefer_post, derived=derived) == expected


def test_other_credentials_have_one_method_and_what_the_server_lists_instead_is_named() -> None:
    settings = {"prefer_post": False, "derived": False}
    assert methods_to_try(("private_key_jwt",), None, **settings) == ("private_key_jwt",)
    assert methods_to_try(("tls_client_auth", "self_signed_tls_client_auth"), None, **settings) == ("tls_client_auth",)
    assert methods_to_try(
        ("tls_client_auth", "self_signed_tls_client_auth"), ["self_signed_tls_client_auth"], **settings
    ) == ("self_signed_tls_client_auth",)
    with pytest.raises(ConfigurationError) as caught:
        methods_to_try((BASIC, POST), ["private_key_jwt"], **settings)
    assert "supports only private_key_jwt" in str(caught.value)
    assert "set token_endpoint_auth_method" in str(caught.value)
