"""`fastmcp`'s client, with our auth object, on a protected server of its own kind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import httpx2
import pytest
from fastmcp import Client

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider


@pytest.fixture
def protected_url(authorization_server: AuthorizationServer) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.interop.fastmcp_server", authorization_server.issuer()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def test_a_tool_is_called(
    protected_url: str, authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    assert httpx2.post(protected_url, json={}).status_code == 401
    provider = make_provider(issuer=authorization_server.issuer())

    async def main() -> object:
        async with Client(protected_url, auth=provider.auth()) as client:
            return (await client.call_tool("multiply", {"a": 6, "b": 7})).data

    assert asyncio.run(main()) == 42
    assert len(authorization_server.token_requests) == 1
