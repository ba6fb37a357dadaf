from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conduit_oauth import ConfigurationError, DiscoveryError, TokenProvider, derive_token_endpoint
from conduit_oauth.protocol.discovery import (
    MAX_SERVERS,
    Discovery,
    discover_any,
    discover_issuer,
    discover_resource,
)
from conduit_oauth.protocol.http import Request, Response
from conduit_oauth.protocol.locations import Search, server_metadata

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
    """Answer a step's requests from `site`, a mapping of URL to JSON, bytes, a status, a challenge or a response."""
    asked: list[str] = []
    try:
        request = next(steps)
        while True:
            asked.append(request.url)
            page = site.get(request.url, 404)
            if isinstance(page, str):
                request = steps.send(Response(401, {"www-authenticate": page}, b""))
                continue
            if isinstance(page, Response):
                request = steps.send(page)
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
    "https://as.example/tenant/.well-known/oauth-authorization-server",
]


@pytest.mark.parametrize("place", range(4))
def test_server_metadata_is_found_at_each_location_in_order(place: int) -> None:
    search = Search()
    metadata, asked = drive(server_metadata(ISSUER, search), {LOCATIONS[place]: METADATA})
    assert metadata is not None
    assert metadata.token_endpoint == METADATA["token_endpoint"]
    assert metadata.methods_at("token_endpoint") == ("client_secret_basic",)
    assert asked == [finding.url for finding in search.findings] == LOCATIONS[: place + 1]


def test_a_page_that_is_no_json_is_no_metadata() -> None:
    metadata, asked = drive(server_metadata(ISSUER, Search()), dict.fromkeys(LOCATIONS, b"<html>"))
    assert metadata is None
    assert asked == LOCATIONS


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({**METADATA, "issuer": "https://evil.example"}, "another issuer"),
        ({**METADATA, "issuer": ISSUER + "/"}, "another issuer"),
        ({**METADATA, "issuer": None}, "another issuer"),
        ({**METADATA, "token_endpoint": "http://as.example/token"}, "unsafe"),
        ({**METADATA, "token_endpoint": None}, "unsafe"),
        ({**METADATA, "token_endpoint": ["https://as.example"]}, "unsafe"),
    ],
)
def test_metadata_that_must_not_be_believed(metadata: dict[str, Any], cause: str) -> None:
    with pytest.raises(DiscoveryError, match=cause) as caught:
        drive(server_metadata(ISSUER, Search()), {LOCATIONS[0]: metadata})
    assert caught.value.url == LOCATIONS[0]
    assert "RFC 8414" in caught.value.step


def test_a_server_in_trouble_is_not_a_server_without_metadata() -> None:
    with pytest.raises(DiscoveryError) as caught:
        drive(server_metadata(ISSUER, Search()), {LOCATIONS[0]: 503})
    assert caught.value.retryable


URL = "https://g.example/servers/42/mcp"
RESOURCE = {"resource": URL, "authorization_servers": [ISSUER], "scopes_supported": ["a", "b"]}
AT_PATH = "https://g.example/.well-known/oauth-protected-resource/servers/42/mcp"
AT_ROOT = "https://g.example/.well-known/oauth-protected-resource"
ELSEWHERE = "https://g.example/custom/metadata.json"
POINTER = f'Bearer error="invalid_token", resource_metadata="{ELSEWHERE}", scope="c"'


def find(site: dict[str, Any], **options: Any) -> tuple[Discovery, list[str]]:
    found, asked = drive(discover_resource(URL, Search(), **options), site)
    assert asked[0] == URL
    return found, asked[1:]


