"""Metadata by the letter: which answers are documents, for how long they hold, and what they may name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conduit_oauth import DiscoveryError
from conduit_oauth.protocol.http import Response
from conduit_oauth.protocol.metadata import (
    SERVER_STEP,
    Document,
    judge_resource,
    judge_server,
    read_document,
    redirected,
    same_issuer,
)

ISSUER = "https://as.example"
URL = f"{ISSUER}/.well-known/oauth-authorization-server"
BODY: dict[str, Any] = {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"}
API = "https://api.example/mcp"


def read(status: int = 200, body: object = BODY, **headers: str) -> tuple[Document | None, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_document(SERVER_STEP, URL, Response(status, named, json.dumps(body).encode()), "issuer")


def server(**members: object) -> Any:
    return judge_server(ISSUER, Document(URL, BODY | members, 60.0))


def resource(url: str, **members: object) -> Any:
    return judge_resource(url, Document(f"{API}/x", {"resource": API} | members, 60.0))


@pytest.mark.parametrize("status", [429, 500, 503, 599])
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    with pytest.raises(DiscoveryError, match=f"answered {status}") as caught:
        read(status)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (300, "300, redirects to nowhere"),
        (399, "399, redirects to nowhere"),
        (400, "400"),
        (404, "404"),
        (299, "299"),
        (201, "201"),
        (428, "428"),
        (499, "499"),
    ],
)
def test_other_answers_are_no_documents(status: int, outcome: str) -> None:
    assert read(status) == (None, outcome)


def test_a_redirect_is_named() -> None:
    assert read(302, location="https://new.example/")[1] == "302, redirects to https://new.example/"


def test_a_document_has_its_owner_in_it() -> None:
    assert read(body={"token_endpoint": "x"}) == (None, "no issuer in it")
    assert read(body=["issuer"]) == (None, "not JSON")
    assert read()[1] == "found"


@pytest.mark.parametrize(
    ("said", "lifetime"),
    [
        ("", 3600.0),
        ("no-store", 3600.0),
        ("max-age=0", 60.0),
        ("max-age=60", 60.0),
        ("public, MAX-AGE = 7200", 7200.0),
        ("max-age=86400", 86_400.0),
        ("max-age=999999999", 86_400.0),
        # Only its beginning is looked at.
        ("private, " * 2000 + "max-age=7200", 3600.0),
        ("s-maxage=120", 3600.0),
    ],
)
def test_a_document_holds_for_as_long_as_it_says_from_a_minute_to_a_day(said: str, lifetime: float) -> None:
    document, _ = read(cache_control=said)
    assert document is not None
    assert document.lifetime == lifetime


@pytest.mark.parametrize(
    ("status", "location", "target"),
    [
        *((status, "/other", f"{ISSUER}/other") for status in (301, 302, 303, 307, 308)),
        *((status, "/other", None) for status in (200, 300, 304, 305, 306, 309)),
        (302, "", None),
        (302, None, None),
        (302, f"{ISSUER}:443/other#part", f"{ISSUER}:443/other"),
        (302, "https://other.example/", None),
        (302, "http://as.example/", None),
        (302, "https://[", None),
        (302, "https://user@as.example/", None),
    ],
)
def test_where_a_redirect_may_lead(status: int, location: str | None, target: str | None) -> None:
    headers = {} if location is None else {"location": location}
    assert redirected(URL, Response(status, headers, b"")) == target


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ISSUER, ISSUER, True),
        (ISSUER, f"{ISSUER}/", True),
        (f"{ISSUER}/", ISSUER, True),
        (f"{ISSUER}/a", f"{ISSUER}/a/", False),
        (f"{ISSUER}/a/", f"{ISSUER}/a", False),
        (ISSUER, "https://other.example", False),
        (ISSUER, "https://other.example/", False),
        (f"{ISSUER}/a", f"{ISSUER}/a", True),
    ],
)
def test_when_two_issuers_are_the_same(one: str, other: str, same: bool) -> None:
    assert same_issuer(one, other) is same


def test_what_a_server_leaves_out() -> None:
    found = server()
    assert found.scopes == ()
    assert found.dpop_algorithms is None
    assert found.methods_at("revocation_endpoint") == ("client_secret_basic",)
    assert found.algorithms_at("token_endpoint") is None
    assert found.endpoint("jwks_uri", mtls=False) is None


def test_what_a_server_says() -> None:
    found = server(
        scopes_supported=["read", 7, "write"],
        dpop_signing_alg_values_supported=[],
        token_endpoint_auth_methods_supported=["private_key_jwt"],
        revocation_endpoint_auth_methods_supported=["client_secret_post"],
        token_endpoint_auth_signing_alg_values_supported=["ES256"],
        introspection_endpoint_auth_signing_alg_values_supported="ES384",
        introspection_endpoint=f"{ISSUER}/introspect",
        revocation_endpoint=None,
        jwks_uri=f"{ISSUER}/jwks",
    )
    assert found.scopes == ("read", "write")
    assert found.dpop_algorithms == ()
    assert found.methods_at("token_endpoint") == found.methods_at("introspection_endpoint") == ("private_key_jwt",)
    assert found.methods_at("revocation_endpoint") == ("client_secret_post",)
    assert found.algorithms_at("token_endpoint") == found.algorithms_at("revocation_endpoint") == ("ES256",)
    assert found.algorithms_at("introspection_endpoint") == ()
    assert found.endpoints == {
        "token_endpoint": f"{ISSUER}/token",
        "introspection_endpoint": f"{ISSUER}/introspect",
        "jwks_uri": f"{ISSUER}/jwks",
    }


def test_a_client_with_a_certificate_goes_to_the_alias() -> None:
    alias = {"token_endpoint": "https://mtls.as.example/token"}
    found = server(mtls_endpoint_aliases=alias, revocation_endpoint=f"{ISSUER}/revoke")
    assert found.endpoint("token_endpoint", mtls=True) == "https://mtls.as.example/token"
    assert found.endpoint("token_endpoint", mtls=False) == f"{ISSUER}/token"
    assert found.endpoint("revocation_endpoint", mtls=True) == f"{ISSUER}/revoke"
    assert server(mtls_endpoint_aliases=["x"]).mtls_endpoint_aliases == {}


@pytest.mark.parametrize("endpoint", [None, 7, "http://as.example/token", "https://10.0.0.1/token", "https://db/token"])
def test_an_endpoint_that_must_not_get_a_credential(endpoint: object) -> None:
    with pytest.raises(DiscoveryError):
        server(token_endpoint=endpoint)


def test_within_a_private_network_metadata_leads_to_private_hosts() -> None:
    location = "http://127.0.0.1:1/.well-known/oauth-authorization-server"
    body = {"issuer": ISSUER, "token_endpoint": "https://10.0.0.1/token"}
    assert judge_server(ISSUER, Document(location, body, 60.0)).token_endpoint == "https://10.0.0.1/token"


@pytest.mark.parametrize(
    ("named", "advice"),
    [
        (f"{ISSUER}/a", "Both must be the same to the letter (RFC 8414 §3.3). If https://as.example/a is the issuer"),
        (7, "names another issuer, no text"),
        (None, "names another issuer, no text"),
    ],
)
def test_another_issuer_is_not_believed(named: object, advice: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        server(issuer=named)
    assert advice in str(caught.value)
    assert caught.value.cause == "issuer-mismatch"


def test_an_issuer_that_differs_by_its_slash_is_told_so() -> None:
    document = Document(URL, BODY | {"issuer": f"{ISSUER}/a/"}, 60.0)
    with pytest.raises(DiscoveryError, match="Only the slash at the end differs"):
        judge_server(f"{ISSUER}/a", document)


@pytest.mark.parametrize("url", [API, f"{API}/", f"{API}/deeper", f"{API}?tenant=1", "https://api.example:443/mcp"])
def test_a_resource_covers_what_is_below_it(url: str) -> None:
    assert resource(url).resource == API


@pytest.mark.parametrize(
    "url", [f"{API}x", "https://api.example/", "https://other.example/mcp", "http://api.example/mcp"]
)
def test_a_resource_covers_nothing_beside_it(url: str) -> None:
    with pytest.raises(DiscoveryError, match="describes another resource"):
        resource(url)


def test_the_resource_of_an_origin_covers_all_of_it() -> None:
    assert resource(API, resource="https://api.example/").resource == "https://api.example/"


def test_what_a_resource_says() -> None:
    found = resource(API, authorization_servers=[ISSUER, ISSUER, None, "https://b.example"], scopes_supported=["read"])
    assert found.authorization_servers == (ISSUER, "https://b.example")
    assert found.scopes == ("read",)
    assert (found.dpop_algorithms, found.dpop_required) == (None, False)
    bound = resource(API, dpop_bound_access_tokens_required=True, dpop_signing_alg_values_supported=["ES256"])
    assert (bound.authorization_servers, bound.scopes) == ((), ())
    assert (bound.dpop_algorithms, bound.dpop_required) == (("ES256",), True)
    assert not resource(API, dpop_bound_access_tokens_required="true").dpop_required


@pytest.mark.parametrize("named", [None, 7, "no URL"])
def test_a_resource_that_is_no_url_describes_nothing(named: object) -> None:
    with pytest.raises(DiscoveryError, match="has a bad resource"):
        resource(API, resource=named)
