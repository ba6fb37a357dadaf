"""Sessions through the bridge as the TypeScript SDK's client has them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import Gateway, StartBridge
from tests.conftest import COMMAND
from tests.interop.conformance import NODE

SCRIPT = Path(__file__).parent.parent / "interop" / "mcp_client.mjs"


class TypeScriptClient:
    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [NODE, SCRIPT, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, tool: str, **arguments: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"tool": tool, "arguments": arguments}) + "\n")

    def call(self, tool: str, **arguments: int) -> dict[str, Any]:
        self.ask(tool, **arguments)
        return self.answer()


@contextmanager
def connected(
    kind: str, url: str, environment: dict[str, str], start_bridge: StartBridge
) -> Iterator[TypeScriptClient]:
    """The client in a session with `url`, through a bridge that it starts itself or reaches by HTTP."""
    if kind == "http":
        arguments = ["http", start_bridge("--mcp-url", url).url]
    else:
        arguments = ["stdio", str(COMMAND), "bridge", "--mcp-url", url]
    client = TypeScriptClient(environment, *arguments)
    with client.process as process:
        try:
            yield client
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


@pytest.mark.parametrize("kind", ["stdio", "http"])
def test_a_whole_session_with_a_token_replaced_and_a_gateway_restarted(
    kind: str,
    gateway: Gateway,
    authorization_server: AuthorizationServer,
    bridge_environment: dict[str, str],
    start_bridge: StartBridge,
) -> None:
    with connected(kind, gateway.url, bridge_environment, start_bridge) as client:
        assert {"add", "count", "greet", "think"} <= set(client.answer()["tools"])
        assert client.call("add", a=2, b=3) == {"text": "5", "progress": []}
        assert client.call("count", to=3) == {"text": "done", "progress": ["at 1", "at 2", "at 3"]}
        assert client.call("greet")["text"] == "accept Ada"
        assert client.call("think")["text"] == "the model says 42"
        authorization_server.revoke()
        assert client.call("add", a=1, b=1)["text"] == "2"
        gateway.kill()
        client.ask("add", a=1, b=2)
        gateway.start()
        assert client.answer()["text"] == "3"


@pytest.mark.parametrize("kind", ["stdio", "http"])
def test_the_development_server_and_fastmcp_behind_the_bridge(
    kind: str,
    authorization_server: AuthorizationServer,
    fastmcp_url: str,
    bridge_environment: dict[str, str],
    start_bridge: StartBridge,
) -> None:
    for url, tool, result in ((authorization_server.mcp_url(), "add", "13"), (fastmcp_url, "multiply", "42")):
        with connected(kind, url, bridge_environment, start_bridge) as client:
            assert tool in client.answer()["tools"]
            assert client.call(tool, a=6, b=7)["text"] == result
            authorization_server.revoke()
            assert client.call(tool, a=6, b=7)["text"] == result
