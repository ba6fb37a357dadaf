"""Client authentication that finds its own way: the likelier method, then the other one, and what worked is kept."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TokenRequestError
from tests.conftest import FakeClock

BASIC, POST = "client_secret_basic", "client_secret_post"
Refusal = tuple[int, dict[str, Any] | None]
UNKNOWN: Refusal = (401, {"error": "invalid_client"})
ISSUER = "https://as.example"


class Server:
    """Takes the methods and the secrets that it is told to; keeps what each request came with."""

    def __init__(self, *methods: str, secrets: tuple[str, ...] = ("secret",), refusal: Refusal = UNKNOWN) -> None:
        self.methods = methods
        self.secrets = secrets
        self.refusal = refusal
        # What is said to whoever is known, in place of a token.
        self.objection: Refusal | None = None
        self.metadata: dict[str, Any] = {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"}
        self.seen: list[tuple[str, str]] = []
        self.by_path: list[tuple[str, str]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=self.metadata)
        form = dict(parse_qsl(request.content.decode()))
        method, secret = POST, form.get("client_secret", "")
        if authorization := request.headers.get("authorization"):
            method = BASIC
            secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")[2]
        self.seen.append((method, secret))
        self.by_path.append((request.url.path, method))
        if method not in self.methods or secret not in self.secrets:
            return self._say(self.refusal)
        if self.objection is not None:
            return self._say(self.objection)
        if request.url.path == "/introspect":
            return httpx2.Response(200, json={"active": True})
        return httpx2.Response(200, json={"access_token": f"t{len(self.seen)}", "token_type": "Bearer"})

    @staticmethod
    def _say(refusal: Refusal) -> httpx2.Response:
        status, body = refusal
        return httpx2.Response(status) if body is None else httpx2.Response(status, json=body)

    def provider(self, secret: Any = "secret", **settings: Any) -> TokenProvider:
        where = {} if "issuer" in settings else {"token_endpoint": f"{ISSUER}/token"}
        return TokenProvider("me", secret, transport=httpx2.MockTransport(self), **where, **settings)

    @property
    def sent(self) -> list[str]:
        return [method for method, _ in self.seen]


@pytest.mark.parametrize(
    "refusal",
    [UNKNOWN, (400, {"error": "invalid_client"}), (401, None), (403, None), (401, {"error": "Unauthorized"})],
)
def test_after_a_refusal_the_other_method_is_tried_once_and_kept(refusal: Refusal) -> None:
    server = Server(POST, refusal=refusal)
    with server.provider() as provider:
        assert provider.get_token() == "t2"
        # Both were one attempt.
        assert provider.state().counts.token_requests == 1
        assert provider.state().counts.failures == 0
        provider.invalidate()
        assert provider.get_token() == "t3"
    assert server.sent == [BASIC, POST, POST]


@pytest.mark.parametrize(
    "objection", [(400, {"error": "invalid_scope"}), (403, {"error": "access_denied"}), (400, None)]
)
def test_another_refusal_is_no_reason_to_try_the_other_method(objection: Refusal) -> None:
    server = Server(BASIC, POST)
    server.objection = objection
    with server.provider() as provider, pytest.raises(TokenRequestError):
        provider.get_token()
    assert server.sent == [BASIC]


def test_a_configured_method_is_never_replaced() -> None:
    server = Server(POST)
    with server.provider(token_endpoint_auth_method=BASIC) as provider, pytest.raises(TokenRequestError) as caught:
        provider.get_token()
    assert server.sent == [BASIC]
    assert "Without token_endpoint_auth_method, client_secret_basic and client_secret_post are both tried" in str(
        caught.value
    )


def test_where_both_are_refused_the_error_names_both() -> None:
    server = Server(secrets=())
    with server.provider() as provider, pytest.raises(TokenRequestError) as caught:
        provider.get_token()
    assert "authenticated by client_secret_basic, then by client_secret_post" in str(caught.value)
    assert provider.state().counts.failures == 1


def test_a_server_that_does_not_know_the_other_method_leaves_the_first_refusal() -> None:
    class Odd(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            if b"client_secret=" in request.content:
                self.seen.append((POST, ""))
                return httpx2.Response(400, json={"error": "invalid_request"})
            return super().__call__(request)

    server = Odd(BASIC, secrets=())
    with server.provider() as provider, pytest.raises(TokenRequestError) as caught:
        provider.get_token()
    assert server.sent == [BASIC, POST]
    assert caught.value.error == "invalid_client"


def test_who_is_known_by_the_other_method_learns_what_the_server_has_against_the_request(clock: FakeClock) -> None:
    server = Server(POST)
    server.objection = (400, {"error": "invalid_scope"})
    with server.provider(clock=clock) as provider:
        with pytest.raises(TokenRequestError) as caught:
            provider.get_token()
        assert caught.value.error == "invalid_scope"
        server.objection = None
        clock.step(31)
        provider.get_token()
    assert server.sent == [BASIC, POST, POST]


@pytest.mark.parametrize(
    ("listed", "first"),
    [([BASIC, POST], BASIC), ([POST, BASIC], BASIC), ([POST], POST), ([BASIC], BASIC), (None, BASIC)],
)
def test_metadata_says_which_method_is_likelier(listed: list[str] | None, first: str) -> None:
    server = Server(BASIC, POST)
    if listed is not None:
        server.metadata["token_endpoint_auth_methods_supported"] = listed
    with server.provider(issuer=ISSUER) as provider:
        provider.get_token()
    assert server.sent == [first]


def test_what_basic_would_change_goes_by_post() -> None:
    server = Server(POST, secrets=("a:%+/=& b",))
    with server.provider("a:%+/=& b") as provider:
        provider.get_token()
    assert server.sent == [POST]


@pytest.mark.parametrize("refusal", [UNKNOWN, (403, None)])
def test_the_second_secret_is_tried_on_any_refusal_of_the_client(refusal: Refusal) -> None:
    server = Server(BASIC, secrets=("newer",), refusal=refusal)
    with server.provider(("older", "newer")) as provider:
        provider.get_token()
        assert server.seen == [(BASIC, "older"), (POST, "older"), (BASIC, "newer")]
        server.secrets = ("older",)
        provider.invalidate()
        provider.get_token()
    # The method is known by now, so the other secret goes before the other method.
    assert server.seen[3:] == [(BASIC, "newer"), (BASIC, "older")]


def test_a_second_secret_that_cannot_be_read_does_not_hide_the_refusal_of_the_first(tmp_path: Path) -> None:
    server = Server(BASIC, secrets=())
    with server.provider(("older", tmp_path / "nowhere")) as provider, pytest.raises(TokenRequestError) as caught:
        provider.get_token()
    assert caught.value.error == "invalid_client"


def test_a_secret_is_read_once_for_both_methods() -> None:
    reads: list[int] = []

    def source() -> str:
        reads.append(1)
        return "secret"

    with Server(POST).provider(source) as provider:
        provider.get_token()
    assert len(reads) == 1


def test_other_processes_learn_the_method_from_the_store(tmp_path: Path) -> None:
    server = Server(POST)
    store = {"store": f"sqlite:///{tmp_path}/tokens.sqlite3", "store_timeout": 5.0}
    with server.provider(**store) as provider:
        provider.get_token()
        provider.invalidate()
    with server.provider(**store) as provider:
        provider.get_token()
    assert server.sent == [BASIC, POST, POST]


def test_each_endpoint_has_methods_of_its_own() -> None:
    server = Server(BASIC, POST)
    server.metadata |= {
        "token_endpoint_auth_methods_supported": [POST],
        "introspection_endpoint": f"{ISSUER}/introspect",
        "introspection_endpoint_auth_methods_supported": [BASIC],
        "revocation_endpoint": f"{ISSUER}/revoke",
    }
    with server.provider(issuer=ISSUER) as provider:
        provider.introspect()
        provider.revoke()
    # Without a list of its own, an endpoint takes what the token endpoint takes.
    assert server.by_path == [("/token", POST), ("/introspect", BASIC), ("/revoke", POST)]


def test_an_endpoint_that_refuses_the_method_of_another_gets_the_other_one() -> None:
    class Mixed(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            self.methods = (POST,) if request.url.path == "/token" else (BASIC,)
            return super().__call__(request)

    server = Mixed()
    with server.provider(introspection_endpoint=f"{ISSUER}/introspect") as provider:
        for _ in range(2):
            assert provider.introspect()["active"]
    assert server.by_path[2:] == [("/introspect", POST), ("/introspect", BASIC), ("/introspect", BASIC)]


def test_an_expiry_beyond_ten_years_is_cut_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer", "expires_in": 10**400})

    caplog.set_level(logging.WARNING, "conduit_oauth")
    with TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", transport=httpx2.MockTransport(answer)) as provider:
        assert provider.get_token() == "a"
        expires_at = provider.state().expires_at
    assert expires_at is not None
    assert "token_lifetime_cut url=https://as.example/token" in caplog.text


def test_several_resources_are_sent_one_by_one_and_each_origin_may_have_the_token() -> None:
    forms: list[list[tuple[str, str]]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        forms.append(parse_qsl(request.content.decode()))
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    resources = ["https://one.example/api", "https://two.example/mcp"]
    with TokenProvider(
        "me", "s", token_endpoint=f"{ISSUER}/token", resource=resources, transport=httpx2.MockTransport(answer)
    ) as provider:
        provider.get_token()
        assert provider.state().resource == tuple(resources)
        assert provider.origins == ("https://one.example", "https://two.example")
        api = httpx2.MockTransport(lambda _: httpx2.Response(200))
        with httpx2.Client(auth=provider.auth(), transport=api) as client:
            assert [client.get(url).status_code for url in resources] == [200, 200]
            with pytest.raises(ConfigurationError, match=r"one\.example, https://two\.example"):
                client.get("https://three.example")
    assert [value for name, value in forms[0] if name == "resource"] == resources


def test_a_resource_can_be_left_out_though_the_mcp_url_is_known() -> None:
    forms: list[dict[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        forms.append(dict(parse_qsl(request.content.decode())))
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    settings: dict[str, Any] = {"token_endpoint": f"{ISSUER}/token", "mcp_url": "https://g.example/mcp"}
    for resource in (None, False):
        transport = httpx2.MockTransport(answer)
        with TokenProvider("me", "s", resource=resource, transport=transport, **settings) as provider:
            provider.get_token()
            # Wherever it was obtained, it goes to the gateway only.
            assert provider.origins == ("https://g.example",)
    assert [form.get("resource") for form in forms] == ["https://g.example/mcp", None]


def test_the_exp_of_a_jwt_goes_before_the_default_lifetime() -> None:
    payload = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 600}).encode()).rstrip(b"=").decode()

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"access_token": f"e30.{payload}.c2ln", "token_type": "Bearer"})

    clock = FakeClock()
    transport = httpx2.MockTransport(answer)
    with TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", transport=transport, clock=clock) as provider:
        provider.get_token()
        clock.step(590)
        assert provider.state().cached
        clock.step(11)
        assert not provider.state().cached


def test_a_refresh_begins_when_the_server_says() -> None:
    asked: list[float] = []
    clock = FakeClock()

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(clock.now)
        body = {"access_token": "a", "token_type": "Bearer", "expires_in": 3600, "refresh_in": 1800}
        return httpx2.Response(200, json=body)

    transport = httpx2.MockTransport(answer)
    with TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", transport=transport, clock=clock) as provider:
        provider.get_token()
        clock.step(1799)
        provider.get_token()
        assert len(asked) == 1
        clock.step(2)
        provider.get_token()
        while provider.state().refreshing:
            threading.Event().wait(0.005)
    assert len(asked) == 2


def test_a_client_that_is_refused_is_not_tried_without_the_claims(clock: FakeClock) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(401)

    transport = httpx2.MockTransport(answer)
    with TokenProvider(
        "me",
        "s",
        token_endpoint=f"{ISSUER}/token",
        token_endpoint_auth_method="client_secret_basic",
        transport=transport,
        clock=clock,
    ) as provider:
        provider.invalidate(claims='{"a": 1}')
        with pytest.raises(TokenRequestError):
            provider.get_token()
    assert len(requests) == 1


def test_claims_that_the_server_refuses_keep_no_client_from_its_token(clock: FakeClock) -> None:
    forms: list[dict[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        forms.append(dict(parse_qsl(request.content.decode())))
        if "claims" in forms[-1]:
            return httpx2.Response(400, json={"error": "invalid_request"})
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    transport = httpx2.MockTransport(answer)
    with TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", transport=transport, clock=clock) as provider:
        provider.get_token()
        provider.invalidate(claims='{"a": 1}')
        assert provider.get_token() == "a"
    assert [form.get("claims") for form in forms] == [None, '{"a": 1}', None]


@pytest.mark.parametrize("value", ["mac", "", 5])
def test_a_default_token_type_is_one_that_can_be_presented(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", default_token_type=value)
    assert caught.value.field == "default_token_type"


@pytest.mark.parametrize("resource", [[], ["https://a.example", "no uri"], [""], 5, True])
def test_a_list_of_resources_holds_absolute_uris(resource: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "s", token_endpoint=f"{ISSUER}/token", resource=resource)
    assert caught.value.field == "resource"


@pytest.mark.parametrize(
    ("assertion_audience", "expected"),
    [("issuer", ISSUER), ("endpoint", f"{ISSUER}/token"), ("https://other.example", "https://other.example")],
)
def test_the_audience_of_assertions_is_a_setting(
    assertion_audience: str, expected: str, read_claims: Callable[[str], dict[str, Any]]
) -> None:
    claims: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(
                200, json={**Server().metadata, "token_endpoint_auth_methods_supported": ["client_secret_jwt"]}
            )
        claims.append(read_claims(dict(parse_qsl(request.content.decode()))["client_assertion"]))
        return httpx2.Response(401, json={"error": "invalid_client"})

    settings: dict[str, Any] = {"issuer": ISSUER, "assertion_audience": assertion_audience}
    with (
        TokenProvider("me", "x" * 32, transport=httpx2.MockTransport(answer), **settings) as provider,
        pytest.raises(TokenRequestError, match=expected),
    ):
        provider.get_token()
    # Another audience is never tried: that would hand the assertion to it.
    assert [each["aud"] for each in claims] == [expected]


@pytest.fixture
def read_claims() -> Callable[[str], dict[str, Any]]:
    from conduit_oauth.cli.inspection import read_jwt

    def read(token: str) -> dict[str, Any]:
        jwt = read_jwt(token)
        assert jwt is not None
        return jwt.claims

    return read
