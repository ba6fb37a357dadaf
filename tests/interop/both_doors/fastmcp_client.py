"""fastmcp's client: does what a plan says, each way, and prints what came of it.

Plan and ways come as JSON on stdin. A way is `["http", URL]`, or `["stdio", COMMAND, ARGUMENT …]`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

from tests.interop.both_doors.client import short


async def told(work: Awaitable[Any]) -> Any:
    try:
        result = await work
    except Exception as error:  # what went wrong is what is compared
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(result, list):
        return [short(each.model_dump(mode="json", by_alias=True, exclude_none=True)) for each in result]
    return short(result.model_dump(mode="json", by_alias=True, exclude_none=True))


async def met(plan: dict[str, Any], kind: str, target: str, *arguments: str) -> dict[str, Any]:
    transport: Any = (
        StdioTransport(target, list(arguments), env=dict(os.environ))
        if kind == "stdio"
        else StreamableHttpTransport(target)
    )
    came: dict[str, Any] = {}
    async with Client(transport, roots=["file:///work"]) as client:
        came["initialize"] = str(client.server_info), str(client.server_capabilities)
        came["tools"] = await told(client.list_tools())
        for name, given in plan["calls"]:
            given = {key: "x" * each["size"] if isinstance(each, dict) else each for key, each in given.items()}
            came[f"call {name} {len(came)}"] = await told(client.call_tool_mcp(name, given))
        came["resources"] = await told(client.list_resources()), await told(client.list_resource_templates())
        for uri in plan["read"]:
            came[f"read {uri}"] = await told(client.read_resource(uri))
        came["prompts"] = await told(client.list_prompts())
        for name, given in plan["prompts"]:
            came[f"prompt {name}"] = await told(client.get_prompt(name, given))
    return came


async def main() -> None:
    asked = json.loads(sys.stdin.read())
    print(json.dumps([await met(asked["plan"], *way) for way in asked["ways"]]))


asyncio.run(main())
