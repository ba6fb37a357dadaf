"""The command line as a shell runs it."""

from __future__ import annotations

import base64
import hmac
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from conduit_oauth import ConfigurationError, __version__
from conduit_oauth.cli.app import app
from conduit_oauth.cli.profile import Options
from conduit_oauth.testing import AuthorizationServer
from tests.certificates import issue
from tests.cli.broken import BrokenServer
from tests.cli.conftest import Run
from tests.conftest import COMMAND


def assert_token(text: str) -> None:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(text.split(".")) == 3


def test_token_prints_the_token_alone(run: Run) -> None:
    done = run("token")
    assert (done.returncode, done.stderr) == (0, "")
    assert_token(done.stdout)


def test_the_next_command_finds_the_token_that_is_still_valid(
    run: Run, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    first = run("token").stdout
    assert run("token").stdout == first
    assert len(authorization_server.token_requests) == 1
    assert first.strip().encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("tokens.sqlite3*"))
    second = run("token", "--fresh").stdout
    assert second != first
    assert run("token").stdout == second
    assert run("token", "--store", "memory:").stdout not in (first, second)
    assert len(authorization_server.token_requests) == 3


def test_options_go_before_the_environment_and_that_before_the_profile(
    run: Run, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[profiles.default]\nclient_id = "nobody"\nscope = "mcp:read"\n'
        f'token_endpoint = "{authorization_server.token_endpoint("profile")}"\n'
        f'[profiles.other]\nclient_id = "demo"\nissuer = "{authorization_server.issuer("other")}"\ntimeout = 5\n'
    )
    endpoint = authorization_server.token_endpoint("option")
    for arguments, changes in (
        ([], {}),
        (["--token-endpoint", endpoint, "--scope", "mcp:write"], {}),
        (["--profile", "other"], {"CONDUIT_OAUTH_MCP_URL": None, "CONDUIT_OAUTH_CLIENT_ID": None}),
    ):
        done = run("token", "--config", config, *arguments, **changes)
        assert done.returncode == 0, done.stderr
    first, second, third = authorization_server.token_requests
    assert (first["gateway"], first["form"]["scope"], first["client_id"]) == ("demo", "mcp:read", "demo")
    assert (second["gateway"], second["form"]["scope"]) == ("option", "mcp:write")
    assert third["gateway"] == "other"


