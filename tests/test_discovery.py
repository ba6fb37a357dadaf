from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth import ConfigurationError, DiscoveryError, derive_token_endpoint
from conduit_oauth.discovery import MAX_SERVERS, Discovery, Finding, discover_resource, server_metadata
from conduit_oauth.grant import Request, Response

T = TypeVar("T")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://g.example/servers/42/mcp", "https://g.example/servers/42/oauth/token"),
        ("https://g.example/servers/42/mcp/", "https://g.example/servers/42/oauth/token"),
        ("https://g.example/servers/42/jsonrpc", "https://g.example/servers/42/oauth/token"),
        ("https://g.example/servers/42/jsonrpc/", "https://g.example/servers/42/oauth/token"),
        ("https://g.example/mcp", "https://g.example/oauth/token"),
        ("https://g.example:8443/mcp?a=/mcp#/mcp", "https://g.example:8443/oauth/token"),
        ("https://g.example/mcp/servers/42/mcp", "https://g.example/mcp/servers/42/oauth/token"),
    ],
)
def test_derives_the_token_endpoint(url: str, endpoint: str) -> None:
    assert derive_token_endpoint(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "https://g.example/mcp/servers/42",
        "https://g.example/servers/42/MCP",
        "https://g.example/xmcp",
        "https://g.example/mcp//",
        "https://mcp",
        "https://g.example/?x=/mcp",
        "https://g.example/api?q=1#f",
    ],
)
def test_leaves_other_urls_unchanged(url: str) -> None:
    assert derive_token_endpoint(url) == url


@pytest.mark.parametrize("url", ["", "g.example/mcp", "file:///mcp", "https://u:p@g.example/mcp"])
def test_refuses_bad_urls(url: str) -> None:
    with pytest.raises(ConfigurationError):
        derive_token_endpoint(url)


segment = st.text(st.sampled_from("abcmp.-_~%20"), min_size=1, max_size=6)


@given(
    path=st.lists(segment, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts)),
    suffix=st.sampled_from(["/mcp", "/jsonrpc"]),
    slash=st.sampled_from(["", "/"]),
    tail=st.sampled_from(["", "?a=b", "#c", "?a=b#c", "?/mcp", "#/mcp/"]),
)
def test_derivation_keeps_everything_before_the_suffix(path: str, suffix: str, slash: str, tail: str) -> None:
    base = f"https://g.example{path}"
    derived = derive_token_endpoint(base + suffix + slash + tail)
    assert derived == f"{base}/oauth/token"
    assert derive_token_endpoint(derived) == derived


@given(st.text(max_size=40))
def test_derivation_answers_or_names_the_field(url: str) -> None:
    try:
        derived = derive_token_endpoint(url)
    except ConfigurationError as error:
        assert error.field == "mcp_url"
    else:
        assert derived == url or derived.endswith("/oauth/token")


def drive(steps: Generator[Request, Response, T], site: dict[str, Any]) -> tuple[T, list[str]]:
    """Answer a step's requests from `site`, a mapping of URL to JSON, bytes, a status, or a challenge."""
    asked: list[str] = []
    try:
        request = next(steps)
        while True:
            asked.append(request.url)
            page = site.get(request.url, 404)
            if isinstance(page, str):
                request = steps.send(Response(401, {"www-authenticate": page}, b""))
                continue
            content = page if isinstance(page, bytes) else json.dumps(page).encode()
            request = steps.send(Response(page if isinstance(page, int) else 200, {}, content))
    except StopIteration as stop:
        return stop.value, asked


ISSUER = "https://as.example/tenant"
METADATA = {"issuer": ISSUER, "token_endpoint": "https://as.example/tenant/token"}
LOCATIONS = [
    "https://as.example/.well-known/oauth-authorization-server/tenant",
    "https://as.example/.well-known/openid-configuration/tenant",
    "https://as.example/tenant/.well-known/openid-configuration",
]


@pytest.mark.parametrize("place", range(3))
def test_server_metadata_is_found_at_each_location_in_order(place: int) -> None:
    findings: list[Finding] = []
    metadata, asked = drive(server_metadata(ISSUER, findings), {LOCATIONS[place]: METADATA})
    assert metadata is not None
    assert metadata.token_endpoint == METADATA["token_endpoint"]
    assert metadata.token_endpoint_auth_methods == ("client_secret_basic",)
    assert asked == [finding.url for finding in findings] == LOCATIONS[: place + 1]


def test_a_page_that_is_no_json_is_no_metadata() -> None:
    metadata, asked = drive(server_metadata(ISSUER, []), dict.fromkeys(LOCATIONS, b"<html>"))
    assert metadata is None
    assert asked == LOCATIONS


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({**METADATA, "issuer": "https://evil.example"}, "another issuer"),
        ({**METADATA, "issuer": ISSUER + "/"}, "another issuer"),
        ({"token_endpoint": "https://as.example/token"}, "another issuer"),
        ({**METADATA, "token_endpoint": "http://as.example/token"}, "unsafe"),
        ({**METADATA, "token_endpoint": None}, "unsafe"),
        ({**METADATA, "token_endpoint": ["https://as.example"]}, "unsafe"),
    ],
)
def test_metadata_that_must_not_be_believed(metadata: dict[str, Any], cause: str) -> None:
    with pytest.raises(DiscoveryError, match=cause) as caught:
        drive(server_metadata(ISSUER, []), {LOCATIONS[0]: metadata})
    assert caught.value.url == LOCATIONS[0]
    assert "RFC 8414" in caught.value.step


