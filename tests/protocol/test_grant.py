from __future__ import annotations

import base64
import json
import math
import re
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conduit_oauth import InvalidTokenResponse, TokenRequestError
from conduit_oauth.protocol.grant import (
    MAX_LIFETIME,
    Grant,
    client_credentials_form,
    is_scope,
    judge_introspection,
    judge_revocation,
    judge_token_response,
    jwt_lifetime,
    token_request,
    wants_nonce,
)
from conduit_oauth.protocol.http import Request, Response, parse_retry_after
from conduit_oauth.refusals import UNKNOWN

URL = "https://as.example/token"
SECRET = "s3cr&t pässword/+"


def judge(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Grant:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge_token_response(
        URL, Response(status, headers or {}, content), secrets=[SECRET], wall_now=0.0, token_type="Bearer"
    )


def good(**changes: Any) -> dict[str, Any]:
    return {"access_token": "abc", "token_type": "Bearer", "expires_in": 3600, **changes}


def test_the_request_is_a_form_post_that_asks_for_json() -> None:
    form = client_credentials_form([("scope", "a b"), ("client_secret", SECRET)])
    request = token_request(URL, {"X": "1"}, form)
    assert (request.method, request.url) == ("POST", URL)
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["X"] == "1"
    assert parse_qsl(request.content.decode()) == [("grant_type", "client_credentials"), *form[1:]]
    assert SECRET not in repr(request)


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_a_good_answer_in_any_case_of_bearer(token_type: str) -> None:
    assert judge(good(token_type=token_type, scope="a")) == Grant("abc", 3600.0, "a")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(60, 60.0), (0, 0.0), (59.5, 59.5), ("60", 60.0), ("59.5", 59.5), (None, None), (MAX_LIFETIME, MAX_LIFETIME)],
)
def test_lifetimes_that_are_accepted(value: object, seconds: float | None) -> None:
    assert judge(good(expires_in=value)).lifetime == seconds


def test_a_lifetime_is_cut_to_ten_years() -> None:
    assert judge(good(expires_in=315_360_000)) == Grant("abc", 315_360_000.0, None)
    assert judge(good(expires_in=315_360_001)) == Grant("abc", 315_360_000.0, None, is_cut=True)


@pytest.mark.parametrize(
    "value",
    ["-1", "soon", "", "1e3", "0x10", "1_000", "٣", "NaN", "inf", True, False, [], {}, -1, -0.5],
)
def test_lifetimes_that_are_refused(value: object) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(good(expires_in=value))
    assert caught.value.field == "expires_in"


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_number_literals_that_json_does_not_have(literal: bytes) -> None:
    with pytest.raises(InvalidTokenResponse):
        judge(b'{"access_token": "abc", "token_type": "Bearer", "expires_in": ' + literal + b"}")


@pytest.mark.parametrize("token", [None, "", 5, ["abc"], "a b", "a\r\nX: 1", "tökén", " abc", "a\x7f", "a\x00"])
def test_access_tokens_that_are_refused(token: object) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(good(access_token=token))
    assert caught.value.field == "access_token"


def test_a_token_and_a_scope_have_a_longest_length() -> None:
    assert judge(good(access_token="x" * 65_536)).access_token == "x" * 65_536
    with pytest.raises(InvalidTokenResponse, match="longer than 65536 characters"):
        judge(good(access_token="x" * 65_537))
    assert is_scope("x" * 65_536)
    assert not is_scope("x" * 65_537)


@pytest.mark.parametrize(
    ("scope", "sound"), [("a", True), ("a b:c/d", True), ("", False), ("a  b", False), ('a"b', False), ("a\\b", False)]
)
def test_what_a_scope_is(scope: str, sound: bool) -> None:
    assert is_scope(scope) is sound


@pytest.mark.parametrize("token", ["8f14e45f:sj", "5|AbC", "00D000!AQ0", "=abc", "a=b", "a\"b\\c'd#e$f`g"])
def test_opaque_tokens_of_any_visible_characters_are_taken(token: str) -> None:
    assert judge(good(access_token=token)).access_token == token