@pytest.mark.parametrize(
    ("location", "resource"),
    [(AT_PATH, URL), (AT_ROOT, "https://g.example"), (AT_ROOT, "https://g.example/servers/42")],
)
def test_discovers_from_the_resource_to_the_token_endpoint(location: str, resource: str) -> None:
    found, asked = find({location: {**RESOURCE, "resource": resource}, LOCATIONS[0]: METADATA})
    assert (found.token_endpoint, found.issuer) == (METADATA["token_endpoint"], ISSUER)
    assert found.resource is not None
    assert (found.resource.resource, found.scope) == (resource, "a b")
    assert asked == [*[AT_PATH, AT_ROOT][: 1 + (location == AT_ROOT)], LOCATIONS[0]]


def test_the_challenge_goes_before_the_well_known_locations_and_its_scope_before_the_published() -> None:
    found, asked = find({URL: POINTER, ELSEWHERE: RESOURCE, AT_PATH: {}, LOCATIONS[0]: METADATA})
    assert asked == [ELSEWHERE, LOCATIONS[0]]
    assert found.scope == "c"


def test_a_challenge_that_points_nowhere_is_an_error_and_no_reason_to_guess() -> None:
    with pytest.raises(DiscoveryError, match="has no metadata"):
        find({URL: POINTER, AT_PATH: RESOURCE})


ORIGINS = [
    "https://g.example/.well-known/oauth-authorization-server",
    "https://g.example/.well-known/openid-configuration",
]
ORIGIN_METADATA = {"issuer": "https://g.example", "token_endpoint": "https://g.example/token"}


def test_the_metadata_of_the_origin_goes_before_the_derived_endpoint() -> None:
    found, asked = find({ORIGINS[0]: ORIGIN_METADATA})
    assert (found.token_endpoint, found.issuer) == ("https://g.example/token", "https://g.example")
    assert asked == [AT_PATH, AT_ROOT, ORIGINS[0]]


def test_another_issuer_at_the_origin_is_not_believed() -> None:
    found, _ = find({ORIGINS[0]: {**ORIGIN_METADATA, "issuer": "https://evil.example"}})
    assert found.derived


def test_a_chosen_authorization_server_is_never_ignored() -> None:
    found, _ = find({ORIGINS[0]: ORIGIN_METADATA, LOCATIONS[0]: METADATA}, authorization_server=ISSUER)
    assert found.issuer == ISSUER
    unnamed = {name: value for name, value in RESOURCE.items() if name != "authorization_servers"}
    found, _ = find({AT_PATH: unnamed, LOCATIONS[0]: METADATA}, authorization_server=ISSUER)
    assert found.issuer == ISSUER
    with pytest.raises(DiscoveryError, match="publishes none"):
        find({}, authorization_server=ISSUER)


def test_objects_that_are_no_metadata_lead_to_the_next_location() -> None:
    everywhere = {"error": "no such page"}
    pages = {
        **dict.fromkeys([AT_PATH, *LOCATIONS[:2]], everywhere),
        AT_ROOT: {**RESOURCE, "resource": "https://g.example"},
    }
    found, asked = find({**pages, LOCATIONS[2]: METADATA})
    assert found.issuer == ISSUER
    assert asked == [AT_PATH, AT_ROOT, *LOCATIONS[:3]]


def test_falls_back_on_the_derived_endpoint() -> None:
    found, asked = find({})
    assert found.token_endpoint == "https://g.example/servers/42/oauth/token"
    assert (found.issuer, found.server, found.derived) == (None, None, True)
    assert asked == [AT_PATH, AT_ROOT, *ORIGINS]


def test_nothing_published_and_nothing_to_derive_from() -> None:
    with pytest.raises(ConfigurationError, match="neither"):
        drive(discover_resource("https://g.example/api", Search()), {})


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
    steps = discover_resource(URL, Search())
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


def test_trouble_at_one_location_does_not_keep_the_next_from_being_asked() -> None:
    pages = {LOCATIONS[0]: 502, LOCATIONS[1]: 503, LOCATIONS[2]: METADATA}
    assert drive(discover_issuer(ISSUER, Search()), pages)[0].issuer == ISSUER
    found, asked = find({AT_PATH: 502, AT_ROOT: {**RESOURCE, "resource": "https://g.example"}, LOCATIONS[0]: METADATA})
    assert found.issuer == ISSUER
    assert asked[:2] == [AT_PATH, AT_ROOT]


