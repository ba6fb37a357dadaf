"""Real clients and real servers of MCP: through each door of the bridge a client meets what it meets directly."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import StartBridge
from tests.conftest import COMMAND
from tests.interop.both_doors.conftest import FIRST_LINE, Serve
from tests.interop.conformance import NODE, PACKAGE

HERE = Path(__file__).parent
INSPECTOR = PACKAGE.parent / "inspector" / "clients" / "launcher" / "build" / "index.js"
BIG = {"said": {"size": 10_000_000}}
CLIENTS: dict[str, list[Path | str]] = {
    "Python SDK 2": [sys.executable, "-W", "ignore", HERE / "client.py"],
    "Python SDK 1": [FIRST_LINE, "-W", "ignore", HERE / "client.py"],
    "TypeScript SDK": [NODE, HERE / "client.mjs"],
    "fastmcp": [sys.executable, "-W", "ignore", "-m", "tests.interop.both_doors.fastmcp_client"],
}
WHOLE: dict[str, Any] = {
    "level": "debug",
    "calls": [
        ["test_simple_text", {}],
        ["test_structured", {}],
        ["test_multiple_content_types", {}],
        ["test_error_handling", {}],
        ["no_such_tool", {}],
        ["test_tool_with_logging", {}],
        ["test_tool_with_progress", {}],
        ["test_sampling", {"prompt": "why"}],
        ["test_elicitation", {"message": "who"}],
        ["test_roots", {}],
        ["test_repeat", BIG],
    ],
    "read": ["test://static-text", "test://static-binary", "test://template/7/data", "test://nowhere"],
    "prompts": [["test_simple_prompt", {}], ["test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}], ["none", {}]],
    "complete": ["test_prompt_with_arguments", "arg1"],
    "subscribe": ["test://watched-resource", "test_touch"],
    "cancel": ["test_slow", "test_cancelled"],
}
PLANS: dict[str, dict[str, Any]] = {
    "": WHOLE,
    # These two send nothing of themselves: what needs that is left out.
    "json_response": {name: each for name, each in WHOLE.items() if name != "subscribe"},
    "stateless_http": {name: each for name, each in WHOLE.items() if name not in ("subscribe", "cancel")},
    "first line": {
        "calls": [
            ["add", {"a": 6, "b": 7}],
            ["add", {"a": "six"}],
            ["structured", {}],
            ["fail", {}],
            ["no_such_tool", {}],
            ["count", {}],
            ["think", {}],
            ["greet", {}],
            ["roots", {}],
            ["repeat", BIG],
        ],
        "read": ["test://text", "test://by/ada", "test://nowhere"],
        "prompts": [["ask", {"what": "this"}], ["ask", {}]],
        "complete": ["ask", "what"],
    },
    "everything": {
        "level": "debug",
        "calls": [
            ["echo", {"message": "hello"}],
            ["get-sum", {"a": 6, "b": 7}],
            ["get-sum", {"a": "six"}],
            ["get-structured-content", {"location": "New York"}],
            ["get-tiny-image", {}],
            ["get-annotated-message", {"messageType": "error", "includeImage": False}],
            # Meanwhile it asks for the roots.
            ["trigger-long-running-operation", {"duration": 1.5, "steps": 3}],
            ["trigger-sampling-request", {"prompt": "why", "maxTokens": 9}],
            ["get-roots-list", {}],
            ["no-such-tool", {}],
        ],
        "read": ["demo://resource/static/document/features.md", "demo://nowhere"],
        "prompts": [["simple-prompt", {}], ["args-prompt", {"city": "Paris"}], ["none", {}]],
    },
    "fastmcp": {
        "calls": [["multiply", {"a": 6, "b": 7}], ["multiply", {"a": "six"}], ["no_such_tool", {}]],
        "read": ["test://text", "test://nowhere"],
        "prompts": [["ask", {"what": "this"}]],
    },
}


# `make test` meets each client and each server once, `make interop` each pair.
SAMPLE = dict(zip(PLANS, itertools.cycle(CLIENTS), strict=False))


def met(
    client: str, ways: list[list[Path | str]], plan: dict[str, Any], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """What a client met, each way, as JSON."""
    asked = json.dumps({"plan": plan, "ways": ways}, default=str)
    return subprocess.run(
        CLIENTS[client], env=environment, input=asked, capture_output=True, text=True, check=False, timeout=200
    )


def failed(came: Any) -> bool:
    return "error" in (came[0] if isinstance(came, list) else came)


@pytest.mark.parametrize(
    ("kind", "client"),
    [
        pytest.param(kind, client, marks=[] if SAMPLE[kind] == client else pytest.mark.whole)
        for kind in PLANS
        for client in CLIENTS
    ],
)
def test_a_client_meets_through_each_door_what_it_meets_directly(
    kind: str,
    client: str,
    serve: Serve,
    authorization_server: AuthorizationServer,
    bridge_environment: dict[str, str],
    start: StartBridge,
) -> None:
    url = serve(kind, "-")
    ways: list[list[Path | str]] = [
        ["http", url],
        ["http", start(url).url],
        ["stdio", COMMAND, "bridge", "--mcp-url", url, "--token-endpoint", authorization_server.token_endpoint()],
    ]
    done = met(client, ways, PLANS[kind], bridge_environment)
    assert done.returncode == 0, done.stderr[-3000:]
    directly, *doors = json.loads(done.stdout)
    # Nothing is compared with a failure to do anything.
    assert directly["initialize"]
    assert "error" not in directly["tools"]
    for through in doors:
        assert through.keys() == directly.keys()
        # What fails directly may work through a door: fastmcp takes no event of more than 1 MiB.
        differs = {name: each for name, each in through.items() if each != directly[name]}
        better = {name for name, each in differs.items() if failed(directly[name]) and not failed(each)}
        assert {name: each for name, each in differs.items() if name not in better} == {}


@pytest.mark.parametrize(
    ("kind", "questions"),
    [
        pytest.param(
            "",
            [
                ["tools/list"],
                ["tools/call", "--tool-name", "test_repeat", "--tool-arg", "said=hello"],
                ["tools/call", "--tool-name", "test_error_handling"],
                ["resources/read", "--uri", "test://static-text"],
                ["prompts/list"],
                ["prompts/get", "--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=a", "arg2=b"],
            ],
            marks=pytest.mark.whole,
        ),
        pytest.param(
            "everything",
            [
                ["tools/list"],
                ["tools/call", "--tool-name", "get-sum", "--tool-arg", "a=6", "b=7"],
                ["resources/templates/list"],
                ["prompts/get", "--prompt-name", "simple-prompt"],
            ],
            marks=pytest.mark.whole,
        ),
        ("first line", [["tools/list"], ["tools/call", "--tool-name", "add", "--tool-arg", "a=6", "b=7"]]),
    ],
)
def test_the_inspector_is_told_through_each_door_what_it_is_told_directly(
    kind: str,
    questions: list[list[str]],
    serve: Serve,
    authorization_server: AuthorizationServer,
    bridge_environment: dict[str, str],
    start: StartBridge,
    tmp_path: Path,
) -> None:
    url = serve(kind, "-")
    bridge = ["bridge", "--mcp-url", url, "--token-endpoint", authorization_server.token_endpoint()]
    config = tmp_path / "mcp.json"
    servers = {
        "direct": {"type": "streamable-http", "url": url},
        "http": {"type": "streamable-http", "url": start(url).url},
        "stdio": {"command": str(COMMAND), "args": bridge, "env": bridge_environment},
    }
    config.write_text(json.dumps({"mcpServers": servers}))

    def said(server: str, question: list[str]) -> tuple[int, str, str]:
        command = [NODE, INSPECTOR, "--cli", "--config", config, "--server", server, "--method", *question]
        done = subprocess.run(command, env=bridge_environment, capture_output=True, text=True, check=False, timeout=100)
        return done.returncode, done.stdout, done.stderr

    for question in questions:
        status, out, _ = directly = said("direct", question)
        assert json.loads(out), directly
        assert [said(door, question) for door in ("http", "stdio")] == [directly] * 2
        assert (status != 0) == ("test_error_handling" in question)


@pytest.mark.parametrize("door", ["http", "stdio"])
def test_a_server_of_the_old_transport_is_refused_with_what_to_do(
    door: str,
    serve: Serve,
    authorization_server: AuthorizationServer,
    bridge_environment: dict[str, str],
    start: StartBridge,
) -> None:
    url = serve("old transport", "-")
    if door == "http":
        way: list[Path | str] = ["http", start(url).url]
    else:
        found = "--token-endpoint", authorization_server.token_endpoint()
        way = ["stdio", COMMAND, "bridge", "--mcp-url", url, *found]
    done = met("TypeScript SDK", [way], PLANS[""], bridge_environment)
    assert done.returncode != 0
    assert "HTTP+SSE" in done.stderr
    assert "Streamable HTTP endpoint" in done.stderr
