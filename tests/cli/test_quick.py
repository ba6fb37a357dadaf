"""`token` does without the framework of the commands, and without a provider where the token is in the cache."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import typer

from conduit_oauth import ConfigurationError
from conduit_oauth.cli import arguments, quick, stdio
from conduit_oauth.cli.app import app
from conduit_oauth.places import cache_folder, config_folder, state_folder
from conduit_oauth.serving.formats import Format
from conduit_oauth.testing import AuthorizationServer
from tests.cli.conftest import Run
from tests.conftest import COMMAND

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[^\"]+")
# Not the quick way: the first argument is not the command.
_WHOLE = ("--quiet", "token")


@pytest.mark.parametrize("shape", list(Format))
def test_the_whole_command_prints_the_same(run: Run, authorization_server: AuthorizationServer, shape: Format) -> None:
    options = ("--format", shape, "--scope=mcp:read", "--variable", "GATEWAY", "--login", "me")
    first, served, whole = run("token", *options), run("token", *options), run(*_WHOLE, *options)
    assert [(each.returncode, each.stderr) for each in (first, served, whole)] == [(0, "")] * 3
    assert _MOMENT.sub("", served.stdout) == _MOMENT.sub("", whole.stdout) != ""
    assert len(authorization_server.token_requests) == 1


def imported(environment: dict[str, str], *arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it imports."""
    command = [sys.executable, "-X", "importtime", COMMAND, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_it_imports_neither_framework_nor_http_client(run: Run, environment: dict[str, str]) -> None:
    token = run("token").stdout
    said, modules = imported(environment, "token")
    assert said == token
    assert "conduit_oauth.cli.quick" in modules
    assert modules & {"typer", "rich", "httpx2", "pydantic", "joserfc", "dataclasses", "logging", "asyncio"} == set()


@pytest.mark.parametrize(
    "arguments", [["token", "--help"], ["--quiet", "token", "--scope=mcp:read"], ["profile", "list", "--json"]]
)
def test_the_framework_converts_no_value_that_needs_no_conversion(
    environment: dict[str, str], arguments: list[str]
) -> None:
    said, modules = imported(environment, *arguments)
    assert said
    assert "typer" in modules
    assert "pydantic" not in modules


def test_a_profile_and_its_files_are_read_each_time(
    run: Run, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    secret, config = tmp_path / "secret", tmp_path / "config.toml"
    secret.write_text(f"{authorization_server.client_secret}\n")
    config.write_text(f"""
        [profiles.one]
        client_id = "{authorization_server.client_id}"
        client_secret = {{ file = "secret" }}
        token_endpoint = "{authorization_server.token_endpoint()}"
        extra_parameters = {{ b = "2", a = "1" }}
        """)
    options = ("--profile", "one", "--config", config)
    only = {"CONDUIT_OAUTH_CLIENT_ID": None, "CONDUIT_OAUTH_CLIENT_SECRET": None, "CONDUIT_OAUTH_MCP_URL": None}
    first = run("token", *options, **only)
    assert first.returncode == 0, first.stderr
    assert run("token", *options, **only).stdout == run(*_WHOLE, *options, **only).stdout == first.stdout
    assert len(authorization_server.token_requests) == 1
    secret.write_text("another")
    assert run("token", *options, **only).returncode == 3


def test_a_token_that_was_revoked_or_is_not_wanted_is_not_printed(run: Run) -> None:
    first = run("token").stdout
    second = run("token", "--fresh").stdout
    assert run("revoke").returncode == 0
    third = run("token").stdout
    assert len({first, second, third}) == 3
    assert run("token").stdout == third


def test_a_cache_that_was_cleared_is_made_anew_and_its_owners_only(run: Run, tmp_path: Path) -> None:
    first = run("token")
    assert run("cache", "clear").returncode == 0
    second = run("token")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout != first.stdout
    (file,) = tmp_path.rglob("tokens.sqlite3")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.glob("*broken*")] == []
    assert run("token").stdout == second.stdout


def test_a_token_in_its_last_minute_is_replaced(run: Run, authorization_server: AuthorizationServer) -> None:
    authorization_server.set(lifetime=3)
    first = run("token").stdout
    while (done := run("token")).stdout == first:
        pass
    assert done.returncode == 0


def test_settings_of_another_token_find_none(run: Run, authorization_server: AuthorizationServer) -> None:
    for options in (
        (),
        ("--scope", "mcp:read"),
        ("--audience", "a"),
        ("--no-resource",),
        ("--resource", "https://b.example/"),
    ):
        run("token", *options)
    assert len(authorization_server.token_requests) == 5


def test_a_secret_that_can_be_read_once_is_left_to_the_whole_command(run: Run) -> None:
    options = ("token", "--client-secret-file", "-")
    tokens = {run(*options, stdin="demo-secret", CONDUIT_OAUTH_CLIENT_SECRET=None).stdout for _ in range(2)}
    assert len(tokens) == 1
    assert tokens != {""}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--bad",), 2),
        (("--client_id", "demo"), 2),
        (("--format", "no"), 2),
        (("--scope",), 2),
        (("more",), 2),
        (("--timeout", "soon"), 2),
        (("--profile", "none"), 2),
        (("--client-secret-file", "/nonexistent"), 2),
        (("--help",), 0),
    ],
)
def test_what_is_wrong_is_said_beside_a_fresh_token_too(run: Run, arguments: tuple[str, ...], status: int) -> None:
    run("token")
    done = run("token", *arguments)
    assert done.returncode == status
    assert "eyJ" not in done.stdout
    assert done.stdout + done.stderr


def test_output_that_cannot_be_written_is_told(run: Run, environment: dict[str, str]) -> None:
    run("token")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([COMMAND, "token"], env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "own", "others"),
    [
        ("token", quick.OWN, {"fresh"}),
        (
            "bridge",
            stdio.OWN,
            {
                *(
                    "listen",
                    "socket_mode",
                    "socket_group",
                    "local_token_file",
                    "no_local_token",
                    "allow_host",
                    "expose",
                ),
                *("print_config", "server_name"),
            },
        ),
    ],
)
def test_every_option_of_the_command_is_known_or_left_to_it(
    command: str, own: tuple[str, ...], others: set[str]
) -> None:
    group: Any = typer.main.get_command(app)
    names = {parameter.name for parameter in group.commands[command].params} - {"help"}
    assert names - others == arguments.VALUES | arguments.SWITCHES | set(own)


@pytest.mark.parametrize("value", [None, "", "/var/cache/own", "relative", " "])
def test_the_places_are_those_of_the_platform(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("store", "") == platformdirs.user_cache_path("conduit-oauth")
    assert config_folder("config", "") == platformdirs.user_config_path("conduit-oauth")
    assert state_folder("state", "") == platformdirs.user_state_path("conduit-oauth")


def test_a_list_of_commands_names_each_and_cuts_none(run: Run) -> None:
    shown = run("--help", COLUMNS="80").stdout
    listed = [line.split(maxsplit=1) for line in shown.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()]
    group: Any = typer.main.get_command(app)
    assert [name for name, _ in listed] == list(group.commands)
    assert [line for _, line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_no_home_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(ConfigurationError, match="store: has no default place"):
        cache_folder("store", "Set HOME.")
