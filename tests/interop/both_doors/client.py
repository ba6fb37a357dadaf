"""An MCP client of the Python SDK, of either line: does what a plan says, each way, and prints what came of it.

Plan and ways come as JSON on stdin. A way is `["http", URL]`, or `["stdio", COMMAND, ARGUMENT …]`.
"""
# It runs on two versions of the SDK, of which the type checker knows one.
# pyright: basic

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import anyio
import mcp
from mcp import types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

IS_FIRST_LINE = not hasattr(mcp, "Client")


def short(value: Any) -> Any:
    """`value` with its long texts as digests."""
    if isinstance(value, dict):
        return {name: short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [short(each) for each in value]
    if isinstance(value, str) and len(value) > 1000:
        return f"{len(value)} {hashlib.sha256(value.encode()).hexdigest()}"
    return value


async def told(work: Awaitable[Any]) -> Any:
    try:
        result = await work
    except Exception as error:  # what went wrong is what is compared
        return {"error": f"{type(error).__name__}: {error}"}
    return short(result.model_dump(mode="json", by_alias=True, exclude_none=True))


@contextlib.asynccontextmanager
async def streams(kind: str, target: str, arguments: list[str]) -> AsyncIterator[tuple[Any, Any]]:
    if kind == "stdio":
        server = mcp.StdioServerParameters(command=target, args=arguments, env=dict(os.environ))
        async with stdio_client(server) as (reads, writes):
            yield reads, writes
    else:
        more: dict[str, Any] = {} if IS_FIRST_LINE else {"max_sse_event_size": None}
        async with streamable_http_client(target, **more) as (reads, writes, *_):
            yield reads, writes


class Heard:
    """What the server said without being asked."""

    def __init__(self) -> None:
        self.logs: list[Any] = []
        self.updates: list[str] = []
        self.updated = anyio.Event()

    async def log(self, said: Any) -> None:
        self.logs.append([said.level, said.data])

    async def message(self, message: Any) -> None:
        notification = getattr(message, "root", message)
        if isinstance(notification, types.ResourceUpdatedNotification):
            self.updates.append(str(notification.params.uri))
            self.updated.set()


async def sample(_: Any, asked: Any) -> Any:
    content = types.TextContent(type="text", text=f"42 to {asked.messages[0].content.text}")
    return types.CreateMessageResult(role="assistant", content=content, model="a-model")


async def elicit(*_: Any) -> Any:
    return types.ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.com"})


async def roots(_: Any) -> Any:
    return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])


async def met(plan: dict[str, Any], kind: str, target: str, *arguments: str) -> dict[str, Any]:
    heard, came = Heard(), {}
    async with (
        streams(kind, target, list(arguments)) as (reads, writes),
        mcp.ClientSession(
            reads,
            writes,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=roots,
            logging_callback=heard.log,
            message_handler=heard.message,
        ) as session,
    ):
        came["initialize"] = await told(session.initialize())
        came["ping"] = await told(session.send_ping())
        if "level" in plan:
            came["level"] = await told(session.set_logging_level(plan["level"]))
        came["tools"] = await told(session.list_tools())
        for name, given in plan["calls"]:
            given = {key: "x" * each["size"] if isinstance(each, dict) else each for key, each in given.items()}
            progress: list[Any] = []

            async def at(done: float, total: float | None, said: str | None, to: list[Any] = progress) -> None:
                to.append([done, total, said])

            result = await told(session.call_tool(name, given, progress_callback=at))
            came[f"call {name} {len(came)}"] = result, progress
        came["resources"] = await told(session.list_resources()), await told(session.list_resource_templates())
        for uri in plan["read"]:
            came[f"read {uri}"] = await told(session.read_resource(uri))
        came["prompts"] = [(page := await told(session.list_prompts()))]
        while cursor := page.get("nextCursor"):
            came["prompts"].append(
                page := await told(session.list_prompts(params=types.PaginatedRequestParams(cursor=cursor)))
            )
        for name, given in plan["prompts"]:
            came[f"prompt {name}"] = await told(session.get_prompt(name, given))
        if "complete" in plan:
            name, argument = plan["complete"]
            reference = types.PromptReference(type="ref/prompt", name=name)
            came["complete"] = await told(session.complete(reference, {"name": argument, "value": "par"}))
        if "subscribe" in plan:
            uri, tool = plan["subscribe"]
            subscribed = await told(session.subscribe_resource(uri))
            touched = await told(session.call_tool(tool, {"uri": uri}))
            with anyio.move_on_after(20):
                await heard.updated.wait()
            came["subscribe"] = subscribed, touched, heard.updates, await told(session.unsubscribe_resource(uri))
        if "cancel" in plan and not IS_FIRST_LINE:
            slow, count = plan["cancel"]
            with anyio.move_on_after(0.5):
                await session.call_tool(slow, {})
            came["cancel"] = await told(session.call_tool(count, {}))
        came["logs"] = sorted(heard.logs)
    return came


async def main() -> None:
    asked = json.loads(sys.stdin.read())
    print(json.dumps([await met(asked["plan"], *way) for way in asked["ways"]]))


if __name__ == "__main__":
    anyio.run(main)
