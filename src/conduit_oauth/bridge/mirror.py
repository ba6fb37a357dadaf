"""The headers that mirror a message, in the revision of MCP in which each message says its version itself.

The revisions with a handshake have none. What a header has to look like is the SDK's to say (`mcp.shared.inbound`).
"""

from __future__ import annotations

import contextlib
from typing import cast

from .exchange import VERSION
from .messages import Message, header_text, table

# How a tool's schema names a parameter that has a header of its own.
MIRRORED = "x-mcp-header"
# A gateway that names others each time does not have us keep them all.
_MOST_TOOLS = 1000
# Characters of a tool's name and of its parameters that have a header each.
_LONGEST_TOOL = 8192
_VERSION_IN_MESSAGE = "io.modelcontextprotocol/protocolVersion"


class Mirror:
    """The headers that mirror a message, in the revision in which each message says its version."""

    def __init__(self) -> None:
        # Parameters of tools that have a header each.
        self._tools: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, message: Message) -> dict[str, str]:
        """For a message of the client's; none in a revision with a handshake."""
        parameters = table(message.get("params"))
        version = header_text(table(parameters.get("_meta")).get(_VERSION_IN_MESSAGE))
        if version is None:
            return {}
        # Here, because it loads much, and few clients need it.
        from mcp.shared import inbound

        method, headers = str(message.get("method")), {VERSION: version}
        name = parameters.get(inbound.NAME_BEARING_METHODS.get(method, ""))
        # What is no Unicode (a lone surrogate) has no header; the gateway judges the message.
        with contextlib.suppress(UnicodeEncodeError):
            headers[inbound.MCP_METHOD_HEADER] = inbound.encode_header_value(method)
            if isinstance(name, str):
                headers[inbound.MCP_NAME_HEADER] = inbound.encode_header_value(name)
                if method == "tools/call" and name in self._tools:
                    headers |= inbound.mcp_param_headers(self._tools[name], table(parameters.get("arguments")))
        return headers

    def hear_tools(self, tools: object) -> None:
        """Note which parameters of these tools are mirrored."""
        if not isinstance(tools, list):
            return
        from mcp.shared import inbound

        for tool in cast("list[object]", tools):
            name, schema = table(tool).get("name"), table(tool).get("inputSchema")
            if isinstance(name, str) and inbound.find_invalid_x_mcp_header(schema) is None:
                self._tools.pop(name, None)
                mapped = inbound.x_mcp_header_map(schema)
                size = len(name) + sum(len(part) for path, header in mapped.items() for part in (*path, header))
                if mapped and size <= _LONGEST_TOOL:
                    self._tools[name] = mapped
        while len(self._tools) > _MOST_TOOLS:
            del self._tools[next(iter(self._tools))]
