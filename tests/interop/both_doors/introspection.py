"""How a server of the official SDK judges tokens."""

from __future__ import annotations

import httpx2
from mcp.server.auth.provider import AccessToken


class Introspection:
    """The SDK's `TokenVerifier`, by asking the development server that is `issuer`."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    async def verify_token(self, token: str) -> AccessToken | None:
        form = {"token": token, "client_id": "demo", "client_secret": "demo-secret"}
        async with httpx2.AsyncClient() as client:
            claims = (await client.post(f"{self._issuer}/oauth/introspect", data=form)).json()
        if not claims["active"]:
            return None
        return AccessToken(token=token, client_id=claims["client_id"], scopes=claims["scope"].split())
