"""A `fastmcp` server on a free loopback port, for tokens of the issuer in argv, or `-` for all; prints its URL."""

import socket
import sys

import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth import RemoteAuthProvider
from fastmcp.server.auth.providers.jwt import JWTVerifier
from pydantic import AnyHttpUrl

issuer = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
auth = None
if issuer != "-":
    verifier = JWTVerifier(jwks_uri=f"{issuer}/oauth/jwks", issuer=issuer, algorithm="ES256", ssrf_safe=False)
    auth = RemoteAuthProvider(verifier, authorization_servers=[AnyHttpUrl(issuer)], base_url=url)
server = FastMCP("protected", auth=auth)


@server.tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@server.resource("test://text")
def text() -> str:
    """Have a text."""
    return "a text"


@server.prompt
def ask(what: str) -> str:
    """Ask for it."""
    return f"What is {what}?"


print(f"{url}/mcp", flush=True)
uvicorn.Server(uvicorn.Config(server.http_app(), log_level="critical")).run(sockets=[listener])
