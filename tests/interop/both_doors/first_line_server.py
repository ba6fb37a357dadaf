"""A server on the first line of the official SDK, open to all; prints its URL. Runs where that line is installed."""
# pyright: basic

from __future__ import annotations

import json
import socket
from typing import Any

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import Completion, SamplingMessage, TextContent

server = FastMCP("first line", max_request_body_size=1 << 25)


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool()
def structured() -> dict[str, int]:
    return {"six": 6, "seven": 7}


@server.tool()
def fail() -> str:
    raise ValueError("on purpose")


@server.tool()
def repeat(said: str) -> str:
    return said


@server.tool()
async def count(context: Context) -> str:
    for number in (1, 2, 3):
        await context.report_progress(number, 3, f"at {number}")
        await context.info(f"log {number}")
    return "done"


@server.tool()
async def think(context: Context) -> str:
    question = SamplingMessage(role="user", content=TextContent(type="text", text="why"))
    answer = await context.session.create_message([question], max_tokens=9, related_request_id=context.request_id)
    return f"the model says {answer.content.text}"


@server.tool()
async def greet(context: Context) -> str:
    schema: dict[str, Any] = {"type": "object", "properties": {"username": {"type": "string"}}}
    answer = await context.session.elicit("who?", schema, context.request_id)
    return f"{answer.action} {json.dumps(answer.content)}"


@server.tool()
async def roots(context: Context) -> str:
    return ", ".join(str(root.uri) for root in (await context.session.list_roots()).roots)


@server.resource("test://text")
def text() -> str:
    return "a text"


@server.resource("test://by/{name}")
def by_name(name: str) -> str:
    return f"by {name}"


@server.prompt()
def ask(what: str) -> str:
    return f"What is {what}?"


@server.completion()
async def complete(reference: Any, argument: Any, context: Any) -> Completion:
    return Completion(values=["paris", "park"], total=2, hasMore=False)


listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
config = uvicorn.Config(server.streamable_http_app(), log_level="critical", timeout_graceful_shutdown=1)
uvicorn.Server(config).run(sockets=[listener])
