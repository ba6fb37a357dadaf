"""Lets any MCP client use a gateway with machine credentials: over stdio, or as an HTTP server on this machine.

Needs the extra `bridge`. `stdio` and `proxy` are two doors to one `gateway.Gateway`.
"""