@pytest.mark.parametrize("pages", [{AT_PATH: 502}, {AT_ROOT: 502}, {ORIGINS[1]: 502}])
def test_where_one_location_is_in_trouble_and_none_has_metadata_nothing_is_derived(pages: dict[str, Any]) -> None:
    with pytest.raises(DiscoveryError, match="answered 502") as caught:
        find(pages)
    assert caught.value.retryable


def test_metadata_of_another_issuer_does_not_hide_that_of_ours() -> None:
    another = {**METADATA, "issuer": "https://as.example"}
    found, asked = drive(discover_issuer(ISSUER, Search()), {LOCATIONS[0]: another, LOCATIONS[2]: METADATA})
    assert found.issuer == ISSUER
    assert asked == LOCATIONS[:3]
    # Trouble may pass, and says less.
    with pytest.raises(DiscoveryError) as caught:
        drive(discover_issuer(ISSUER, Search()), {LOCATIONS[0]: another, LOCATIONS[1]: 503, LOCATIONS[2]: another})
    assert caught.value.retryable


def test_an_endpoint_with_a_slash_at_its_end_has_a_location_of_its_own() -> None:
    site = {AT_PATH + "/": {**RESOURCE, "resource": URL + "/"}, LOCATIONS[0]: METADATA}
    found, asked = drive(discover_resource(URL + "/", Search()), site)
    assert found.issuer == ISSUER
    assert asked[1] == AT_PATH + "/"
    found, asked = drive(discover_resource(URL + "/", Search()), {AT_PATH: RESOURCE, LOCATIONS[0]: METADATA})
    assert found.issuer == ISSUER
    assert asked[1:3] == [AT_PATH + "/", AT_PATH]


@pytest.mark.parametrize(
    "location", ["/elsewhere", "https://as.example/elsewhere", "https://as.example/elsewhere#part"]
)
def test_a_redirect_of_metadata_within_its_origin_is_followed_once(location: str) -> None:
    moved = Response(302, {"location": location}, b"")
    pages = {LOCATIONS[0]: moved, "https://as.example/elsewhere": METADATA}
    found, asked = drive(discover_issuer(ISSUER, Search()), pages)
    assert found.issuer == ISSUER
    assert asked == [LOCATIONS[0], "https://as.example/elsewhere"]
    again = {**pages, "https://as.example/elsewhere": moved}
    with pytest.raises(DiscoveryError, match="redirects to"):
        drive(discover_issuer(ISSUER, Search()), again)


@pytest.mark.parametrize(
    "location", ["http://as.example/x", "//evil.example/x", "https://as.example:444/x", "javascript:x"]
)
def test_another_redirect_of_metadata_is_named_and_not_followed(location: str) -> None:
    moved = Response(302, {"location": location}, b"")
    with pytest.raises(DiscoveryError, match="redirects to") as caught:
        drive(discover_issuer(ISSUER, Search()), {LOCATIONS[0]: moved})
    assert location in str(caught.value)