def test_a_server_in_trouble_is_not_a_server_without_metadata() -> None:
    with pytest.raises(DiscoveryError) as caught:
        drive(server_metadata(ISSUER, []), {LOCATIONS[0]: 503})
    assert caught.value.retryable


URL = "https://g.example/servers/42/mcp"
RESOURCE = {"resource": URL, "authorization_servers": [ISSUER], "scopes_supported": ["a", "b"]}
AT_PATH = "https://g.example/.well-known/oauth-protected-resource/servers/42/mcp"
AT_ROOT = "https://g.example/.well-known/oauth-protected-resource"
ELSEWHERE = "https://g.example/custom/metadata.json"
POINTER = f'Bearer error="invalid_token", resource_metadata="{ELSEWHERE}", scope="c"'


def find(site: dict[str, Any], **options: Any) -> tuple[Discovery, list[str]]:
    found, asked = drive(discover_resource(URL, [], **options), site)
    assert asked[0] == URL
    return found, asked[1:]


@pytest.mark.parametrize(
    ("location", "resource"),
    [(AT_PATH, URL), (AT_ROOT, "https://g.example"), (AT_ROOT, "https://g.example/servers/42")],
)
def test_discovers_from_the_resource_to_the_token_endpoint(location: str, resource: str) -> None:
    found, asked = find({location: {**RESOURCE, "resource": resource}, LOCATIONS[0]: METADATA})
    assert (found.token_endpoint, found.issuer) == (METADATA["token_endpoint"], ISSUER)
    assert (found.resource, found.scope) == (resource, "a b")
    assert asked == [*[AT_PATH, AT_ROOT][: 1 + (location == AT_ROOT)], LOCATIONS[0]]


def test_the_challenge_goes_before_the_well_known_locations_and_its_scope_before_the_published() -> None:
    found, asked = find({URL: POINTER, ELSEWHERE: RESOURCE, AT_PATH: {}, LOCATIONS[0]: METADATA})
    assert asked == [ELSEWHERE, LOCATIONS[0]]
    assert found.scope == "c"


def test_a_challenge_that_points_nowhere_is_an_error_and_no_reason_to_guess() -> None:
    with pytest.raises(DiscoveryError, match="has no metadata"):
        find({URL: POINTER, AT_PATH: RESOURCE})


def test_falls_back_on_the_derived_endpoint() -> None:
    found, asked = find({})
    assert found.token_endpoint == "https://g.example/servers/42/oauth/token"
    assert (found.issuer, found.server) == (None, None)
    assert asked == [AT_PATH, AT_ROOT]


def test_nothing_published_and_nothing_to_derive_from() -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        drive(discover_resource("https://g.example/api", []), {})


SECOND = "https://two.example"
SECOND_METADATA = {"issuer": SECOND, "token_endpoint": f"{SECOND}/token"}
BOTH = {
    AT_PATH: {**RESOURCE, "authorization_servers": [ISSUER, SECOND]},
    LOCATIONS[0]: {**METADATA, "token_endpoint_auth_methods_supported": ["client_secret_post"]},
    f"{SECOND}/.well-known/oauth-authorization-server": SECOND_METADATA,
}


def test_several_authorization_servers_are_listed_where_the_settings_leave_a_doubt() -> None:
    with pytest.raises(DiscoveryError) as caught:
        find(BOTH)
    assert ISSUER in str(caught.value)
    assert SECOND in str(caught.value)
    assert "authorization_server" in str(caught.value)


def test_several_authorization_servers_are_told_apart_by_an_option_or_by_the_method() -> None:
    assert find(BOTH, authorization_server=SECOND)[0].issuer == SECOND
    assert find(BOTH, method="client_secret_post")[0].issuer == ISSUER
    with pytest.raises(DiscoveryError, match="the configured"):
        find(BOTH, authorization_server="https://three.example")


def test_metadata_is_relied_on_for_as_long_as_it_says() -> None:
    ages = {AT_PATH: "max-age=7200", LOCATIONS[0]: "public, max-age=600"}
    steps = discover_resource(URL, [])
    request = next(steps)
    try:
        while True:
            body = {AT_PATH: RESOURCE, LOCATIONS[0]: METADATA}.get(request.url)
            headers = {"cache-control": ages.get(request.url, "")}
            request = steps.send(Response(200 if body else 404, headers, json.dumps(body).encode()))
    except StopIteration as stop:
        assert stop.value.lifetime == 600.0


def test_a_list_without_end_is_not_walked() -> None:
    servers = [f"https://as{number}.example" for number in range(MAX_SERVERS + 1)]
    with pytest.raises(DiscoveryError, match="lists 9 servers"):
        find({AT_PATH: {**RESOURCE, "authorization_servers": servers}})
