"""Tokens as other programs want them."""

from __future__ import annotations

import json
import netrc
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from conduit_oauth.testing import AuthorizationServer
from tests.cli.broken import BrokenServer
from tests.cli.conftest import Run
from tests.resource_server import ResourceServer


def test_formats_for_people_and_programs(run: Run) -> None:
    token = run("token").stdout.strip()
    assert run("token", "--format", "header").stdout == f"Authorization: Bearer {token}\n"
    assert json.loads(run("token", "--format", "headers-json").stdout) == {"Authorization": f"Bearer {token}"}
    shown = json.loads(run("token", "--format", "json", "--scope", "mcp:read").stdout)
    assert shown.keys() == {"access_token", "token_type", "expires_at", "scope"}
    assert (shown["token_type"], shown["scope"]) == ("Bearer", "mcp:read")
    assert run("token", "--format", "env", "--variable", "GATEWAY").stdout == f"GATEWAY={token}\n"


def test_curl_takes_its_configuration(run: Run, resource_server: ResourceServer) -> None:
    config = run("token", "--format", "curl-config").stdout
    curl = ["curl", "--silent", "--config", "-", f"{resource_server.url}/echo"]
    answer = json.loads(subprocess.run(curl, input=config, capture_output=True, text=True, check=True).stdout)
    assert answer["authorization"] == f"Bearer {run('token').stdout.strip()}"


ODD = "a\"b\\c'd#e$(f)`g`|h!:i"


@pytest.fixture
def odd(run: Run) -> Iterator[Run]:
    """The command, at a server whose tokens hold every kind of character that an output has to quote."""
    with BrokenServer() as server:
        server.pages["/token"] = {"access_token": ODD, "token_type": "Bearer", "expires_in": 3600}
        endpoint = f"{server.url}/token"

        def run_there(*arguments: object, **changes: str | None) -> subprocess.CompletedProcess[str]:
            options = ("--token-endpoint", endpoint, "--resource", "https://api.example/")
            return run(*arguments, *options, CONDUIT_OAUTH_MCP_URL=None, **changes)

        yield run_there


def test_each_format_quotes_what_a_token_may_hold(odd: Run, resource_server: ResourceServer, tmp_path: Path) -> None:
    assert odd("token").stdout == f"{ODD}\n"
    assert odd("token", "--format", "header").stdout == f"Authorization: Bearer {ODD}\n"
    assert json.loads(odd("token", "--format", "json").stdout)["access_token"] == ODD
    config = odd("token", "--format", "curl-config").stdout
    curl = ["curl", "--silent", "--config", "-", f"{resource_server.url}/redirect?to=/"]
    subprocess.run(curl, input=config, capture_output=True, text=True, check=True)
    assert resource_server.tokens == [f"Bearer {ODD}"]
    line = odd("token", "--format", "env", "--variable", "GATEWAY").stdout
    script = f'{line}printf %s "$GATEWAY"'
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout == ODD
    file = tmp_path / "netrc"
    file.write_text(odd("token", "--format", "netrc").stdout)
    authenticators = netrc.netrc(str(file)).authenticators("api.example")
    assert authenticators is not None
    assert authenticators[2] == ODD


def test_a_program_gets_no_variable_that_holds_a_secret(
    run: Run, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[profiles.default]\nclient_id = "demo"\nclient_secret = { environment = "BILLING_SECRET" }\n'
        f'mcp_url = "{authorization_server.mcp_url()}"\n'
    )
    done = run("exec", "--config", config, "--", "env", CONDUIT_OAUTH_CLIENT_SECRET=None, BILLING_SECRET="demo-secret")
    assert done.returncode == 0, done.stderr
    assert "CONDUIT_OAUTH_TOKEN=" in done.stdout
    assert "demo-secret" not in done.stdout


def test_netrc_names_the_machine_of_the_resource(run: Run) -> None:
    token = run("token").stdout.strip()
    assert run("token", "--format", "netrc").stdout == f"machine 127.0.0.1 login oauth2accesstoken password {token}\n"
    assert run("token", "--format", "netrc", "--login", "me").stdout.split()[3] == "me"


@pytest.mark.parametrize(
    ("shape", "option", "odd"),
    [
        *(("env", "--variable", odd) for odd in ("", "a b", "a;b", "a\nb", "1a")),
        *(("netrc", "--login", odd) for odd in ("", "a b", "a\nb", 'a"b', "a\\b")),
    ],
)
def test_what_other_programs_would_read_differently_is_refused(shape: str, option: str, odd: str, run: Run) -> None:
    done = run("token", "--format", shape, option, odd)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {option}: " in done.stderr


