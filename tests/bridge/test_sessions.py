"""Whole sessions through the bridge, over stdio and over HTTP, as the official SDK's client has them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CreateMessageResult, ElicitResult, TextContent

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import Gateway, StartBridge
from tests.conftest import COMMAND

MODERN = "2026-07-28"
Connect = Callable[..., Client]


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, bridge_environment: dict[str, str], start_bridge: StartBridge) -> Connect:
    """Opens a client's session on a gateway, through the bridge."""

    def open_client(url: str, **options: Any) -> Client:
        if request.param == "stdio":
            parameters = StdioServerParameters(
                command=str(COMMAND), args=["bridge", "--mcp-url", url], env=bridge_environment
            )
            return Client(stdio_client(parameters), **options)
        return Client(streamable_http_client(start_bridge("--mcp-url", url).url), **options)

    return open_client


def text_of(result: Any) -> str:
    assert not result.is_error, result
    return result.content[0].text


@pytest.mark.parametrize("mode", ["legacy", MODERN, "auto"])
def test_tools_progress_and_resources_in_both_protocol_revisions(connect: Connect, gateway: Gateway, mode: str) -> None:
    async def main() -> None:
        async with connect(gateway.url, mode=mode) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} >= {"add", "count"}
            assert text_of(await client.call_tool("add", {"a": 2, "b": 3})) == "5"
            told: list[str | None] = []

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                told.append(message)

            assert text_of(await client.call_tool("count", {"to": 3}, progress_callback=on_progress)) == "done"
            assert told == ["at 1", "at 2", "at 3"]
            (resource,) = (await client.list_resources()).resources
            assert (await client.read_resource(resource.uri)).contents[0].text == "a note"  # type: ignore[union-attr]

    asyncio.run(main())


def test_the_server_asks_the_client_back(connect: Connect, gateway: Gateway) -> None:
    async def on_elicitation(_: Any, parameters: Any) -> ElicitResult:
        assert parameters.message == "What is your name?"
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def on_sampling(_: Any, parameters: Any) -> CreateMessageResult:
        assert parameters.messages[0].content.text == "six times seven?"
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="42"), model="a-model")

    async def main() -> None:
        async with connect(
            gateway.url, mode="legacy", elicitation_callback=on_elicitation, sampling_callback=on_sampling
        ) as client:
            assert text_of(await client.call_tool("greet")) == "accept Ada"
            assert text_of(await client.call_tool("think")) == "the model says 42"

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_what_the_client_cancels_ends_at_the_gateway(connect: Connect, gateway: Gateway, mode: str) -> None:
    async def main() -> None:
        async with connect(gateway.url, mode=mode) as client:
            call = asyncio.create_task(client.call_tool("wait"))
            await asyncio.to_thread(gateway.wait_for, "waiting")
            call.cancel()
            await asyncio.to_thread(gateway.wait_for, "cancelled")
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_a_token_is_replaced_between_calls_and_while_an_answer_streams(
    connect: Connect, gateway: Gateway, authorization_server: AuthorizationServer, mode: str
) -> None:
    async def main() -> None:
        async with connect(gateway.url, mode=mode) as client:
            streaming = asyncio.Event()

            async def on_progress(*_: object) -> None:
                streaming.set()

            stream = asyncio.create_task(client.call_tool("count", {"to": 10}, progress_callback=on_progress))
            await streaming.wait()
            authorization_server.revoke()
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
            assert text_of(await stream) == "done"
            authorization_server.revoke()
            assert text_of(await client.call_tool("add", {"a": 1, "b": 2})) == "3"

    asyncio.run(main())
    assert len(authorization_server.token_requests) == 3


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_a_gateway_that_restarts_costs_time_only(connect: Connect, gateway: Gateway, mode: str) -> None:
    async def main() -> None:
        async with connect(gateway.url, mode=mode) as client:
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
            gateway.kill()
            calls = [asyncio.create_task(client.call_tool("add", {"a": 1, "b": n})) for n in range(3)]
            await asyncio.to_thread(gateway.start)
            assert [text_of(await call) for call in calls] == ["1", "2", "3"]

    asyncio.run(main())


def test_the_development_server_and_fastmcp_behind_the_bridge(
    connect: Connect, authorization_server: AuthorizationServer, fastmcp_url: str
) -> None:
    async def main(url: str, tool: str) -> str:
        async with connect(url) as client:
            return text_of(await client.call_tool(tool, {"a": 6, "b": 7}))

    assert asyncio.run(main(authorization_server.mcp_url(), "add")) == "13"
    assert asyncio.run(main(fastmcp_url, "multiply")) == "42"


def test_a_token_expires_while_an_answer_streams(
    connect: Connect, gateway: Gateway, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)

    async def main() -> None:
        async with connect(gateway.url, mode="legacy") as client:
            began = time.monotonic()
            assert text_of(await client.call_tool("count", {"to": 50})) == "done"
            # The token that it began with is over.
            assert time.monotonic() - began > 2
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"

    asyncio.run(main())
    assert len(authorization_server.token_requests) > 1
