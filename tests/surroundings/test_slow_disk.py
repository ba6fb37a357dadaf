"""A disk that is busy with others' writing."""

from __future__ import annotations

import subprocess

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND


def test_the_cache_works_though_the_disk_takes_its_time(
    authorization_server: AuthorizationServer, client_environment: dict[str, str]
) -> None:
    # Each wait for the disk takes 400 ms: a cache that waited for it a dozen times was given up.
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]
    command = [*slow, "inject=fsync,fdatasync:delay_exit=400000", COMMAND, "token"]
    environment = client_environment | {"CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url()}
    tokens = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
        for _ in range(3)
    ]
    assert tokens == [tokens[0]] * 3
    assert len(authorization_server.token_requests) == 1
