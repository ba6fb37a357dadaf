"""One resolver of proxies: each form of a proxy variable does the same in each command, behind real proxies."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TransportError
from conduit_oauth.client.proxies import proxy_for
from tests.certificates import issue
from tests.cli.broken import BrokenServer
from tests.conftest import COMMAND
from tests.networks.proxies import haproxy, squid, tinyproxy
from tests.ports import free_port

HOST = "as.conduit.example"
PASSWORD = "pä#ss/w@rd"
TOKEN = {"access_token": "good-token", "token_type": "Bearer", "expires_in": 3600}
ABOUT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "g", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}


class Company:
    """A server that is reached by a proxy alone, and a client in the same network."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        authority = issue(folder, "authority", ca=True)
        issue(folder, "server", authority, host=HOST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
        self.server = stack.enter_context(BrokenServer(context))
        self.server.pages = {"/token": TOKEN, "/mcp": {"jsonrpc": "2.0", "id": 0, "result": ABOUT}}
        self.url = f"https://{HOST}:{self.server.port}"
        self.ca_file = folder / "authority.pem"
        self.environment = {
            "HOME": str(folder),
            "CONDUIT_OAUTH_CLIENT_ID": "client",
            "CONDUIT_OAUTH_CLIENT_SECRET": "very-secret",
            "CONDUIT_OAUTH_TOKEN_ENDPOINT": f"{self.url}/token",
            "CONDUIT_OAUTH_STORE": "memory:",
            "SSL_CERT_FILE": str(self.ca_file),
            "COLUMNS": "250",
            "PYTHONUTF8": "1",
        }
        self.proxy = stack.enter_context(squid(HOST))
        self.open = self.proxy.port
        issue(folder, "proxy", authority, host="localhost")
        pair = folder / "pair.pem"
        pair.write_text((folder / "proxy.pem").read_text() + (folder / "proxy-key.pem").read_text())
        self.by_tls = stack.enter_context(haproxy(folder, self.open, pair))
        self.by_another = stack.enter_context(tinyproxy(folder, self.open))
        self.closed = stack.enter_context(squid(HOST, ("user", PASSWORD))).port

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        arguments = {
            "token": [],
            "doctor": ["--mcp-url", f"{self.url}/mcp", "--token-endpoint", f"{self.url}/token"],
            "request": ["GET", f"{self.url}/mcp", "--resource", self.url, "--retries", "0"],
            "bridge": ["--mcp-url", f"{self.url}/mcp", "--token-endpoint", f"{self.url}/token", "--patience", "1"],
        }[command]
        return subprocess.run(
            [COMMAND, command, *arguments],
            env={**self.environment, **variables},
            input=json.dumps(INITIALIZE) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with ExitStack() as stack:
        yield Company(tmp_path_factory.mktemp("company"), stack)


@pytest.fixture(scope="module")
def interceptor(company: Company, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A proxy that opens TLS, and its authority."""
    folder = tmp_path_factory.mktemp("interceptor")
    issue(folder, "interceptor", ca=True)
    authority, pair = folder / "interceptor.pem", folder / "pair.pem"
    pair.write_text(authority.read_text() + (folder / "interceptor-key.pem").read_text())
    with squid(HOST, opens=(pair, company.ca_file)) as proxy:
        yield f"http://127.0.0.1:{proxy.port}", authority


COMMANDS = ("token", "doctor", "request", "bridge")
FORMS: dict[str, Callable[[Company], dict[str, str]]] = {
    "as a URL": lambda company: {"HTTPS_PROXY": f"http://127.0.0.1:{company.open}"},
    "without a scheme": lambda company: {"HTTPS_PROXY": f"127.0.0.1:{company.open}"},
    "in lower case, with a slash": lambda company: {"https_proxy": f"http://127.0.0.1:{company.open}/"},
    "for all": lambda company: {"ALL_PROXY": f"http://127.0.0.1:{company.open}"},
    "by tinyproxy": lambda company: {"HTTPS_PROXY": f"http://127.0.0.1:{company.by_another}"},
    "by TLS": lambda company: {"HTTPS_PROXY": f"https://localhost:{company.by_tls}"},
    "with a password": lambda company: {"HTTPS_PROXY": f"http://user:p%C3%A4%23ss%2Fw%40rd@127.0.0.1:{company.closed}"},
    "with a password as it is": lambda company: {"HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:{company.closed}"},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_works_in_each_command(form: str, command: str, company: Company) -> None:
    done = company.run(command, **FORMS[form](company))
    assert done.returncode == 0, done.stderr + done.stdout
    if command == "bridge":
        assert json.loads(done.stdout)["result"] == ABOUT


@pytest.mark.parametrize("command", COMMANDS)
def test_a_proxy_that_is_down_is_said(command: str, company: Company) -> None:
    port = free_port()
    done = company.run(command, HTTPS_PROXY=f"http://127.0.0.1:{port}", CONDUIT_OAUTH_TIMEOUT="5")
    said = done.stdout + done.stderr
    assert f"the proxy http://127.0.0.1:{port} (HTTPS_PROXY)" in said, said
    assert "✓ connection" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_proxy_that_opens_tls_is_trusted_where_its_authority_is(
    command: str, company: Company, interceptor: tuple[str, Path]
) -> None:
    proxy, authority = interceptor
    refused = company.run(command, HTTPS_PROXY=proxy)
    said = refused.stdout + refused.stderr
    assert "good-token" not in said
    if command == "doctor":
        assert "an authority that is not trusted here: CN=interceptor" in said, said
        assert f"{proxy} (HTTPS_PROXY) may open the connection" in said, said
    else:
        assert "the server's certificate is refused" in said, said
        assert "SSL_CERT_FILE" in said
    done = company.run(command, HTTPS_PROXY=proxy, SSL_CERT_FILE=str(authority))
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_proxy_that_refuses_is_said_without_the_password(command: str, company: Company) -> None:
    proxy = f"http://user:wrong-password@127.0.0.1:{company.closed}"
    done = company.run(command, HTTPS_PROXY=proxy, CONDUIT_OAUTH_TIMEOUT="5")
    said = done.stdout + done.stderr
    assert "407" in said, said
    assert f"127.0.0.1:{company.closed}" in said
    assert "wrong-password" not in said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "value", ["ftp://user:pass#word@127.0.0.1:1", "http://pass#word@", "http://pass#word@127.0.0.1:x"]
)
def test_a_variable_that_will_not_do_is_named_without_its_password(value: str, command: str, company: Company) -> None:
    done = company.run(command, HTTPS_PROXY=value)
    said = done.stdout + done.stderr
    assert "HTTPS_PROXY" in said
    assert "word" not in said.replace("password", "")
    assert "Traceback" not in said
    assert done.returncode == (1 if command == "doctor" else 2) or command == "bridge"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_proxy_names_goes_past_it(command: str, company: Company) -> None:
    before = company.proxy.tunnels()
    # Nobody but the proxy knows the name.
    proxy = f"http://127.0.0.1:{company.open}"
    done = company.run(command, HTTPS_PROXY=proxy, NO_PROXY="*.conduit.example", CONDUIT_OAUTH_TIMEOUT="5")
    assert "the proxy" not in done.stdout + done.stderr
    assert company.proxy.tunnels() == before


NO_PROXY = [
    ("as.conduit.example", "https://as.conduit.example/", True),
    ("conduit.example", "https://as.conduit.example/", True),
    (".conduit.example", "https://as.conduit.example/", True),
    ("*.conduit.example", "https://as.conduit.example/", True),
    (".conduit.example", "https://conduit.example/", False),
    ("conduit.example", "https://notconduit.example/", False),
    ("other.example, conduit.example", "https://AS.conduit.example/", True),
    ("as.conduit.example:8443", "https://as.conduit.example:8443/", True),
    ("as.conduit.example:8443", "https://as.conduit.example/", False),
    ("https://as.conduit.example", "https://as.conduit.example/", True),
    ("http://as.conduit.example", "https://as.conduit.example/", False),
    ("10.0.0.0/8", "https://10.2.3.4/", True),
    ("10.0.0.0/8", "https://11.2.3.4/", False),
    ("10.2.3.4", "https://10.2.3.4/", True),
    ("fd00::/8", "https://[fd00::1]/", True),
    ("[fd00::1]", "https://[fd00::1]/", True),
    ("*", "https://as.conduit.example/", True),
    ("", "https://as.conduit.example/", False),
]


@pytest.mark.parametrize(("no_proxy", "url", "exempt"), NO_PROXY)
def test_no_proxy_is_read_as_httpx2_reads_it(
    no_proxy: str, url: str, exempt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(url) is None) == exempt
    with httpx2.Client() as client:
        direct = client._transport_for_url(httpx2.URL(url)) is client._transport
    assert direct == exempt


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_loopback_is_never_reached_by_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    assert proxy_for(f"http://{host}:8080/") is None
    assert proxy_for("https://as.example/") is not None


def test_a_proxys_password_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://user:pass-word@proxy.example:3128")
    proxy = proxy_for("https://as.example/")
    assert proxy is not None
    assert proxy.credentials == ("user", "pass-word")
    assert "pass-word" not in f"{proxy!r} {proxy}"


def provider(company: Company, **settings: Any) -> TokenProvider:
    return TokenProvider("client", "very-secret", token_endpoint=f"{company.url}/token", **settings)


def test_a_ca_file_is_trusted_in_place_of_the_platforms(
    company: Company, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{company.open}")
    with provider(company, ca_file=company.ca_file) as trusting:
        assert trusting.get_token() == "good-token"
        assert trusting.tls_context() is not None
    issue(tmp_path, "another", ca=True)
    with provider(company, ca_file=str(tmp_path / "another.pem")) as other, pytest.raises(TransportError) as caught:
        other.get_token()
    assert "certificate is refused" in str(caught.value)
    for file in (tmp_path / "absent.pem", Path(__file__)):
        with pytest.raises(ConfigurationError) as refused:
            provider(company, ca_file=file)
        assert refused.value.field == "ca_file"
        assert str(file) in str(refused.value)
