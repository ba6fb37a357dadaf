from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth import ConfigurationError, DiscoveryError, derive_token_endpoint
from conduit_oauth.discovery import Finding, discover, server_metadata
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
    """Answer a step's requests from `site`, a mapping of URL to JSON, bytes, or a status."""
    asked: list[str] = []
    try:
        request = next(steps)
        while True:
            asked.append(request.url)
            page = site.get(request.url, 404)
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
RESOURCE = {"resource": URL, "authorization_servers": [ISSUER]}
AT_PATH = "https://g.example/.well-known/oauth-protected-resource/servers/42/mcp"
AT_ROOT = "https://g.example/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("location", "resource"),
    [(AT_PATH, URL), (AT_ROOT, "https://g.example"), (AT_ROOT, "https://g.example/servers/42")],
)
def test_discovers_from_the_resource_to_the_token_endpoint(location: str, resource: str) -> None:
    found, _ = drive(discover(URL), {location: {**RESOURCE, "resource": resource}, LOCATIONS[0]: METADATA})
    assert found.token_endpoint == METADATA["token_endpoint"]
    assert found.resource == resource


def test_falls_back_on_the_derived_endpoint() -> None:
    found, asked = drive(discover(URL), {})
    assert found.token_endpoint == "https://g.example/servers/42/oauth/token"
    assert asked == [AT_PATH, AT_ROOT]


@pytest.mark.parametrize(
    "resource", ["https://evil.example/servers/42/mcp", "https://g.example/servers/4", "https://g.example/other", None]
)
def test_metadata_of_another_resource_is_refused(resource: str | None) -> None:
    with pytest.raises(DiscoveryError, match="another resource"):
        drive(discover(URL), {AT_PATH: {**RESOURCE, "resource": resource}})


def test_an_insecure_authorization_server_is_refused() -> None:
    with pytest.raises(DiscoveryError, match="plain http"):
        drive(discover(URL), {AT_PATH: {**RESOURCE, "authorization_servers": ["http://as.example"]}})