@pytest.mark.parametrize("issuer", ["https://as.example", "https://as.example/"])
def test_an_empty_path_of_an_issuer_and_a_slash_are_the_same(issuer: str) -> None:
    metadata = {"issuer": "https://as.example/", "token_endpoint": "https://as.example/token"}
    found, _ = drive(
        discover_issuer(issuer, Search()), {"https://as.example/.well-known/oauth-authorization-server": metadata}
    )
    # As the server spells itself: it compares the audience of an assertion with that.
    assert found.issuer == "https://as.example/"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (ISSUER + "/", f"Only the slash at the end differs: configure issuer as {ISSUER}/"),
        ("https://other.example", "If https://other.example is the issuer that you mean, configure it as issuer"),
    ],
)
def test_another_issuer_is_shown(named: str, words: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        drive(discover_issuer(ISSUER, Search()), {LOCATIONS[0]: {**METADATA, "issuer": named}})
    assert caught.value.cause == "issuer-mismatch"
    assert f"names another issuer, {named}; expected issuer {ISSUER}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("location", "issuer"),
    [
        ("https://as.example/realms/a/.well-known/openid-configuration", "https://as.example/realms/a"),
        ("https://as.example/.well-known/oauth-authorization-server/tenant", "https://as.example/tenant"),
    ],
)
def test_the_url_of_metadata_is_no_issuer(location: str, issuer: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "secret", issuer=location)
    assert caught.value.field == "issuer"
    assert caught.value.advice.endswith(issuer)


def test_where_nothing_is_published_each_location_is_named_with_its_answer() -> None:
    moved = Response(302, {"location": "https://elsewhere.example/metadata"}, b"")
    with pytest.raises(DiscoveryError) as caught:
        drive(
            discover_issuer(ISSUER, Search()),
            {LOCATIONS[0]: moved, LOCATIONS[1]: {"error": "no"}, LOCATIONS[2]: b"<html>"},
        )
    assert caught.value.cause == "no-metadata"
    said = str(caught.value)
    assert f"{LOCATIONS[0]} (302, redirects to https://elsewhere.example/metadata)" in said
    assert f"{LOCATIONS[1]} (no issuer in it)" in said
    assert f"{LOCATIONS[2]} (not JSON)" in said
    assert f"{LOCATIONS[3]} (404)" in said


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": ISSUER},
        {"token_endpoint": f"{ISSUER}/token"},
        {"mcp_url": URL, "discovery": False},
    ],
)
def test_a_chosen_authorization_server_that_would_be_ignored_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "secret", authorization_server=SECOND, **settings)
    assert caught.value.field == "authorization_server"


def test_a_url_is_read_as_an_issuer_or_as_a_resource() -> None:
    assert drive(discover_any(ISSUER, Search()), {LOCATIONS[0]: METADATA})[0].issuer == ISSUER
    assert drive(discover_any(URL, Search()), {AT_PATH: RESOURCE, LOCATIONS[0]: METADATA})[0].resource is not None
    api = "https://g.example/api"
    pages = {
        # What another issuer publishes at the resource's origin says nothing of the resource.
        "https://g.example/.well-known/oauth-authorization-server/api": {**METADATA, "issuer": "https://x.example"},
        "https://g.example/.well-known/oauth-protected-resource/api": {**RESOURCE, "resource": api},
        LOCATIONS[0]: METADATA,
    }
    assert drive(discover_any(api, Search()), pages)[0].issuer == ISSUER
    with pytest.raises(DiscoveryError, match="names another issuer"):
        drive(discover_any(api, Search()), dict(list(pages.items())[:1]))
    with pytest.raises(DiscoveryError, match="publishes no metadata") as caught:
        drive(discover_any(api, Search()), {})
    assert "https://g.example/.well-known/oauth-protected-resource (404)" in str(caught.value)


def test_a_resource_that_takes_only_bound_tokens_says_so_before_a_request() -> None:
    pages = {AT_PATH: {**RESOURCE, "dpop_bound_access_tokens_required": True}, LOCATIONS[0]: METADATA}
    posted: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST" and str(request.url) != URL:
            posted.append(str(request.url))
        page = pages.get(str(request.url))
        return httpx2.Response(404) if page is None else httpx2.Response(200, json=page)

    transport = httpx2.MockTransport(answer)
    with (
        TokenProvider("me", "secret", mcp_url=URL, transport=transport) as provider,
        pytest.raises(ConfigurationError) as caught,
    ):
        provider.get_token()
    assert caught.value.field == "dpop"
    assert "takes only bound tokens" in str(caught.value)
    assert not posted
