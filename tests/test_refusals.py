"""Each refusal in its own words: what was sent, what the server publishes, and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conduit_oauth import InvalidTokenResponse, TokenRequestError
from conduit_oauth.errors import OAuthError
from conduit_oauth.protocol.grant import judge_revocation, judge_token_response
from conduit_oauth.protocol.http import Response
from conduit_oauth.refusals import Asked, is_refused_client
from conduit_oauth.token_types import ACCESS_TOKEN_TYPE

URL = "https://as.example/token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
BASIC = Asked(tried=("client_secret_basic",), published=("client_secret_basic", "private_key_jwt"))
SIGNED = Asked(tried=("private_key_jwt",), assertion="alg ES256, kid 7, aud https://as.example")


def refused(
    asked: Asked, body: Any = None, status: int = 400, token_type: str = "Bearer", **headers: str
) -> OAuthError:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(OAuthError) as caught:
        judge_token_response(
            URL, Response(status, named, content), secrets=[], wall_now=0.0, token_type=token_type, asked=asked
        )
    return caught.value


CASES: dict[str, tuple[OAuthError, str, list[str], list[str]]] = {
    "no body": (
        refused(BASIC, status=403),
        "refused-without-reason",
        [
            "gave no reason",
            "by client_secret_basic; the server publishes client_secret_basic, private_key_jwt",
            "no scope",
        ],
        [],
    ),
    "no body, for an assertion": (
        refused(SIGNED, status=403),
        "refused-without-reason",
        ["alg ES256, kid 7, aud https://as.example"],
        ["secret"],
    ),
    "no body, with a scope": (
        refused(Asked(scope="read"), status=403),
        "refused-without-reason",
        ["scope read"],
        ["no scope"],
    ),
    "a grant that the server lacks": (
        refused(Asked(grant_type=EXCHANGE), {"error": "unsupported_grant_type"}),
        "grant-unknown",
        [EXCHANGE],
        ["client_credentials"],
    ),
    "a grant that the client may not use": (
        refused(Asked(), {"error": "unauthorized_client"}),
        "grant-not-allowed",
        ["grant client_credentials"],
        [],
    ),
    "an unknown client": (
        refused(BASIC, {"error": "invalid_client"}, 401),
        "client-refused",
        ["client_id and client_secret", "by client_secret_basic"],
        ["assertion"],
    ),
    "an assertion": (
        refused(SIGNED, {"error": "invalid_client"}, 401),
        "assertion-refused",
        ["public key", "kid 7", "alg ES256", "aud https://as.example", "assertion_audience", "clocks"],
        ["secret"],
    ),
    "a certificate": (
        refused(Asked(tried=("tls_client_auth",)), {"error": "invalid_client"}, 401),
        "certificate-refused",
        ["certificate"],
        ["secret"],
    ),
    "a proof": (refused(Asked(dpop=True), {"error": "invalid_dpop_proof"}), "proof-refused", ["clock"], ["Set dpop"]),
    "no proof": (
        refused(Asked(), {"error": "invalid_dpop_proof"}),
        "proof-wanted",
        ["Set dpop=True (--dpop)"],
        ["clock"],
    ),
    "a subject token": (
        refused(Asked(grant_type=EXCHANGE), {"error": "invalid_request"}),
        "subject-token-refused",
        ["subject token"],
        [],
    ),
    "a scope": (
        refused(Asked(scope="admin", scopes_supported=("read", "write")), {"error": "invalid_scope"}),
        "scope-refused",
        ["asked for admin", "supports read write"],
        [],
    ),
    "no scope": (refused(Asked(), {"error": "invalid_scope"}), "scope-refused", ["sent no scope: try one"], []),
    "a code of no RFC": (
        refused(BASIC, {"error": "BAD_REQUEST"}),
        "error-unknown",
        ["No RFC defines this error code", "Is this URL a token endpoint?"],
        [],
    ),
    "too many requests": (
        refused(Asked(), status=429, retry_after="7"),
        "too-many-requests",
        ["limits the number", "Wait 7 s"],
        ["in trouble"],
    ),
    "too many requests, by another header": (
        refused(Asked(), status=429, x_retry_after="9"),
        "too-many-requests",
        ["Wait 9 s"],
        [],
    ),
    "a redirect, without a place": (refused(Asked(), status=300), "redirected", ["Configure the final URL"], []),
    "a status at the end of the redirects": (refused(Asked(), status=399), "redirected", [], []),
    "nothing there": (
        refused(Asked(), status=404),
        "no-token-endpoint",
        ["There is no token endpoint", "Check token_endpoint, mcp_url or issuer."],
        [],
    ),
    "another method wanted": (refused(Asked(), status=405), "no-token-endpoint", [], []),
    "nothing there, by a code": (refused(Asked(), {"error": "access_denied"}, 404), "access-denied", [], []),
    "trouble, by the status": (refused(Asked(), status=500), "server-in-trouble", ["try again later"], []),
    "trouble, by the code": (refused(Asked(), {"error": "temporarily_unavailable"}), "server-in-trouble", [], []),
    "a status below trouble": (refused(Asked(), status=499), "refused-without-reason", [], ["in trouble"]),
    "a grant of another kind": (
        refused(Asked(grant_type=EXCHANGE), status=403),
        "refused-without-reason",
        [f"used the grant {EXCHANGE}"],
        [],
    ),
    "the usual grant": (
        refused(Asked(scope="read"), {"error": "access_denied"}, 403),
        "access-denied",
        ["asked for the scope read"],
        ["used the grant", "some servers require one"],
    ),
    "no scope, which some require": (
        refused(Asked(), status=403),
        "refused-without-reason",
        ["sent no scope, and some servers require one."],
        [],
    ),
    "a grant that is refused": (
        refused(Asked(), {"error": "invalid_grant"}),
        "grant-refused",
        ["may use the grant client_credentials"],
        ["issuer"],
    ),
    "a subject token that is refused": (
        refused(Asked(grant_type=EXCHANGE), {"error": "invalid_grant"}),
        "grant-refused",
        ["refuses the subject token"],
        ["may use"],
    ),
    "a method by choice": (
        refused(Asked(tried=("client_secret_post",), configured=True), {"error": "invalid_client"}, 401),
        "client-refused",
        ["Without token_endpoint_auth_method"],
        [],
    ),
    "both methods": (
        refused(Asked(tried=("client_secret_basic", "client_secret_post")), {"error": "invalid_client"}, 401),
        "client-refused",
        ["by client_secret_basic, then by client_secret_post."],
        ["Without token_endpoint_auth_method"],
    ),
    "the certificate after another method": (
        refused(Asked(tried=("client_secret_basic", "tls_client_auth")), {"error": "invalid_client"}, 401),
        "certificate-refused",
        [],
        [],
    ),
    "no method at all": (
        refused(Asked(tried=("none",), published=()), status=403),
        "refused-without-reason",
        ["the server publishes no method"],
        [],
    ),
    "a redirect": (
        refused(Asked(), status=307, location="https://new.example/token"),
        "redirected",
        ["answered 307: redirects to https://new.example/token", "as token_endpoint"],
        [],
    ),
    "a problem document": (
        refused(
            Asked(),
            {
                "type": "https://probs.example/Out-of-Service-2026-details",
                "title": "Not registered",
                "detail": "See https://docs.example/Clients/Register-Machine-Clients-2026 first",
            },
            403,
        ),
        "refused-without-reason",
        ["Not registered: See https://docs.example/Clients/", "first"],
        ["{"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_has_its_own_words(case: str) -> None:
    error, cause, said, unsaid = CASES[case]
    assert isinstance(error, TokenRequestError)
    assert error.cause == cause
    for words in said:
        assert words in str(error)
    for words in unsaid:
        assert words not in str(error)


@pytest.mark.parametrize(
    ("status", "error", "refuses"),
    [
        (400, "invalid_client", True),
        (401, None, True),
        (403, "BAD_CLIENT", True),
        (402, None, False),
        (404, None, False),
        (400, None, False),
        (401, "invalid_request", False),
        (403, "invalid_scope", False),
    ],
)
def test_what_refuses_the_client(status: int, error: str | None, refuses: bool) -> None:
    assert is_refused_client(status, error) is refuses


def test_retry_after_goes_before_its_imitation() -> None:
    error = refused(Asked(), status=429, retry_after="3", x_retry_after="9")
    assert isinstance(error, TokenRequestError)
    assert error.retry_after == 3.0


def test_a_token_that_cannot_be_revoked_is_no_fault_of_the_client() -> None:
    answer = Response(400, {}, b'{"error": "unsupported_token_type"}')
    with pytest.raises(TokenRequestError, match="A JWT stays valid until it expires") as caught:
        judge_revocation(URL, answer, secrets=[], wall_now=0.0, asked=Asked(endpoint="revocation_endpoint"))
    assert caught.value.cause == "token-not-revocable"


def test_a_missing_endpoint_is_called_by_its_name() -> None:
    with pytest.raises(TokenRequestError, match="There is no revocation endpoint at this URL") as caught:
        judge_revocation(
            URL, Response(404, {}, b""), secrets=[], wall_now=0.0, asked=Asked(endpoint="revocation_endpoint")
        )
    assert caught.value.cause == "no-revocation-endpoint"


@pytest.mark.parametrize(
    ("kind", "wanted", "words"),
    [
        ("N_A", "Bearer", ["no access token", f"requested_token_type to {ACCESS_TOKEN_TYPE}"]),
        ("Bearer", "DPoP", ["this server does not bind tokens for this client"]),
        ("DPoP", "Bearer", ["Set dpop=True"]),
    ],
)
def test_a_token_of_another_type_says_what_that_means(kind: str, wanted: str, words: list[str]) -> None:
    error = refused(Asked(), {"access_token": "a", "token_type": kind}, 200, wanted)
    assert isinstance(error, InvalidTokenResponse)
    for each in words:
        assert each in str(error)
    assert "really the token endpoint" not in str(error)


def test_a_token_in_a_url_of_a_problem_document_is_masked() -> None:
    detail = "Go to https://as.example/confirm/eyJhbGciOiJSUzI1NiJ9abc?code=9f86d081884c7d659a2feaa0c55ad015"
    error = refused(Asked(), {"title": "Confirm", "detail": detail}, 403)
    assert "https://as.example/confirm/***?code=***" in str(error)


def test_what_a_request_was_signed_with_is_in_no_repr() -> None:
    assert "s3cret" not in repr(Asked(secrets=("s3cret",)))
