import pytest

from conduit_oauth import ConfigurationError
from conduit_oauth.protocol.urls import canonical_resource, is_private, origin_of, parse_secure_url, parse_url


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
        "https://[::1]evil.example/mcp",
        "https://[evil.example]/mcp",
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


def test_a_url_has_a_longest_length() -> None:
    longest = "https://gateway.example/".ljust(8192, "x")
    assert parse_url(longest, "mcp_url").path
    with pytest.raises(ConfigurationError, match="longer than 8192 characters"):
        parse_url(longest + "x", "mcp_url")


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


@pytest.mark.parametrize(
    "host",
    [
        *["10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1", "192.0.0.9"],
        *["::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fd00::1", "ff02::1"],
        *["::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::", "2001:0:a00:1:0:0:f5ff:fffe"],
        *["::10.0.0.1", "::8.8.8.8", "::ffff:0:10.0.0.1", "4000::1", "5f00::1"],
        *["127.1", "0x7f000001", "2130706433", "localhost", "db", "db.", "metadata.google.internal"],
        *["api.default.svc", "api.default.svc.cluster.local", "nas.lan", "wiki.corp", "hub.home.arpa", "a.localhost"],
    ],
)
def test_what_is_not_public_is_recognised(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize(
    "host",
    [
        "as.example",
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:0:a00:1:0:0:f7f7:f7f7",
        "corp.example",
        "lan.example",
    ],
)
def test_what_is_public_is_not_taken_for_private(host: str) -> None:
    assert not is_private(host)
