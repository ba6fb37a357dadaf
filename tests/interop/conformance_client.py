"""The client under test of `@modelcontextprotocol/conformance`: our public API and the official SDK's session.

The suite starts it with the MCP server's URL, and tells the credential in MCP_CONFORMANCE_CONTEXT.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from conduit_oauth import TokenProvider


async def main(mcp_url: str) -> None:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    key = context.get("private_key_pem")
    assertion = context.get("valid_jwt")
    secret = context.get("client_secret")
    # Scenarios that register a client or ask a person give no credential: a client without one shows how far we come.
    method = None if secret or key or assertion else "none"
    async with (
        TokenProvider(
            context.get("client_id", "conformance-client"),
            secret,
            private_key=key,
            token_endpoint_auth_method=method,
            assertion=assertion,
            signing_algorithm=context.get("signing_algorithm"),
            dpop="dpop" in os.environ.get("MCP_CONFORMANCE_SCENARIO", ""),
            mcp_url=mcp_url,
            timeout=10,
        ) as provider,
        httpx2.AsyncClient(auth=provider.auth(), timeout=10) as http,
        Client(streamable_http_client(mcp_url, http_client=http)) as client,
    ):
        tools = await client.list_tools()
        for tool in tools.tools:
            await client.call_tool(tool.name, {})


asyncio.run(main(sys.argv[1]))