def test_the_secret_from_a_file_or_standard_input(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("demo-secret\n")
    nothing = {"CONDUIT_OAUTH_CLIENT_SECRET": None}
    assert_token(run("token", "--client-secret-file", file, **nothing).stdout)
    assert_token(run("token", "--client-secret-file", "-", stdin="demo-secret\n", **nothing).stdout)
    assert_token(run("token", CONDUIT_OAUTH_CLIENT_SECRET_FILE=str(file), **nothing).stdout)


@pytest.mark.parametrize(
    ("command", "use"),
    [
        (["inspect"], "the token is read from"),
        (["request", "POST", "https://api.example/", "--data", "@-"], "the body is read from"),
        (["request", "POST", "https://api.example/", "--json", "@-"], "the body is read from"),
    ],
)
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_has_one_use(run: Run, command: list[str], use: str, name: str) -> None:
    done = run(*command, "--client-secret-file", name, stdin="demo-secret\n")
    assert done.returncode == 2
    assert done.stderr == f"error: --client-secret-file: {name} reads standard input, which {use}. Name a file.\n"


def test_the_secret_from_a_pipe_that_can_be_read_once(
    environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    del environment["CONDUIT_OAUTH_CLIENT_SECRET"]
    # Each method of the client is refused once, so the secret is needed twice.
    authorization_server.fail(401, body='{"error": "invalid_client"}')
    command = f"{COMMAND} token --client-secret-file <(printf demo-secret)"
    done = subprocess.run(
        ["/bin/bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(authorization_server.token_requests) == 2


def test_a_failing_fresh_leaves_the_token_where_it_is(run: Run, authorization_server: AuthorizationServer) -> None:
    token = run("token").stdout
    authorization_server.fail(400, body='{"error": "invalid_scope"}')
    assert run("token", "--fresh").returncode == 3
    assert run("token").stdout == token


def test_several_resources(run: Run, authorization_server: AuthorizationServer) -> None:
    issuer = authorization_server.issuer()
    options = [word for path in ("one", "two") for word in ("--resource", f"{issuer}/{path}")]
    # The development server takes one resource only, and says so.
    done = run("token", "--issuer", issuer, *options)
    assert done.returncode == 3
    assert "a parameter is repeated" in done.stderr
    both = run("token", "--issuer", issuer, CONDUIT_OAUTH_RESOURCE=f"{issuer}/one {issuer}/two")
    assert both.returncode == 3
    assert run("token", "--issuer", issuer, *options[:2]).returncode == 0


@pytest.mark.parametrize("way", [["--dpop"], []])
def test_bound_tokens_are_an_option(way: list[str], run: Run) -> None:
    environment = {"CONDUIT_OAUTH_DPOP": None if way else "true"}
    # The development server binds none.
    done = run("request", "GET", "http://127.0.0.1:1/", *way, **environment)
    assert done.returncode == 5
    assert "this server does not bind tokens for this client" in done.stderr
    # Of a key that ends with the command, another program has no use.
    for command in (["token"], ["token", "--fresh"], ["exec", "true"]):
        done = run(*command[:1], *way, *command[1:], **environment)
        assert done.returncode == 2
        assert "binds the token to a key that this process alone has" in done.stderr
    assert run("token", CONDUIT_OAUTH_DPOP="perhaps").returncode == 2


def at_a_terminal(environment: dict[str, str], *arguments: str, secret: bytes = b"") -> tuple[int, bytes]:
    """How a command at a terminal ended, and what it showed there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(COMMAND, [COMMAND, *arguments], environment)  # noqa: S606
    seen = b""
    try:
        while piece := os.read(terminal, 1024):
            seen += piece
            if secret and seen.endswith(b"Client secret: "):
                os.write(terminal, secret + b"\n")
    except OSError:  # how Linux says that the other side of a terminal has closed
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen


def test_the_secret_from_a_prompt_that_does_not_echo(environment: dict[str, str]) -> None:
    del environment["CONDUIT_OAUTH_CLIENT_SECRET"]
    status, seen = at_a_terminal(environment, "token", secret=b"demo-secret")
    assert status == 0
    assert b"demo-secret" not in seen
    assert seen.rstrip().count(b".") >= 2


def test_a_person_who_waits_is_told_what_for(environment: dict[str, str]) -> None:
    options = ("token", "--timeout", "3", "--store", "memory:", "--token-endpoint")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}/token"
        status, seen = at_a_terminal(environment, *options, endpoint)
    assert status == 4
    assert f"Waiting for a token: {endpoint}: there is no answer yet".encode() in seen
    status, seen = at_a_terminal(environment, *options, endpoint)
    assert status == 4
    assert re.search(rf"Waiting for a token: {endpoint}: [^\r\n]*refused".encode(), seen)


def test_a_person_is_asked_for_the_secret_when_all_else_is_sound(environment: dict[str, str]) -> None:
    del environment["CONDUIT_OAUTH_CLIENT_SECRET"]
    status, seen = at_a_terminal({**environment, "CONDUIT_OAUTH_MCP_URL": "nonsense"}, "token")
    assert status == 2
    assert b"Client secret" not in seen
    assert b"CONDUIT_OAUTH_MCP_URL: " in seen


def test_a_person_waits_ten_seconds_unless_an_option_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options({"client_id": "demo", "token_endpoint": "https://as.example/token", "store": "memory:"})
    monkeypatch.setenv("CONDUIT_OAUTH_CLIENT_SECRET", "demo-secret")
    for at_terminal, given, timeout in ((True, None, 10.0), (False, None, 30.0), (True, "25", 25.0)):
        monkeypatch.setattr("sys.stderr.isatty", lambda at_terminal=at_terminal: at_terminal, raising=False)
        monkeypatch.setenv("CONDUIT_OAUTH_TIMEOUT", given or "")
        with options.provider() as provider:
            assert provider._timeout == timeout


def test_there_is_no_option_for_the_secret_itself(run: Run) -> None:
    done = run("token", "--client-secret", "demo-secret")
    assert done.returncode == 2
    assert "--client-secret" not in run("token", "--help").stdout.replace("--client-secret-file", "")


def test_a_secret_in_the_profile_is_refused(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[profiles.default]\nclient_secret = "very-secret"\n')
    done = run("token", "--config", config)
    assert done.returncode == 2
    assert "client_secret" in done.stderr
    assert "{ file = … }" in done.stderr
    assert "very-secret" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "changes", "status", "said"),
    [
        (["token"], {"CONDUIT_OAUTH_CLIENT_ID": None}, 2, "client_id"),
        (["token"], {"CONDUIT_OAUTH_CLIENT_SECRET": None}, 2, "CONDUIT_OAUTH_CLIENT_SECRET"),
        (["token"], {"CONDUIT_OAUTH_MCP_URL": None}, 2, "token_endpoint"),
        (["token"], {"CONDUIT_OAUTH_TIMEOUT": "soon"}, 2, "CONDUIT_OAUTH_TIMEOUT: is not a number"),
        (["token", "--profile", "absent"], {}, 2, "absent"),
        (["token", "--config", "/absent.toml"], {}, 2, "/absent.toml"),
        (["token", "--client-secret-file", "/absent"], {}, 2, "/absent"),
        (["token"], {"CONDUIT_OAUTH_CLIENT_SECRET": "wrong-one"}, 3, "invalid_client"),
        (["token", "--scope", "admin"], {}, 3, "invalid_scope"),
        (["token", "--token-endpoint", "http://127.0.0.1:1/", "--timeout", "0.2"], {}, 4, "127.0.0.1:1"),
        (["discover", "gateway.example"], {}, 2, "URL"),
        (["inspect", "/absent"], {}, 2, "token_file: cannot be read (No such file or directory)"),
        (["frobnicate"], {}, 2, "frobnicate"),
    ],
)
def test_exit_codes_and_one_clear_line(
    arguments: list[str], changes: dict[str, str | None], status: int, said: str, run: Run
) -> None:
    done = run(*arguments, **changes)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong-one" not in done.stderr
    if arguments != ["frobnicate"]:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_an_invalid_answer_has_its_own_exit_code(run: Run, authorization_server: AuthorizationServer) -> None:
    # Twice: with a store, what the first answer was may have been an accident.
    authorization_server.malform("array", count=2)
    assert run("token").returncode == 5


def test_discover_shows_every_step(run: Run, authorization_server: AuthorizationServer) -> None:
    shown = run("discover", authorization_server.mcp_url("42")).stdout
    assert "oauth-protected-resource/servers/42/mcp" in shown
    assert "oauth-authorization-server/servers/42" in shown
    assert authorization_server.token_endpoint("42") in shown
    found = json.loads(run("discover", "--json", authorization_server.mcp_url("42")).stdout)
    assert found["found"]["token_endpoint"] == authorization_server.token_endpoint("42")
    assert [step["outcome"] for step in found["steps"]] == ["found"] * 3


def test_discover_that_leads_nowhere_fails(run: Run, authorization_server: AuthorizationServer) -> None:
    done = run("discover", f"{authorization_server.url}/nothing")
    assert done.returncode == 6
    assert "publishes no metadata" in done.stderr
    # Four locations of an issuer, the resource itself, its two locations, and those of its origin.
    assert sum(line.strip("│ ").startswith("404") for line in done.stdout.splitlines()) == 9


def test_discover_takes_an_issuer_and_shows_its_endpoints(run: Run, authorization_server: AuthorizationServer) -> None:
    issuer = authorization_server.issuer("42")
    shown = run("discover", issuer)
    assert shown.returncode == 0, shown.stderr
    for what in ("oauth/token", "oauth/introspect", "oauth/revoke", "oauth/jwks"):
        assert f"{issuer}/{what}" in shown.stdout
    found = json.loads(run("discover", "--json", issuer).stdout)["found"]
    assert found["issuer"] == issuer
    assert found["server"]["endpoints"]["introspection_endpoint"] == f"{issuer}/oauth/introspect"


def test_discover_trusts_the_authority_that_it_is_given(run: Run, tmp_path: Path) -> None:
    issue(tmp_path, "server", issue(tmp_path, "authority", ca=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    with BrokenServer(context) as server:
        token_endpoint = f"{server.url}/token"
        server.pages["/.well-known/oauth-authorization-server"] = {
            "issuer": server.url,
            "token_endpoint": token_endpoint,
        }
        assert "certificate" in run("discover", server.url).stderr
        shown = run("discover", "--ca-file", str(tmp_path / "authority.pem"), server.url)
    assert shown.returncode == 0, shown.stderr
    assert f"token endpoint {token_endpoint}" in shown.stdout


def test_discover_names_the_file_of_authorities_that_is_missing(run: Run, tmp_path: Path) -> None:
    done = run("discover", "--ca-file", str(tmp_path / "nowhere.pem"), "https://login.example")
    assert done.returncode == 2
    assert "--ca-file" in done.stderr
    assert "nowhere.pem" in done.stderr


def test_inspect_shows_the_claims_to_a_human_and_to_a_program(run: Run) -> None:
    token = run("token").stdout
    shown = run("inspect", stdin=token).stdout
    assert "signature not verified" in shown
    assert "UTC (in " in shown
    assert "It expires in 59 min" in shown or "It expires in 1 h" in shown
    claims = json.loads(run("inspect", "--json", stdin=token).stdout)["claims"]
    assert claims["client_id"] == "demo"


@pytest.mark.parametrize("end", ["null", '"soon"', "true", "[1]", "1e999", "-1e999", "9" * 400, "1e300"])
def test_inspect_shows_a_token_whose_end_is_no_time(end: str) -> None:
    parts = ('{"alg": "none"}', f'{{"exp": {end}}}')
    header, claims = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    done = CliRunner().invoke(app, ["inspect"], input=f"{header}.{claims}.")
    assert (done.exit_code, done.exception) == (0, None)
    assert "It does not say when it expires." in done.output


@pytest.mark.parametrize(
    ("token", "said"),
    [
        # What is nested without end is no JWT: its server would be asked about it.
        (base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=") + ".e30.", "is missing"),
        ("x" * (1 << 20), "is missing"),
        ("x" * ((1 << 20) + 1), "token: is longer than 1048576 characters"),
    ],
    ids=["deep", "long", "longer"],
)
def test_inspect_of_text_that_is_no_token(token: str, said: str) -> None:
    done = CliRunner().invoke(app, ["inspect"], input=token)
    assert isinstance(done.exception, ConfigurationError)
    assert said in str(done.exception)


def test_inspect_verifies_a_signature_by_the_issuers_keys(run: Run, authorization_server: AuthorizationServer) -> None:
    token = run("token").stdout
    shown = run("inspect", "--verify", stdin=token)
    assert shown.returncode == 0, shown.stderr
    assert "signature verified" in shown.stdout
    assert run("inspect", "--verify", "--issuer", "https://other.example", stdin=token).returncode == 2
    header, claims, signature = token.strip().split(".")
    forged = f"{header}.{claims}.{signature[::-1]}"
    done = run("inspect", "--verify", stdin=forged)
    assert (done.returncode, done.stdout) == (5, "")
    assert "has a signature (alg ES256, kid" in done.stderr
    assert f"that no key of {authorization_server.issuer()}/oauth/jwks verifies" in done.stderr
    assert "token response" not in done.stderr


def test_inspect_verifies_that_the_token_is_still_valid(run: Run, authorization_server: AuthorizationServer) -> None:
    authorization_server.set(lifetime=1)
    token = run("token").stdout
    # The client counts from when it asked, so its token has expired by the server's count soon after.
    while (done := run("inspect", "--verify", stdin=token)).returncode == 0:
        pass
    assert (done.returncode, done.stderr) == (5, "")
    assert "It expired" in done.stdout
    assert run("inspect", stdin=token).returncode == 0


def test_inspect_of_a_token_that_its_server_calls_inactive(run: Run) -> None:
    assert run("inspect", "--verify", stdin="no-token").returncode == 5
    done = run("inspect", "--json", stdin="no-token")
    assert done.returncode == 5
    said = json.loads(done.stdout)
    assert (said["verified"], said["active"], said["expires_in"]) == (True, False, None)


def test_inspect_tells_a_program_what_is_verified(run: Run) -> None:
    token = run("token").stdout.strip()
    unverified = json.loads(run("inspect", "--json", stdin=token).stdout)
    assert (unverified["verified"], unverified["active"]) == (False, None)
    assert 0 < unverified["expires_in"] <= 3600
    verified = json.loads(run("inspect", "--json", "--verify", stdin=token).stdout)
    assert (verified["verified"], verified["active"]) == (True, True)
    forged = run("inspect", "--json", "--verify", stdin=token[:-8] + "AAAAAAAA")
    assert forged.returncode == 5
    assert json.loads(forged.stdout)["verified"] is False


def test_the_version_and_the_short_help(run: Run) -> None:
    assert run("--version").stdout == f"conduit-oauth {__version__}\n"
    for command in ([], ["token"], ["profile", "add"]):
        assert run(*command, "-h").stdout == run(*command, "--help").stdout


def test_quiet_prints_results_and_errors_only(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    said = run("--quiet", "profile", "list", "--config", config)
    assert (said.stdout, said.stderr) == ("", "")
    failed = run("--quiet", "profile", "show", "absent", "--config", config)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --config: ")


def test_verbose_says_which_requests_went_where(run: Run, authorization_server: AuthorizationServer) -> None:
    done = run("-v", "token")
    assert done.stdout.count("\n") == 1
    assert f"POST {authorization_server.token_endpoint()}: 200 in " in done.stderr
    assert done.stdout.strip() not in done.stderr
    assert authorization_server.client_secret not in done.stderr


def test_an_error_begins_with_what_is_wrong(run: Run) -> None:
    done = run("token", "--mcp-url", "nonsense")
    assert done.stderr.startswith("error: --mcp-url: ")
    done = run("token", CONDUIT_OAUTH_MCP_URL="nonsense")
    assert done.stderr.startswith("error: CONDUIT_OAUTH_MCP_URL: ")


def test_inspect_refuses_an_empty_input(run: Run) -> None:
    done = run("inspect", stdin="\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "token: is empty" in done.stderr


@pytest.mark.parametrize("size", [40, 4000])
def test_inspect_of_a_token_in_the_place_of_a_file_does_not_repeat_it(size: int, run: Run) -> None:
    done = run("inspect", "eyJ" + "a" * size)
    assert done.returncode == 2
    assert done.stderr.startswith("error: token_file: cannot be read")
    assert "pipe one" in done.stderr
    assert "aaaa" not in done.stderr


def test_inspect_takes_the_options_of_a_client(run: Run, authorization_server: AuthorizationServer) -> None:
    issuer = authorization_server.issuer()
    for options in (
        ("--issuer", issuer),
        ("--token-endpoint", f"{issuer}/oauth/token", "--introspection-endpoint", f"{issuer}/oauth/introspect"),
    ):
        done = run("inspect", *options, "--client-id", "demo", stdin="opaque-token", CONDUIT_OAUTH_MCP_URL=None)
        assert done.returncode == 5, done.stderr
        assert "as its server says" in done.stdout


def test_keys_that_cannot_be_had_are_no_fault_of_the_token(run: Run) -> None:
    with BrokenServer() as server:
        server.pages["/.well-known/oauth-authorization-server"] = {
            "issuer": server.url,
            "token_endpoint": f"{server.url}/token",
            "jwks_uri": f"{server.url}/jwks",
        }
        server.pages["/jwks"] = (403, {}, b"")
        part = base64.urlsafe_b64encode(json.dumps({"iss": server.url}).encode()).rstrip(b"=").decode()
        header = base64.urlsafe_b64encode(b'{"alg":"RS256"}').rstrip(b"=").decode()
        done = run("inspect", "--verify", stdin=f"{header}.{part}.c2ln")
        url = f"{server.url}/jwks"
    assert done.returncode == 6
    assert f"{url} answered 403; expected a set of keys" in done.stderr


def test_the_keys_are_had_by_the_authorities_that_the_client_trusts(run: Run, tmp_path: Path) -> None:
    authority = issue(tmp_path, "authority", ca=True)
    issue(tmp_path, "server", authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    with BrokenServer(context) as server:
        part = base64.urlsafe_b64encode(json.dumps({"iss": server.url}).encode()).rstrip(b"=").decode()
        header = base64.urlsafe_b64encode(b'{"alg":"RS256"}').rstrip(b"=").decode()
        options = "--ca-file", str(tmp_path / "authority.pem")
        done = run("inspect", "--verify", *options, stdin=f"{header}.{part}.c2ln")
    # It was asked, and publishes nothing.
    assert (done.returncode, "404" in done.stderr) == (6, True), done.stderr


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_signature_that_anyone_could_make_is_none(
    algorithm: str, run: Run, authorization_server: AuthorizationServer
) -> None:
    claims = {"iss": authorization_server.issuer(), "sub": "me", "exp": 9999999999}
    jwks = httpx2.get(f"{authorization_server.issuer()}/oauth/jwks").json()["keys"][0]
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": algorithm, "kid": jwks["kid"]}, claims)
    )
    signature = ""
    if algorithm == "HS256":
        digest = hmac.digest(json.dumps(jwks).encode(), f"{header}.{payload}".encode(), "sha256")
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    done = run("inspect", "--verify", stdin=f"{header}.{payload}.{signature}")
    assert (done.returncode, done.stdout) == (5, "")
    said = {"none": "is not signed", "HS256": "with a secret of the server (HS256), which published keys cannot verify"}
    assert said[algorithm] in done.stderr


def test_inspect_asks_the_server_about_an_opaque_token(run: Run) -> None:
    shown = run("inspect", stdin="opaque-token\n")
    assert shown.returncode == 5, shown.stderr
    assert "as its server says" in shown.stdout
    assert "false" in shown.stdout
    assert run("inspect", stdin="opaque-token", CONDUIT_OAUTH_CLIENT_ID=None).returncode == 2


def test_a_token_cannot_drive_the_terminal(run: Run) -> None:
    # {"alg":"none"} . {"sub":"\u001b[31m[bold]x","exp":1}
    token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJcdTAwMWJbMzFtW2JvbGRdeCIsImV4cCI6MX0."
    shown = run("inspect", stdin=token).stdout
    assert "\x1b" not in shown
    assert "[bold]x" in shown
    assert "It expired" in shown


def test_dev_server_prints_what_the_other_commands_need_and_stops_on_a_signal(run: Run) -> None:
    process = subprocess.Popen(
        [COMMAND, "dev-server", "--port", "0", "--fail", "1", "--revoke", "1", "--lifetime", "90"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
    )
    with process:
        assert process.stdout is not None
        settings: dict[str, str] = {}
        for line in process.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                settings[name] = value
            if line.startswith("curl"):
                break
        try:
            assert_token(run("token", **settings).stdout)
            admin = settings["CONDUIT_OAUTH_MCP_URL"].replace("/servers/demo/mcp", "/admin")
            state = httpx2.get(admin).json()
            assert (state["lifetime"], len(state["token_requests"]), state["revoked"]) == (90, 2, 1)
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_ctrl_c_that_a_library_makes_another_error_of_ends_with_130() -> None:
    """As pydantic does while a module is imported."""
    code = """
import os, signal, sys, types

def run():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("wrapped") from None

sys.modules["conduit_oauth.cli.app"] = types.SimpleNamespace(run=run)
from conduit_oauth.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_bridge_that_cannot_be_opened_makes_no_token(
    run: Run, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    endpoint = ("--token-endpoint", authorization_server.token_endpoint())
    done = run("bridge", "--listen", "127.0.0.1:0", *endpoint, CONDUIT_OAUTH_MCP_URL=None)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mcp_url: is missing")
    assert list(tmp_path.rglob("bridge.token")) == []


@pytest.mark.parametrize("resource", ["", "ftp://a.example/mcp", "mcp tools:read"])
def test_a_resource_that_is_no_url_is_named(run: Run, resource: str) -> None:
    done = run("dev-server", "--port", "0", "--resource", resource)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --resource: is ")


def test_a_taken_port_is_a_clear_error(run: Run, authorization_server: AuthorizationServer) -> None:
    port = authorization_server.url.rpartition(":")[2]
    done = run("dev-server", "--port", port)
    assert done.returncode == 2
    assert port in done.stderr


def test_a_shell_completes_commands_options_and_profiles(run: Run, tmp_path: Path) -> None:
    config = tmp_path / ".config" / "conduit-oauth" / "config.toml"

    def completed(line: str) -> str:
        words = {"_CONDUIT_OAUTH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        return run(**words).stdout

    config.parent.mkdir(parents=True)
    config.write_text('[profiles.billing]\nclient_id = "a"\n')
    assert "profile" in completed("conduit-oauth pro")
    assert "billing" in completed("conduit-oauth token --profile b")
    assert "billing" in completed("conduit-oauth profile show ")
    assert "--print-config" in completed("conduit-oauth bridge --print")


def commands(group: Any, name: str = "conduit-oauth") -> dict[str, str]:
    """The help of each command."""
    if not hasattr(group, "commands"):
        return {name: group.help or ""}
    found: dict[str, str] = {}
    for each, command in group.commands.items():
        found |= commands(command, f"{name} {each}")
    return found


def test_every_command_shows_how_it_is_used() -> None:
    found = commands(typer.main.get_command(app))
    assert len(found) > 12
    for name, said in found.items():
        _, _, examples = said.partition("\b")
        assert name.rpartition(" ")[2] in examples, name


def test_the_demo_is_told_to_programs_too(run: Run) -> None:
    done = run("demo", "--json")
    rows = json.loads(done.stdout)
    # One step has a bound in seconds, and this machine may be busy.
    assert done.returncode == (0 if all(row["seen"] for row in rows) else 1)
    assert [set(row) for row in rows] == [{"step", "seen", "what", "seconds"}] * 6
    assert rows[0]["seen"], rows[0]
