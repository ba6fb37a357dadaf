"""The bridge as the `command` of an MCP client's configuration: its stdin and stdout are one session of the gateway.

Law: messages pass as they are, both ways. What the HTTP transport wants beside them (headers that mirror the message)
is derived from the messages themselves, for either protocol revision.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import (
    PROTOCOL_VERSION_META_KEY,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from .gateway import Answer, Gateway, Question

logger = logging.getLogger("conduit_oauth.bridge")

# Seconds that answers are waited for after the client closed our stdin.
LAST_WORDS = 5.0


class Mirror:
    """The headers that go with each message, by what was said in this session before."""

    def __init__(self) -> None:
        # What was asked and has no answer yet.
        self.asked: dict[RequestId, str] = {}
        self.idle = anyio.Event()
        self._version: str | None = None
        self._tools: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, message: JSONRPCMessage) -> dict[str, str]:
        """For a message of the client's."""
        if isinstance(message, JSONRPCRequest):
            self.asked[message.id] = message.method
        if not isinstance(message, JSONRPCRequest | JSONRPCNotification):
            return self._handshake()
        parameters = message.params or {}
        version = _table(parameters.get("_meta")).get(PROTOCOL_VERSION_META_KEY)
        if not isinstance(version, str):
            return {} if message.method == "initialize" else self._handshake()
        # The revision without a handshake: each message says its own.
        headers = {MCP_PROTOCOL_VERSION_HEADER: version, MCP_METHOD_HEADER: message.method}
        name = parameters.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            if message.method == "tools/call" and name in self._tools:
                headers |= mcp_param_headers(self._tools[name], _table(parameters.get("arguments")))
        return headers

    def hear(self, message: JSONRPCMessage) -> None:
        """Take note of a message of the gateway's, before the client has it."""
        if not isinstance(message, JSONRPCResponse):
            return
        method = self.asked.get(message.id)
        if method == "initialize":
            self._version = message.result.get("protocolVersion")
        elif method == "tools/list":
            for tool in cast("list[Any]", message.result.get("tools") or []):
                schema = _table(tool).get("inputSchema")
                if find_invalid_x_mcp_header(schema) is None and (mirrored := x_mcp_header_map(schema)):
                    self._tools[str(tool["name"])] = mirrored

    def passed_on(self, message: JSONRPCMessage) -> None:
        """The client has it now."""
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self.asked.pop(message.id, None)
        if not self.asked:
            self.idle.set()

    def _handshake(self) -> dict[str, str]:
        return {MCP_PROTOCOL_VERSION_HEADER: self._version} if self._version else {}


class _ByGateway(httpx2.AsyncBaseTransport):
    """What the SDK's transport sends goes the way that the other door goes, too."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        question = Question(request.method, str(request.url), headers, await request.aread())
        answer = await self._gateway.send(question)
        return httpx2.Response(answer.status, headers=list(answer.headers), stream=_Stream(answer))


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.chunks():
                yield chunk
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(type(error).__name__) from None

    async def aclose(self) -> None:
        self._answer.close()


async def serve_stdio(url: str, gateway: Gateway) -> None:
    """Bridge stdin and stdout to the gateway at `url`, until stdin ends."""
    mirror = Mirror()
    async with (
        stdio_server() as (from_client, to_client),
        to_client,
        httpx2.AsyncClient(transport=_ByGateway(gateway), timeout=None) as client,
        streamable_http_client(url, http_client=client) as (from_gateway, to_gateway),
        anyio.create_task_group() as group,
    ):

        async def bring_back() -> None:
            async for item in from_gateway:
                if isinstance(item, Exception):
                    logger.warning("the gateway sent what is no message: %s", type(item).__name__)
                    continue
                mirror.hear(item.message)
                await to_client.send(item)
                mirror.passed_on(item.message)

        group.start_soon(bring_back)
        async for item in from_client:
            if isinstance(item, Exception):
                logger.warning("the client sent what is no message: %s", type(item).__name__)
                continue
            metadata = ClientMessageMetadata(headers=mirror.headers(item.message))
            await to_gateway.send(SessionMessage(item.message, metadata=metadata))
        if mirror.asked:
            mirror.idle = anyio.Event()
            with anyio.move_on_after(LAST_WORDS):
                await mirror.idle.wait()
        group.cancel_scope.cancel()


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
