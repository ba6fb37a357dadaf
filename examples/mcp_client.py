"""Call a tool on a protected MCP server with the official SDK, as a machine.

Try it against `conduit-oauth dev-server`, which prints the three variables.
"""

import asyncio
import os

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from conduit_oauth import TokenProvider


async def main() -> None:
    mcp_url = os.environ["CONDUIT_OAUTH_MCP_URL"]
    async with (
        TokenProvider(
            client_id=os.environ["CONDUIT_OAUTH_CLIENT_ID"],
            client_secret=os.environ["CONDUIT_OAUTH_CLIENT_SECRET"],
            mcp_url=mcp_url,
        ) as provider,
        httpx2.AsyncClient(auth=provider.auth(), timeout=30) as http,
        Client(streamable_http_client(mcp_url, http_client=http)) as client,
    ):
        tools = await client.list_tools()
        print(", ".join(tool.name for tool in tools.tools))
        result = await client.call_tool("add", {"a": 2, "b": 3})
        print("2 + 3 =", *(content.text for content in result.content if content.type == "text"))


asyncio.run(main())