@pytest.mark.parametrize(
    ("body", "retryable"),
    [
        ({"error": "invalid_scope", "error_description": "nope"}, False),
        ({"error": "temporarily_unavailable"}, True),
        ({"error": "bad_verification_code"}, False),
        ({"error": "invalid_client", "access_token": ""}, False),
        ({"error": "invalid_client", "access_token": None}, False),
    ],
)
def test_an_error_that_comes_with_success_is_the_error_that_it_names(body: dict[str, Any], retryable: bool) -> None:
    with pytest.raises(TokenRequestError) as caught:
        judge(body)
    assert (caught.value.status, caught.value.error, caught.value.retryable) == (200, body["error"], retryable)


def test_a_token_beside_an_error_is_a_token() -> None:
    assert judge(good(error="none")).access_token == "abc"


def test_a_missing_token_type_is_taken_for_the_default_where_there_is_one() -> None:
    body = {"access_token": "abc"}
    with pytest.raises(InvalidTokenResponse, match='set default_token_type="Bearer"'):
        judge(body)
    response = Response(200, {}, json.dumps(body).encode())
    for default, type_ in (("Bearer", "Bearer"), ("bearer", "Bearer"), ("DPoP", "DPoP")):
        settings: dict[str, Any] = {"secrets": [], "wall_now": 0.0, "token_type": type_, "default_token_type": default}
        assert judge_token_response(URL, response, **settings).access_token == "abc"
    settings = {"secrets": [], "wall_now": 0.0, "token_type": "Bearer", "default_token_type": "Bearer"}
    response = Response(200, {}, b'{"access_token":"a","token_type":"mac"}')
    with pytest.raises(InvalidTokenResponse, match="is not Bearer"):
        judge_token_response(URL, response, **settings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(1800, 1800.0), (0.5, 0.5), (MAX_LIFETIME, MAX_LIFETIME), (MAX_LIFETIME + 1, None)],
        *[(None, None), (0, None), (-1, None), ("60", None), (True, None)],
    ],
)
def test_the_server_may_say_when_to_refresh(value: object, expected: float | None) -> None:
    assert judge(good(refresh_in=value)).refresh_in == expected


def jwt(**claims: object) -> str:
    return "e30." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode() + ".c2ln"


@pytest.mark.parametrize(
    ("token", "lifetime"),
    [
        (jwt(exp=1600), 600.0),
        (jwt(exp=1600, iat=1100), 500.0),  # our clock is behind
        (jwt(exp=1600, iat=900), 600.0),  # it was issued to somebody before
        (jwt(exp=900), -100.0),
        (jwt(exp=10**12 - 1), MAX_LIFETIME),
        (jwt(exp=10**12), None),
        (jwt(exp=1600, iat=10**12), 600.0),
        (jwt(), None),
        (jwt(exp="1600"), None),
        (jwt(exp=True), None),
        ("opaque", None),
        ("a.%%.c", None),
        ("a.b.c", None),
    ],
)
def test_a_jwt_says_how_long_it_lives(token: str, lifetime: float | None) -> None:
    assert jwt_lifetime(token, 1000.0) == lifetime


@pytest.mark.parametrize("token_type", [None, "", "mac", "DPoP", "Bearer ", 1])
def test_token_types_that_are_refused(token_type: object) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(good(token_type=token_type))
    assert caught.value.field == "token_type"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"abc"', b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(body)
    assert caught.value.field == "body"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "is not a JSON object (0 bytes)"),
        (b"<h1>Hello</h1>", "is not a JSON object (14 bytes: <h1>Hello</h1>)"),
        (b"the Token", "is not a JSON object (9 bytes)"),
        (b"\xff\xfe{}", "is not a JSON object (4 bytes that are no text in UTF-8)"),
        (b"a\0b", "is not a JSON object (3 bytes that are no text in UTF-8)"),
    ],
)
def test_a_body_that_is_no_answer_is_shown_where_it_holds_no_token(body: bytes, shown: str) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(body)
    assert f"body {shown}" in str(caught.value)


@pytest.mark.parametrize("status", [200, 299])
def test_a_success(status: int) -> None:
    assert judge(good(), status).access_token == "abc"
    answer = Response(status, {}, b'{"active": true}')
    assert judge_introspection(URL, answer, secrets=[], wall_now=0.0, asked=UNKNOWN) == {"active": True}


