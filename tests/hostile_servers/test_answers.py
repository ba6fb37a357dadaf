"""Metadata that lies: in each case the secret reaches no server but the right one, and the error names the cause.

The internet of these tests is a table of answers, since hosts of many names over https cannot be had on loopback; the
provider, its transport and its HTTP client are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from conduit_oauth import ConfigurationError, DiscoveryError, InvalidTokenResponse, OAuthError, TokenProvider
from conduit_oauth.client.transport import MAX_BYTES
from tests.conftest import FakeClock

SECRET = "very-secret"
MCP = "https://gateway.example/servers/42/mcp"
ISSUER = "https://as.example/tenant"
RESOURCE_AT = "https://gateway.example/.well-known/oauth-protected-resource/servers/42/mcp"
SERVER_AT = "https://as.example/.well-known/oauth-authorization-server/tenant"
TOKEN_ENDPOINT = "https://as.example/tenant/token"
RESOURCE: dict[str, Any] = {"resource": MCP, "authorization_servers": [ISSUER]}
SERVER: dict[str, Any] = {"issuer": ISSUER, "token_endpoint": TOKEN_ENDPOINT}
TOKEN = {"access_token": "good-token", "token_type": "Bearer", "expires_in": 3600}
GOOD: dict[str, Any] = {RESOURCE_AT: RESOURCE, SERVER_AT: SERVER, TOKEN_ENDPOINT: TOKEN}


class Internet:
    """Answers by URL; keeps what each host was sent."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self.pages = pages
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        page = self.pages.get(str(request.url), 404)
        if isinstance(page, httpx2.Response):
            return page
        if isinstance(page, int):
            return httpx2.Response(page)
        return httpx2.Response(200, content=page if isinstance(page, bytes) else json.dumps(page).encode())

    def provider(self, **options: Any) -> TokenProvider:
        settings: dict[str, Any] = {"mcp_url": MCP, "timeout": 2, **options}
        return TokenProvider("client", SECRET, transport=httpx2.MockTransport(self), **settings)

    @property
    def entrusted(self) -> set[str]:
        """The URLs that were sent the secret, in whatever form."""
        return {
            str(request.url)
            for request in self.requests
            if "authorization" in request.headers or SECRET.encode() in request.content or SECRET in str(request.url)
        }


def challenge(header: str) -> httpx2.Response:
    return httpx2.Response(401, headers={"WWW-Authenticate": header})


def points_to(url: str) -> dict[str, Any]:
    return {MCP: challenge(f'Bearer resource_metadata="{url}"')}


def lists(*servers: Any) -> dict[str, Any]:
    return {RESOURCE_AT: {**RESOURCE, "authorization_servers": list(servers)}}


def server(**changes: Any) -> dict[str, Any]:
    return {SERVER_AT: {**SERVER, **changes}}


def resource(value: Any) -> dict[str, Any]:
    return {RESOURCE_AT: {**RESOURCE, "resource": value}}


