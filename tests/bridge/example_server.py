"""A protected server of the official SDK that asks its client back; for tokens of the issuer in argv; prints its URL.

A second argument is the port to listen on: a gateway that was restarted is found where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys

import uvicorn
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import SamplingMessage, TextContent
from pydantic import AnyHttpUrl, BaseModel

from tests.interop.both_doors.introspection import Introspection

issuer = sys.argv[1]
listener = socket.create_server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}"


class Name(BaseModel):
    name: str


server = MCPServer(
    "example",
    token_verifier=Introspection(issuer),
    auth=AuthSettings(
        issuer_url=AnyHttpUrl(issuer),
        resource_server_url=AnyHttpUrl(f"{url}/mcp"),
        required_scopes=[],
    ),
)


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def count(to: int, context: Context) -> str:
    """Count, and say how far it is."""
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"at {number}")
        # A stream is only one if time passes in it.
        await asyncio.sleep(0.05)
    return "done"


@server.tool()
async def greet(context: Context) -> str:
    """Ask the person for a name."""
    answer = await context.elicit("What is your name?", Name)
    return f"{answer.action} {answer.data.name if answer.action == 'accept' else ''}"


@server.tool()
async def think(context: Context) -> str:
    """Ask the client's model."""
    question = SamplingMessage(role="user", content=TextContent(type="text", text="six times seven?"))
    answer = await context.session.create_message([question], max_tokens=10)
    return f"the model says {answer.content.text}"  # type: ignore[union-attr]


@server.tool()
async def wait() -> str:
    """Never come to an end; say on stderr how it was ended."""
    print("waiting", file=sys.stderr, flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cancelled", file=sys.stderr, flush=True)
    return ""


@server.resource("note://ü")
def note() -> str:
    """A note whose name is not ASCII."""
    return "a note"


print(f"{url}/mcp", flush=True)
signal.signal(signal.SIGTERM, signal.default_int_handler)
with contextlib.suppress(KeyboardInterrupt):
    config = uvicorn.Config(server.streamable_http_app(), log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