def test_netrc_without_a_resource_says_what_is_missing(run: Run, authorization_server: AuthorizationServer) -> None:
    done = run("token", "--format", "netrc", "--token-endpoint", authorization_server.token_endpoint())
    assert done.returncode == 2
    assert "--resource" in done.stderr


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (None, "client.authentication.k8s.io/v1"),
        ("client.authentication.k8s.io/v1beta1", "client.authentication.k8s.io/v1beta1"),
    ],
)
def test_a_kubernetes_client_gets_an_exec_credential(run: Run, asked: str | None, answered: str) -> None:
    info = asked and json.dumps({"apiVersion": asked, "kind": "ExecCredential", "spec": {"interactive": False}})
    credential = json.loads(run("token", "--format", "exec-credential", KUBERNETES_EXEC_INFO=info).stdout)
    assert (credential["apiVersion"], credential["kind"]) == (answered, "ExecCredential")
    assert credential["status"]["token"] == run("token").stdout.strip()
    # RFC 3339, and early enough that kubectl asks again before the token is void.
    until = datetime.strptime(credential["status"]["expirationTimestamp"], "%Y-%m-%dT%H:%M:%S%z")
    left = until - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(minutes=59, seconds=1)


@pytest.mark.parametrize("info", ["no JSON", "[]", "[" * 100_000], ids=["text", "list", "deep"])
def test_what_kubernetes_does_not_say_is_an_error_that_names_it(run: Run, info: str) -> None:
    done = run("token", "--format", "exec-credential", KUBERNETES_EXEC_INFO=info)
    assert (done.returncode, done.stdout) == (2, "")
    assert "KUBERNETES_EXEC_INFO: is not a JSON object" in done.stderr
    assert "Traceback" not in done.stderr


def test_exec_runs_a_program_with_the_token_and_without_the_secret(run: Run) -> None:
    script = 'printf "%s %s" "$CONDUIT_OAUTH_TOKEN" "${CONDUIT_OAUTH_CLIENT_SECRET-none}"; exit 3'
    done = run("exec", "--", "sh", "-c", script)
    assert done.returncode == 3
    assert done.stdout == f"{run('token').stdout.strip()} none"


@pytest.mark.parametrize(
    ("store", "is_passed_on"),
    [
        ("redis://app:PASSWORD@127.0.0.1:1/0", False),
        ("redis://127.0.0.1:1/0?pass%77ord=PASSWORD", False),
        ("redis://127.0.0.1:1/0?password_environment=CACHE", True),
        ("memory:", True),
    ],
)
def test_a_program_gets_no_password_of_a_store(store: str, is_passed_on: bool, run: Run) -> None:
    done = run("exec", "--", "env", CONDUIT_OAUTH_STORE=store, CACHE="PASSWORD" if "CACHE" in store else None)
    assert ("CONDUIT_OAUTH_STORE" in done.stdout) == is_passed_on
    assert "PASSWORD" not in done.stdout


def test_exec_runs_a_program_with_the_signals_that_a_shell_would_give_it(run: Run) -> None:
    done = run("exec", "--", "sh", "-c", "yes | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "y\n", "")


def test_exec_of_a_missing_program_exits_as_a_shell_does(run: Run, tmp_path: Path) -> None:
    done = run("exec", "--", "/absent/program")
    assert done.returncode == 127
    assert "/absent/program: No such file or directory" in done.stderr
    assert "/absent/program" in run("--quiet", "exec", "--", "/absent/program").stderr
    script = tmp_path / "script"
    script.write_text("")
    assert run("exec", "--", script).returncode == 126


def test_a_profile_names_a_key_and_a_place_of_it(
    run: Run, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    key = tmp_path / "client.pem"
    key.write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    key.chmod(stat.S_IRUSR | stat.S_IWUSR)
    config = tmp_path / "config.toml"
    config.write_text(
        '[profiles.default]\nclient_id = "demo"\nprivate_key = { file = "client.pem" }\n'
        f'token_endpoint = "{authorization_server.token_endpoint()}"\n'
    )
    nothing = {"CONDUIT_OAUTH_CLIENT_SECRET": None, "CONDUIT_OAUTH_MCP_URL": None}
    # The development server knows no keys: what it was sent is what is of interest.
    assert run("token", "--config", config, **nothing).returncode == 3
    (request,) = authorization_server.token_requests
    assert request["form"]["client_assertion_type"].endswith("jwt-bearer")
    # A secret in the environment is said later than the profile's key, and goes before it.
    assert run("token", "--config", config, CONDUIT_OAUTH_MCP_URL=None).returncode == 0


def test_a_revoked_token_is_forgotten(run: Run, authorization_server: AuthorizationServer) -> None:
    token = run("token").stdout
    revoked = run("revoke")
    assert revoked.returncode == 0
    assert revoked.stderr == ""
    assert run("token").stdout != token
    assert len(authorization_server.token_requests) == 2


def test_who_revokes_a_new_token_is_told_of_it(run: Run) -> None:
    revoked = run("revoke")
    assert revoked.returncode == 0
    assert revoked.stderr == "No valid token was found in the cache: a new one was revoked.\n"


def test_a_cache_that_was_cleared_holds_no_token(run: Run, authorization_server: AuthorizationServer) -> None:
    token = run("token").stdout
    assert run("token").stdout == token
    assert run("cache", "clear").returncode == 0
    assert run("token").stdout != token
    assert run("cache", "clear").returncode == 0
    assert run("cache", "clear").returncode == 0


def test_a_cache_that_cannot_be_come_to_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conduit-oauth").symlink_to("conduit-oauth")
    done = run("cache", "clear", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "Run it as the user of the cache" in done.stderr
    assert "Traceback" not in done.stderr
