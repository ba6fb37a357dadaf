"""A protected `fastmcp` server on a free loopback port, for tokens of the issuer in argv; prints its URL."""

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
verifier = JWTVerifier(jwks_uri=f"{issuer}/oauth/jwks", issuer=issuer, algorithm="ES256", ssrf_safe=False)
server = FastMCP(
    "protected", auth=RemoteAuthProvider(verifier, authorization_servers=[AnyHttpUrl(issuer)], base_url=url)
)


@server.tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


print(f"{url}/mcp", flush=True)
uvicorn.Server(uvicorn.Config(server.http_app(), log_level="critical")).run(sockets=[listener])
