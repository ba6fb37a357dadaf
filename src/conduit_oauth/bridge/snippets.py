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


# How each client that can reach a server by HTTP names its URL and its headers.
_BY_HTTP = {
    Client.CLAUDE_CODE: ("url", "headers"),
    Client.CODEX: ("url", "http_headers"),
    Client.CURSOR: ("url", "headers"),
    Client.GEMINI: ("httpUrl", "headers"),
    Client.VSCODE: ("url", "headers"),
    Client.WINDSURF: ("serverUrl", "headers"),
    Client.ZED: ("url", "headers"),
}


def snippet_for_http(client: Client, name: str, url: str, bearer: str | None) -> tuple[str, str] | None:
    """As `snippet`, for a bridge that listens at `url` and wants the token `bearer`; None for a client without HTTP."""
    if client not in _BY_HTTP:
        return None
    file, table = _PLACES[client]
    url_name, headers_name = _BY_HTTP[client]
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    if client is Client.CODEX:
        lines = [f"[{table}.{_in_toml(name)}]", f"{url_name} = {_in_toml(url)}"]
        lines += [f"{headers_name} = {{ {key} = {_in_toml(value)} }}" for key, value in headers.items()]
        return file, "\n".join(lines)
    server: dict[str, object] = {url_name: url}
    if client in (Client.CLAUDE_CODE, Client.VSCODE):
        server = {"type": "http", **server}
    if headers:
        server[headers_name] = headers
    return file, json.dumps({table: {name: server}}, indent=2)


def snippet(client: Client, name: str, command: str, arguments: list[str]) -> tuple[str, str]:
    """The file of `client`, and what to put there so that it starts `command` as the server called `name`."""
    file, table = _PLACES[client]
    if client is Client.CODEX:
        entry = f"command = {_in_toml(command)}\nargs = {_in_toml(arguments)}"
        return file, f"[{table}.{_in_toml(name)}]\n{entry}"
    server: dict[str, object] = {"command": command, "args": arguments}
    if client is Client.VSCODE:
        server = {"type": "stdio", **server}
    return file, json.dumps({table: {name: server}}, indent=2)


def _in_toml(value: str | list[str]) -> str:
    # A JSON string is a TOML basic string, but for pairs of surrogates.
    return json.dumps(value, ensure_ascii=False)
