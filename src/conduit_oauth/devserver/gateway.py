"""The protected MCP server: two small tools by the official SDK, behind the SDK's own bearer middleware."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from pydantic import AnyHttpUrl
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .control import Control
from .tokens import Mint


def mcp_server() -> MCPServer[Any]:
    """An MCP server that adds numbers and tells callers who they are."""
    server: MCPServer[Any] = MCPServer("conduit-oauth dev-server", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:  # pyright: ignore[reportUnusedFunction]
        """Add two numbers."""
        return a + b

    @server.tool()
    def whoami() -> str:  # pyright: ignore[reportUnusedFunction]
        """The client that the access token was issued to."""
        token = get_access_token()
        return token.client_id if token else ""

    return server


class Verifier:
    """Accepts this server's tokens for one gateway, unless they were revoked (`TokenVerifier` of the SDK)."""

    def __init__(self, control: Control, mint: Mint, gateway: str) -> None:
        self._control = control
        self._mint = mint
        self._gateway = gateway

    async def verify_token(self, token: str) -> AccessToken | None:
        """What the SDK should know of a valid token, None for an invalid one."""
        claims = None if token in self._control.revoked else self._mint.verify(token, issuer=self._gateway)
        if claims is None:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims["scope"].split(),
            expires_at=int(claims["exp"]),
            resource=claims["aud"],
            subject=claims["sub"],
            claims=claims,
        )


class ProtectedMcp:
    """The ASGI endpoint `/servers/{id}/mcp`: one MCP server for all gateways, each with tokens of its own."""

    def __init__(self, control: Control, mint: Mint, base_url: str, host: str) -> None:
        self._control = control
        self.server = mcp_server()
        # Made for its session manager; its single fixed path is of no use here.
        self.app = self.server.streamable_http_app(host=host)

        @lru_cache(maxsize=64)
        def protected(gateway_id: str, published: bool) -> ASGIApp:
            gateway = f"{base_url}/servers/{gateway_id}"
            metadata = f"{base_url}/.well-known/oauth-protected-resource/servers/{gateway_id}/mcp"
            guard = RequireAuthMiddleware(
                self.server.session_manager.asgi_app, [], AnyHttpUrl(metadata) if published else None
            )
            backend = BearerAuthBackend(
                Verifier(control, mint, gateway), resource_server_url=AnyHttpUrl(f"{gateway}/mcp")
            )
            return AuthenticationMiddleware(AuthContextMiddleware(guard), backend=backend)

        self._protected = protected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the token of the gateway named in the path, then hand over to the SDK."""
        await self._protected(scope["path_params"]["id"], self._control.metadata)(scope, receive, send)