@pytest.mark.parametrize("status", [199, 300])
def test_no_success(status: int) -> None:
    with pytest.raises(TokenRequestError):
        judge(good(), status)
    with pytest.raises(TokenRequestError):
        judge_revocation(URL, Response(status, {}, b""), secrets=[], wall_now=0.0, asked=UNKNOWN)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"active": "true"}', b'{"active": null}'])
def test_an_introspection_that_says_nothing(body: bytes) -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge_introspection(URL, Response(200, {}, body), secrets=[], wall_now=0.0, asked=UNKNOWN)
    assert caught.value.field == "active"


def test_an_introspection_that_fails_with_a_status_of_success() -> None:
    response = Response(200, {}, b'{"error": "invalid_client"}')
    with pytest.raises(TokenRequestError) as caught:
        judge_introspection(URL, response, secrets=[], wall_now=0.0, asked=UNKNOWN)
    assert (caught.value.status, caught.value.error) == (200, "invalid_client")


@pytest.mark.parametrize(
    ("status", "error", "headers", "wants"),
    [
        (400, "use_dpop_nonce", {"dpop-nonce": "n"}, True),
        (401, "use_dpop_nonce", {"dpop-nonce": "n"}, True),
        (402, "use_dpop_nonce", {"dpop-nonce": "n"}, False),
        (399, "use_dpop_nonce", {"dpop-nonce": "n"}, False),
        (400, "use_dpop_nonce", {}, False),
        (400, "invalid_client", {"dpop-nonce": "n"}, False),
    ],
)
def test_when_a_nonce_is_wanted(status: int, error: str, headers: dict[str, str], wants: bool) -> None:
    assert wants_nonce(Response(status, headers, json.dumps({"error": error}).encode())) is wants
    assert not wants_nonce(Response(status, headers, b"no JSON"))


@pytest.mark.parametrize(
    ("reads", "status", "whether"),
    [("all", 200, True), ("errors", 399, False), ("errors", 400, True), ("errors", 401, True), ("head", 400, False)],
)
def test_whose_body_is_read(reads: Any, status: int, whether: bool) -> None:
    assert Request("GET", URL, {}, reads=reads).reads_body(status) is whether


def test_what_may_hold_a_secret_is_in_no_repr() -> None:
    headers = {"authorization": "very-secret"}
    values = Request("POST", URL, headers, b"very-secret"), Response(200, headers, b"very-secret"), judge(good())
    assert "very-secret" not in repr(values)
    assert "abc" not in repr(values)


def test_a_broken_success_body_is_not_quoted() -> None:
    with pytest.raises(InvalidTokenResponse) as caught:
        judge(b'{"access_token": "tok-123", "token_type": "Bea')
    assert "tok-123" not in str(caught.value)


def test_a_scope_list_is_read_as_the_scope_it_means() -> None:
    assert judge(good(scope=["a", "b"])).scope == "a b"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a  b\t", "a b"),
        ("a \ud800 b\0c d", "a d"),
        ('"a" b', "b"),
        ("\ud800", ""),
        ("a " * 100_000, "a " * 8191 + "a"),
        (["a", "\x1b[31m", "b"], "a b"),
    ],
)
def test_of_a_granted_scope_what_can_be_one_is_kept(said: object, kept: str) -> None:
    assert judge(good(scope=said)).scope == kept


@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_error_answer(status: int) -> None:
    body = {"error": "invalid_client", "error_description": "unknown\r\nclient", "error_uri": "https://as.example/e"}
    with pytest.raises(TokenRequestError) as caught:
        judge(body, status)
    error = caught.value
    assert (error.error, error.error_description, error.error_uri) == (
        "invalid_client",
        "unknown client",
        "https://as.example/e",
    )
    assert error.status == status
    assert not error.retryable
    assert "client_secret" in str(error)


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (302, False), (429, True), (500, True), (503, True)])
def test_an_error_answer_that_is_no_json(status: int, retryable: bool) -> None:
    with pytest.raises(TokenRequestError) as caught:
        judge(b"<h1>no</h1>" * 10_000, status, {"retry-after": "7"})
    error = caught.value
    assert (error.error, error.status, error.retryable, error.retry_after) == (None, status, retryable, 7.0)
    assert len(str(error)) < 600


