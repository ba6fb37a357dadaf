from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer

COMMAND = Path(sys.executable).with_name("conduit-oauth")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(authorization_server: AuthorizationServer, tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "CONDUIT_OAUTH_CLIENT_ID": authorization_server.client_id,
        "CONDUIT_OAUTH_CLIENT_SECRET": authorization_server.client_secret,
        "CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url(),
        "COLUMNS": "200",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(*arguments: object, stdin: str = "", **changes: str | None) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in {**environment, **changes}.items() if value is not None}
        command = [COMMAND, *map(str, arguments)]
        return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=60)

    return run