NESTED = b'{"a":' * 50_000
EVIL = "https://evil.example"
CASES: dict[str, tuple[dict[str, Any], type[OAuthError], str]] = {
    # mixed-up issuers
    "another issuer": (server(issuer=EVIL), DiscoveryError, "another issuer"),
    "issuer with a slash more": (server(issuer=ISSUER + "/"), DiscoveryError, "another issuer"),
    "issuer in other letters": (server(issuer=ISSUER.upper()), DiscoveryError, "another issuer"),
    "issuer of the tenant next door": (server(issuer="https://as.example/other"), DiscoveryError, "another issuer"),
    "no issuer": (server(issuer=None), DiscoveryError, "another issuer"),
    "a list of issuers": (server(issuer=[ISSUER, EVIL]), DiscoveryError, "another issuer"),
    # resource mismatches
    "another host's resource": (resource(f"{EVIL}/servers/42/mcp"), DiscoveryError, "another resource"),
    "another path's resource": (resource("https://gateway.example/servers/43/mcp"), DiscoveryError, "another resource"),
    "a path that only begins alike": (
        resource("https://gateway.example/servers/4"),
        DiscoveryError,
        "another resource",
    ),
    "a resource below the one asked for": (resource(MCP + "/sub"), DiscoveryError, "another resource"),
    "another port's resource": (
        resource("https://gateway.example:8443/servers/42/mcp"),
        DiscoveryError,
        "another resource",
    ),
    "the resource over http": (resource(MCP.replace("https", "http")), DiscoveryError, "another resource"),
    "no resource": (resource(None), DiscoveryError, "missing or empty"),
    "a resource that is a list": (resource([MCP]), DiscoveryError, "missing or empty"),
    "a resource that is no URL": (resource("gateway"), DiscoveryError, "not an absolute"),
    # downgrade to plain http
    "an authorization server over http": (lists("http://as.example"), DiscoveryError, "plain http"),
    "a token endpoint over http": (server(token_endpoint="http://as.example/token"), DiscoveryError, "plain http"),
    "resource metadata over http": (points_to("http://gateway.example/meta"), DiscoveryError, "plain http"),
    "a token endpoint without TLS on a look-alike of loopback": (
        server(token_endpoint="http://localhost.evil.example/token"),
        DiscoveryError,
        "plain http",
    ),
    # redirects
    "resource metadata that redirects": (
        {
            RESOURCE_AT: httpx2.Response(302, headers={"Location": f"{EVIL}/meta"}),
            MCP.replace("mcp", "oauth/token"): 404,
        },
        OAuthError,
        "404",
    ),
    "a token endpoint that redirects": (
        {TOKEN_ENDPOINT: httpx2.Response(307, headers={"Location": f"{EVIL}/token"})},
        OAuthError,
        "never followed",
    ),
    "a token endpoint that redirects to a GET": (
        {TOKEN_ENDPOINT: httpx2.Response(303, headers={"Location": f"{EVIL}/token"})},
        OAuthError,
        "never followed",
    ),
    # targets inside
    "an authorization server at a private address": (lists("https://10.0.0.1"), DiscoveryError, "private network"),
    "an authorization server on loopback": (lists("https://127.0.0.1"), DiscoveryError, "private network"),
    "an authorization server on loopback over http": (lists("http://127.0.0.1"), DiscoveryError, "private network"),
    "an authorization server on loopback, IPv6": (lists("https://[::1]"), DiscoveryError, "private network"),
    "an authorization server on mapped loopback": (
        lists("https://[::ffff:127.0.0.1]"),
        DiscoveryError,
        "private network",
    ),
    "the cloud's metadata service": (points_to("https://169.254.169.254/latest"), DiscoveryError, "private network"),
    "a short form of loopback": (lists("https://127.1"), DiscoveryError, "private network"),
    "loopback as one number": (lists("https://2130706433"), DiscoveryError, "private network"),
    "loopback in hexadecimal": (lists("https://0x7f000001"), DiscoveryError, "private network"),
    "localhost": (points_to("https://localhost/meta"), DiscoveryError, "private network"),
    "a host of the inner network": (lists("https://vault.internal"), DiscoveryError, "private network"),
    "a token endpoint inside": (server(token_endpoint="https://10.0.0.1/token"), DiscoveryError, "private network"),
    # chains and lists
    "a pointer to nothing": (points_to("https://gateway.example/nothing"), DiscoveryError, "has no metadata"),
    "a hundred authorization servers": (
        lists(*(f"https://as{number}.example" for number in range(100))),
        DiscoveryError,
        "lists 100",
    ),
    "two authorization servers": (lists(ISSUER, EVIL), DiscoveryError, "authorization_server"),
    "no authorization server": (lists(), DiscoveryError, "lists none"),
    "authorization servers that are no strings": (lists(1, None, {}), DiscoveryError, "lists none"),
    "an authorization server without metadata": (lists(EVIL), DiscoveryError, "publishes none"),
    # oversized, nested, broken documents
    "endless resource metadata": ({RESOURCE_AT: b" " * (MAX_BYTES + 1)}, OAuthError, "larger"),
    "endless server metadata": ({SERVER_AT: b" " * (MAX_BYTES + 1)}, OAuthError, "larger"),
    "deeply nested resource metadata": (
        {RESOURCE_AT: NESTED, MCP.replace("mcp", "oauth/token"): 404},
        OAuthError,
        "404",
    ),
    "deeply nested server metadata": ({SERVER_AT: NESTED}, DiscoveryError, "publishes none"),
    "an endless token response": ({TOKEN_ENDPOINT: b" " * (MAX_BYTES + 1)}, OAuthError, "larger"),
    "a server in trouble": ({SERVER_AT: 503}, DiscoveryError, "503"),
    # tricks in URLs
    "user information": (lists("https://as.example@evil.example"), DiscoveryError, "user information"),
    "a backslash": (lists("https://evil.example\\@as.example"), DiscoveryError, "backslash"),
    "a look-alike letter": (lists("https://\u0430s.example"), DiscoveryError, "non-ASCII"),
    "a line break": (lists("https://as.example/\r\nX-Injected: 1"), DiscoveryError, "control character"),
    "a token endpoint of another scheme": (
        server(token_endpoint="file:///etc/passwd"),
        DiscoveryError,
        "http or https",
    ),
    "a token endpoint that is an object": (server(token_endpoint={"url": EVIL}), DiscoveryError, "missing or empty"),
    "a port that is none": (lists("https://as.example:99999"), DiscoveryError, "not a URL"),
    # header injection
    "a token with a line break": (
        {TOKEN_ENDPOINT: {**TOKEN, "access_token": "a\r\nX-Injected: 1"}},
        InvalidTokenResponse,
        "does not allow",
    ),
    "a token of another type": ({TOKEN_ENDPOINT: {**TOKEN, "token_type": "mac"}}, InvalidTokenResponse, "not Bearer"),
    # methods that we do not have
    "a server without our methods": (
        server(token_endpoint_auth_methods_supported=["none", "private_key_jwt"]),
        ConfigurationError,
        "supports only",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_lies_are_named_and_the_secret_stays_where_it_belongs(case: str) -> None:
    pages, kind, cause = CASES[case]
    internet = Internet({**GOOD, **pages})
    with internet.provider() as provider, pytest.raises(kind) as caught:
        provider.get_token()
    assert cause in str(caught.value)
    assert internet.entrusted <= {TOKEN_ENDPOINT, "https://gateway.example/servers/42/oauth/token"}
    assert not any(request.url.host == "evil.example" and request.method == "POST" for request in internet.requests)
    assert SECRET not in f"{caught.value!r}"


@pytest.mark.parametrize("first", [None, {**SERVER, "issuer": EVIL, "token_endpoint": f"{EVIL}/token"}])
def test_the_honest_case_works(first: dict[str, Any] | None) -> None:
    # What another issuer publishes at the first location is passed over.
    second = {"https://as.example/.well-known/openid-configuration/tenant": SERVER}
    internet = Internet(GOOD if first is None else {**GOOD, SERVER_AT: first, **second})
    with internet.provider() as provider:
        assert provider.get_token() == "good-token"
    assert internet.entrusted == {TOKEN_ENDPOINT}


@pytest.mark.parametrize(
    "header",
    [
        'Bearer resource_metadata="' + "x" * 100_000,
        "Bearer " + 'a="b", ' * 5000,
        'Basic realm="Bearer resource_metadata=\\"https://evil.example\\""',
        'Bearer scope="a\\" b\\r\\n"',
    ],
)
def test_a_challenge_that_makes_no_sense_is_no_challenge(header: str) -> None:
    internet = Internet({**GOOD, MCP: challenge(header)})
    with internet.provider() as provider:
        assert provider.get_token() == "good-token"
    assert internet.entrusted == {TOKEN_ENDPOINT}


MOVES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another authorization server": lambda pages: {
        **pages,
        **lists(EVIL),
        f"{EVIL}/.well-known/oauth-authorization-server": {"issuer": EVIL, "token_endpoint": f"{EVIL}/token"},
        f"{EVIL}/token": TOKEN,
    },
    "no metadata any more": lambda pages: {TOKEN_ENDPOINT: pages[TOKEN_ENDPOINT]},
}