def test_a_redirect_says_what_to_do() -> None:
    with pytest.raises(TokenRequestError, match="never followed"):
        judge(b"", 307)


@pytest.mark.parametrize(("status", "named"), [(300, True), (399, True), (400, False), (401, False)])
def test_the_target_of_a_redirect_is_named(status: int, named: bool) -> None:
    with pytest.raises(TokenRequestError) as caught:
        judge(b"", status, {"location": "https://new.example/token"})
    assert ("redirects to https://new.example/token" in str(caught.value)) is named


@pytest.mark.parametrize(
    "echo",
    [
        SECRET,
        "s3cr%26t+p%C3%A4ssword%2F%2B",
        "s3cr%26t%20p%C3%A4ssword%2F%2B",
        "s3cr&amp;t pässword/+",
        json.dumps(SECRET)[1:-1],
    ],
)
@pytest.mark.parametrize(
    "wrap", ['{"error": "%s"}', '{"error": "x", "error_description": "your secret %s"}', "<p>%s</p>"]
)
def test_a_server_that_echoes_the_secret_does_not_get_it_into_an_error(echo: str, wrap: str) -> None:
    body = wrap % (echo.replace("\\", "\\\\") if wrap.startswith("{") else echo)
    with pytest.raises(TokenRequestError) as caught:
        judge(body.encode(), 400)
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert echo not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        (" 1.5 ", 1.5),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 1970 01:00:30 +0100", 30.0),
        ("Thu, 01 Jan 1970 00:00:30 -0000", 30.0),
        ("Wed, 31 Dec 1969 23:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Thu, 01 Jan 9999999 00:00:30 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 0.0) == seconds


def test_a_date_is_compared_with_now() -> None:
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10.0) == 20.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from(["access_token", "token_type", "expires_in", "scope", "error"])
bodies = (
    st.dictionaries(members, json_values | st.sampled_from(["abc", "Bearer", "60"])).map(json.dumps).map(str.encode)
    | st.binary(max_size=60)
    | json_values.map(json.dumps).map(str.encode)
)


@given(body=bodies, status=st.integers(200, 599))
@example(body=json.dumps(good()).encode(), status=200)
@example(body=b'{"access_token":"a","token_type":"bearer","expires_in":"0"}', status=201)
@example(body=b'{"error": " "}', status=200)
@example(body=json.dumps({"error": "\u200b" * 8000 + "x" * 9000}).encode(), status=200)
@example(body=json.dumps({"error": " " * 9000 + "x"}).encode(), status=200)
def test_any_answer_is_a_sound_grant_or_a_typed_error(body: bytes, status: int) -> None:
    try:
        grant = judge(body, status)
    except InvalidTokenResponse as error:
        assert 200 <= status < 300
        assert error.field in {"body", "access_token", "token_type", "expires_in", "scope"}
    except TokenRequestError as error:
        assert error.error or not 200 <= status < 300
        assert error.status == status
        assert len(str(error)) < 1200
    else:
        assert 200 <= status < 300
        assert re.fullmatch(r"[\x21-\x7e]+", grant.access_token)
        assert grant.lifetime is None or (math.isfinite(grant.lifetime) and 0 <= grant.lifetime <= MAX_LIFETIME)


@given(st.text(max_size=40), st.floats(0, 1e10))
def test_any_retry_after_is_a_length_of_time_or_nothing(value: str, now: float) -> None:
    seconds = parse_retry_after(value, now)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@pytest.mark.parametrize(("length", "granted"), [(16_384, 2), (16_385, 1)])
def test_a_scope_is_cut_between_two_names(length: int, granted: int) -> None:
    scope = "a " + "b" * (length - 2)
    body = {"access_token": "t", "token_type": "Bearer", "scope": scope}
    answer = Response(200, {}, json.dumps(body).encode())
    grant = judge_token_response("https://as.example", answer, secrets=[], wall_now=0.0, token_type="Bearer")
    assert len((grant.scope or "").split()) == granted
