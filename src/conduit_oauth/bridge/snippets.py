"""What the known MCP clients want in their configuration files to start the bridge."""

from __future__ import annotations

import json
from enum import StrEnum


class Client(StrEnum):
    """An MCP client that reads a configuration file."""

    CLAUDE_CODE = "claude-code"
    CLAUDE_DESKTOP = "claude-desktop"
    CODEX = "codex"
    CURSOR = "cursor"
    GEMINI = "gemini"
    VSCODE = "vscode"
    WINDSURF = "windsurf"
    ZED = "zed"


# The file, and the name of the table in it that holds the servers.
_PLACES = {
    Client.CLAUDE_CODE: (".mcp.json", "mcpServers"),
    Client.CLAUDE_DESKTOP: ("claude_desktop_config.json", "mcpServers"),
    Client.CODEX: ("~/.codex/config.toml", "mcp_servers"),
    Client.CURSOR: (".cursor/mcp.json", "mcpServers"),
    Client.GEMINI: ("~/.gemini/settings.json", "mcpServers"),
    Client.VSCODE: (".vscode/mcp.json", "servers"),
    Client.WINDSURF: ("~/.codeium/windsurf/mcp_config.json", "mcpServers"),
    Client.ZED: ("~/.config/zed/settings.json", "context_servers"),
}


def snippet(client: Client, name: str, command: str, arguments: list[str]) -> tuple[str, str]:
    """The file of `client`, and what to put there so that it starts `command` as the server called `name`."""
    file, table = _PLACES[client]
    if client is Client.CODEX:
        # A JSON string is a TOML basic string.
        entry = f"command = {json.dumps(command)}\nargs = {json.dumps(arguments)}"
        return file, f"[{table}.{json.dumps(name)}]\n{entry}"
    server: dict[str, object] = {"command": command, "args": arguments}
    if client is Client.VSCODE:
        server = {"type": "stdio", **server}
    return file, json.dumps({table: {name: server}}, indent=2)
