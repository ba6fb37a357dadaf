"""What the conformance suite's server scenarios ask of a server, on the official SDK; prints its URL.

The first argument is the issuer whose tokens it wants, or `-` for a server that wants none. The others are options of
the SDK: `json_response`, `stateless_http`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import sys
from typing import Any

import uvicorn
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import (
    AudioContent,
    Completion,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    ListPromptsResult,
    PaginatedRequestParams,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import AnyHttpUrl

from tests.interop.both_doors.introspection import Introspection

issuer = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
protected: dict[str, Any] = {
    "token_verifier": Introspection(issuer),
    "auth": AuthSettings(
        issuer_url=AnyHttpUrl(issuer if issuer != "-" else url),
        resource_server_url=AnyHttpUrl(f"{url}/mcp"),
        required_scopes=[],
        validate_token_resource=False,
    ),
}
server = MCPServer("whole", **(protected if issuer != "-" else {}))

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
SOUND = b"RIFF"


def text(said: str) -> TextContent:
    return TextContent(type="text", text=said)


def image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(PIXEL).decode(), mime_type="image/png")


def embedded(uri: str, kind: str, said: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=said))


@server.tool(description="simple text")
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@server.tool(description="image content")
def test_image_content() -> list[ImageContent]:
    return [image()]


@server.tool(description="audio content")
def test_audio_content() -> list[AudioContent]:
    return [AudioContent(type="audio", data=base64.b64encode(SOUND).decode(), mime_type="audio/wav")]


@server.tool(description="embedded resource")
def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool(description="multiple content types")
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    data = json.dumps({"test": "data", "value": 123})
    return [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", "application/json", data),
    ]


@server.tool(description="error handling")
def test_error_handling() -> str:
    raise ValueError("This tool intentionally returns an error for testing")


@server.tool(description="tool with logging")
async def test_tool_with_logging(context: Context) -> str:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.info(said)
        await asyncio.sleep(0.05)
    return "logged"


@server.tool(description="tool with progress")
async def test_tool_with_progress(context: Context) -> str:
    for done in (0, 50, 100):
        await context.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return "done"


@server.tool(description="sampling")
async def test_sampling(prompt: str, context: Context) -> str:
    question = SamplingMessage(role="user", content=text(prompt))
    # On the stream of this call: the one for everything else may not be open yet.
    answer = await context.session.create_message([question], max_tokens=100, related_request_id=context.request_id)
    return f"LLM response: {getattr(answer.content, 'text', answer.content)}"


async def elicited(context: Context, message: str, properties: dict[str, Any]) -> str:
    schema = {"type": "object", "properties": properties}
    answer = await context.session.elicit_form(message, schema, context.request_id)
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


@server.tool(description="elicitation")
async def test_elicitation(message: str, context: Context) -> str:
    return await elicited(context, message, {"username": {"type": "string"}, "email": {"type": "string"}})


@server.tool(description="elicitation sep1034 defaults")
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    states = ["active", "inactive", "pending"]
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": states, "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await elicited(context, "defaults", properties)


@server.tool(description="elicitation sep1330 enums")
async def test_elicitation_sep1330_enums(context: Context) -> str:
    plain = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [{"const": f"value{number}", "title": f"{name} Option"} for number, name in enumerate(("First", "Second"))]
    legacy = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    properties = {
        "untitledSingle": plain,
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", **legacy},
        "untitledMulti": {"type": "array", "items": plain},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await elicited(context, "enums", properties)


@server.tool(description="structured content")
def test_structured() -> dict[str, int]:
    return {"six": 6, "seven": 7}


@server.tool(description="roots")
async def test_roots(context: Context) -> str:
    return ", ".join(str(root.uri) for root in (await context.session.list_roots()).roots)


@server.tool(description="says what it is told")
def test_repeat(said: str) -> str:
    return said


cancelled = asyncio.Event()


@server.tool(description="ends when it is cancelled")
async def test_slow() -> str:
    try:
        await asyncio.Event().wait()
    finally:
        cancelled.set()
    return "unreachable"


@server.tool(description="waits for the cancellation")
async def test_cancelled() -> str:
    await asyncio.wait_for(cancelled.wait(), 20)
    cancelled.clear()
    return "cancelled"


@server.tool(description="tells who subscribed that a resource changed")
async def test_touch(uri: str, context: Context) -> str:
    await context.session.send_resource_updated(uri)
    return "touched"


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return PIXEL


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    return "watched"


@server.resource("test://template/{id}/data", mime_type="application/json")
def from_template(id: str) -> str:  # noqa: A002 - the template's word
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.prompt(description="simple prompt")
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@server.prompt(description="prompt with arguments")
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt(description="prompt with embedded resource")
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's word
    said = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(said), UserMessage("Please process the embedded resource above.")]


@server.prompt(description="prompt with image")
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(image()), UserMessage("Please analyze the image above.")]


@server.completion()
async def complete(reference: Any, argument: Any, context: Any) -> Completion:
    return Completion(values=["paris", "park", "party"], total=3, has_more=False)


async def pages(context: Any, parameters: Any) -> ListPromptsResult:
    every = await server.list_prompts()
    begun = int(parameters.cursor or 0) if parameters is not None else 0
    end = begun + 3
    return ListPromptsResult(prompts=every[begun:end], next_cursor=str(end) if end < len(every) else None)


async def done(context: Any, parameters: Any) -> EmptyResult:
    return EmptyResult()


# The SDK's own decorators have none for these.
for method, kind in (
    ("resources/subscribe", SubscribeRequestParams),
    ("resources/unsubscribe", UnsubscribeRequestParams),
    ("logging/setLevel", SetLevelRequestParams),
):
    server._lowlevel_server.add_request_handler(method, kind, done)
server._lowlevel_server.add_request_handler("prompts/list", PaginatedRequestParams, pages)

print(f"{url}/mcp", flush=True)
app = server.streamable_http_app(**dict.fromkeys(sys.argv[2:], True), max_request_body_size=1 << 25)
config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
uvicorn.Server(config).run(sockets=[listener])
