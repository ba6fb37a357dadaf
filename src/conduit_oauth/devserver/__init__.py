"""A development authorization server with a protected MCP server behind it, for trying and testing on one machine.

Not for production: its keys live as long as the process, and anyone who reaches it can make it misbehave.
"""

from .server import DEFAULT_SECRET, DevServerConfig, serve

__all__ = ["DEFAULT_SECRET", "DevServerConfig", "serve"]
