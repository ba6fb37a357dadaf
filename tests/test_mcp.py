"""The official MCP SDK's client on a protected MCP server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider

EXAMPLE = Path(__file__).parent.parent / "examples" / "mcp_client.py"


def test_the_example_opens_a_session_and_calls_a_tool(authorization_server: AuthorizationServer) -> None:
    environment = {
        "CONDUIT_OAUTH_CLIENT_ID": authorization_server.client_id,
        "CONDUIT_OAUTH_CLIENT_SECRET": authorization_server.client_secret,
        "CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url(),
    }
    run = subprocess.run(
        [sys.executable, EXAMPLE], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stdout) == (0, "add, whoami\n2 + 3 = 5\n"), run.stderr
    assert len(authorization_server.token_requests) == 1


def test_a_session_outlives_its_token(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    provider = make_provider(mcp_url=authorization_server.mcp_url("42"))

    async def main() -> list[str]:
        answers: list[str] = []
        async with (
            httpx2.AsyncClient(auth=provider.auth()) as http,
            Client(streamable_http_client(authorization_server.mcp_url("42"), http_client=http)) as client,
        ):
            for _ in range(3):
                result = await client.call_tool("whoami", {})
                answers += [content.text for content in result.content if content.type == "text"]
                await asyncio.to_thread(authorization_server.revoke)
        return answers

    assert asyncio.run(main()) == ["demo"] * 3
    assert len(authorization_server.token_requests) >= 3


def test_tokens_revoked_at_their_birth_are_refused(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.issue_revoked(count=2)
    with httpx2.Client(auth=make_provider(mcp_url=authorization_server.mcp_url()).auth()) as client:
        assert client.post(authorization_server.mcp_url(), json={}).status_code == 401
        assert client.post(authorization_server.mcp_url(), json={}).status_code != 401


def test_a_token_of_one_gateway_does_not_open_another(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(mcp_url=authorization_server.mcp_url("1"))
    with httpx2.Client(auth=provider.auth()) as client:
        response = client.post(authorization_server.mcp_url("2"), json={})
    assert response.status_code == 401
    assert "oauth-protected-resource/servers/2/mcp" in response.headers["www-authenticate"]