@pytest.mark.parametrize("move", MOVES)
def test_the_authorization_server_is_pinned(move: str) -> None:
    clock = FakeClock()
    internet = Internet(dict(GOOD))
    with internet.provider(clock=clock) as provider:
        provider.get_token()
        internet.pages = MOVES[move](internet.pages)
        clock.step(3550)
        assert provider.get_token() == "good-token"
        clock.step(3700)
        with pytest.raises(DiscoveryError, match="pinned") as caught:
            provider.get_token()
    assert ISSUER in str(caught.value)
    assert internet.entrusted == {TOKEN_ENDPOINT}


def test_another_issuer_with_the_same_token_endpoint_brings_no_endpoints_of_its_own() -> None:
    clock = FakeClock()
    internet = Internet(dict(GOOD))
    with internet.provider(clock=clock) as provider:
        provider.get_token()
        evil = {
            "issuer": EVIL,
            "token_endpoint": TOKEN_ENDPOINT,
            "introspection_endpoint": f"{EVIL}/introspect",
            "revocation_endpoint": f"{EVIL}/revoke",
        }
        internet.pages |= {**lists(EVIL), f"{EVIL}/.well-known/oauth-authorization-server": evil}
        clock.step(7300)
        for call in (provider.get_token, lambda: provider.introspect("a-token")):
            with pytest.raises(DiscoveryError, match="pinned"):
                call()
    assert internet.entrusted == {TOKEN_ENDPOINT}


def test_an_issuer_may_move_its_own_endpoint() -> None:
    clock = FakeClock()
    internet = Internet(dict(GOOD))
    with internet.provider(clock=clock) as provider:
        provider.get_token()
        internet.pages |= {**server(token_endpoint="https://as.example/new"), "https://as.example/new": TOKEN}
        clock.step(7300)
        assert provider.get_token() == "good-token"
        assert provider.state().token_endpoint == "https://as.example/new"


def test_what_was_found_is_used_on_while_the_metadata_server_is_down() -> None:
    clock = FakeClock()
    internet = Internet(dict(GOOD))
    with internet.provider(clock=clock) as provider:
        provider.get_token()
        internet.pages[SERVER_AT] = 503
        clock.step(7300)
        assert provider.get_token() == "good-token"
    assert len([request for request in internet.requests if str(request.url) == TOKEN_ENDPOINT]) == 2


def test_metadata_is_not_read_again_while_it_holds() -> None:
    internet = Internet(dict(GOOD))
    with internet.provider() as provider:
        for _ in range(3):
            provider.get_token()
            provider.invalidate()
    assert len([request for request in internet.requests if str(request.url) == SERVER_AT]) == 1
