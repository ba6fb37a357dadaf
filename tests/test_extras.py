"""What an installation without the tests' own packages can do, and which extra it names where one is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND
from tests.only import needed


def run_only(extras: str, missing: str, *program: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.only", extras, missing, *map(str, program)],
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", **environment},
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("extras", "settings"),
    [
        ("-", "token_endpoint=SERVER + '/oauth/token'"),
        ("-", "mcp_url=SERVER + '/mcp'"),
        ("sqlite", "mcp_url=SERVER + '/mcp', store='sqlite:'"),
        ("redis", "mcp_url=SERVER + '/mcp', store='redis://127.0.0.1:1/0', store_timeout=0.01"),
        ("jwt", "token_endpoint=SERVER + '/oauth/token', token_endpoint_auth_method='client_secret_jwt'"),
    ],
)
def test_a_token_needs_no_more_than_is_declared(
    extras: str, settings: str, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import asyncio, httpx2
from conduit_oauth import TokenProvider
SERVER = {authorization_server.issuer()!r}
with TokenProvider("demo", "demo-secret", {settings}) as provider:
    try:
        print(provider.get_token() == asyncio.run(provider.get_token_async()))
        print(httpx2.get(SERVER + "/mcp", auth=provider.auth()).status_code != 401)
    except Exception as error:
        print(error)
""")
    done = run_only(extras, "-", program, HOME=str(tmp_path))
    assert "ModuleNotFoundError" not in done.stderr
    # The development server does not know a client by its assertion, and says so itself.
    assert done.stdout == "True\nTrue\n" or (extras == "jwt" and "answered 40" in done.stdout)


def test_the_demo_needs_no_more_than_all(tmp_path: Path) -> None:
    done = run_only("all", "-", COMMAND, "demo", HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" yes ") == 6
    assert " NO " not in done.stdout


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("mcp", ["demo"]),
        ("starlette", ["demo"]),
        ("joserfc", ["dev-server"]),
        ("uvicorn", ["dev-server"]),
        ("prometheus-client", ["agent", "--config", "none.toml"]),
        ("starlette", ["agent", "--config", "none.toml"]),
        ("aiohttp", ["bridge"]),
        ("uvicorn", ["bridge", "--listen", "127.0.0.1:0"]),
        ("cryptography", ["token"]),
        ("typer", ["token", "--fresh"]),
        ("rich", ["doctor"]),
        ("joserfc", ["inspect"]),
        ("tomlkit", ["profile", "list"]),
    ],
)
def test_the_message_names_an_extra_that_has_what_is_missing(
    missing: str, command: list[str], client_environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    environment = {**client_environment, "CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url()}
    done = run_only("all", missing, COMMAND, *command, **environment)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (extra,) = set(re.findall(r"Install conduit-oauth\[(\w+)\]", done.stderr))
    assert missing in needed([extra])
