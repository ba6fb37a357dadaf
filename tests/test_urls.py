import pytest

from conduit_oauth import ConfigurationError
from conduit_oauth.urls import canonical_resource, origin_of, parse_secure_url, parse_url


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        17,
        "gateway.example/mcp",
        "/mcp",
        "ftp://gateway.example/mcp",
        "https:///mcp",
        "https://gateway.example:port/mcp",
        "https://gateway.example:99999/mcp",
        "https://[::1/mcp",
        "https://user:secret@gateway.example/mcp",
        "https://good.example\\@evil.example/mcp",
        "https://gateway.example/m cp",
        "https://gateway.example/mcp\n",
        "https://gätéway.example/mcp",
    ],
)
def test_bad_urls_are_refused_by_name(url: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url, "mcp_url")
    assert caught.value.field == "mcp_url"
    assert "secret" not in str(caught.value).replace("client_secret", "")


@pytest.mark.parametrize(
    "url", ["https://gateway.example", "http://localhost:8080", "http://127.8.8.8/x", "http://[::1]:1/x"]
)
def test_tls_or_loopback_is_secure(url: str) -> None:
    parse_secure_url(url, "issuer")


@pytest.mark.parametrize(
    "url", ["http://gateway.example", "http://10.0.0.1/x", "http://localhost.evil.example/", "http://127.0.0.1.nip.io/"]
)
def test_plain_http_elsewhere_is_not(url: str) -> None:
    with pytest.raises(ConfigurationError, match="plain http"):
        parse_secure_url(url, "issuer")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("HTTPS://Gateway.Example:443/a", "https://gateway.example"),
        ("http://localhost:80/", "http://localhost"),
        ("https://gateway.example:8443/a?b", "https://gateway.example:8443"),
        ("http://[::1]:81/", "http://[::1]:81"),
    ],
)
def test_origin(url: str, origin: str) -> None:
    assert origin_of(parse_url(url, "url")) == origin


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://Gateway.example/servers/42/mcp", "https://gateway.example/servers/42/mcp"),
        ("https://gateway.example/", "https://gateway.example"),
        ("https://gateway.example:443/MCP/#top", "https://gateway.example/MCP"),
        ("https://gateway.example/mcp?tenant=1", "https://gateway.example/mcp?tenant=1"),
    ],
)
def test_canonical_resource(url: str, resource: str) -> None:
    assert canonical_resource(parse_url(url, "url")) == resource
