from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(client_environment: dict[str, str], authorization_server: AuthorizationServer) -> dict[str, str]:
    return {
        **client_environment,
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
