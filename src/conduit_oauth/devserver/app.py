"""The development server's routes: token endpoint, metadata, keys, the protected MCP server, and the admin endpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import ConfigurationError
from ..protocol.http import parse_json_object
from ..serving.bodies import BoundedBody
from .control import Control
from .gateway import ProtectedMcp
from .token_endpoint import TokenEndpoint
from .tokens import Mint

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class _Metadata:
    """What each gateway and its authorization server publish, under `base_url`."""

    def __init__(self, control: Control, mint: Mint, base_url: str) -> None:
        self._control = control
        self._mint = mint
        self._base_url = base_url

    def gateway_url(self, gateway_id: str) -> str:
        return f"{self._base_url}/servers/{gateway_id}"

    async def of_server(self, request: Request) -> Response:
        issuer = self._published(request)
        return JSONResponse(
            {
                "issuer": issuer,
                "token_endpoint": f"{issuer}/oauth/token",
                "jwks_uri": f"{issuer}/oauth/jwks",
                "introspection_endpoint": f"{issuer}/oauth/introspect",
                "revocation_endpoint": f"{issuer}/oauth/revoke",
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "scopes_supported": self._control.all_scopes(),
            }
        )

    async def of_resource(self, request: Request) -> Response:
        gateway = self._published(request)
        return JSONResponse(
            {
                "resource": f"{gateway}/mcp",
                "authorization_servers": [gateway],
                "scopes_supported": self._control.scopes,
                "bearer_methods_supported": ["header"],
            }
        )

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(self._mint.jwks())

    def _published(self, request: Request) -> str:
        if not self._control.metadata:
            raise HTTPException(404)
        return self.gateway_url(request.path_params["id"])


class _Admin:
    """Changes `control`, tells of it, and sets it back to what `new_control` makes."""

    def __init__(self, control: Control, new_control: Callable[[], Control]) -> None:
        self._control = control
        self._new_control = new_control

    async def answer(self, request: Request) -> Response:
        control = self._control
        # A page in a browser on this machine can post here; it cannot do so without an Origin.
        if "origin" in request.headers:
            return JSONResponse({"error": "not for browsers"}, 403)
        if request.method == "POST":
            change = parse_json_object(await request.body())
            if change is None:
                return JSONResponse({"error": "the body is not a JSON object"}, 400)
            try:
                control.change(change)
            except (ValueError, TypeError, ConfigurationError) as error:
                return JSONResponse({"error": str(error)}, 400)
        elif request.method == "DELETE":
            self._begin_anew()
        elif wanted := request.query_params.get("token_requests"):
            if not wanted.isdecimal() or len(wanted) > 9:
                return JSONResponse({"error": "token_requests is how many to wait for"}, 400)
            await control.wait_for_requests(int(wanted))
        return JSONResponse(
            {
                "latency": control.latency,
                "lifetime": control.lifetime,
                "faults": sum(fault.count for fault in control.faults),
                "revoked": len(control.revoked),
                "token_requests": control.token_requests,
            }
        )

    def _begin_anew(self) -> None:
        self._control.released.set()
        fresh = self._new_control()
        kept = {"released", "arrived", "scopes"}
        for name in (each.name for each in dataclasses.fields(Control) if each.name not in kept):
            setattr(self._control, name, getattr(fresh, name))


def make_app(base_url: str, host: str, clients: dict[str, str], order: dict[str, Any]) -> Starlette:
    """The application under `base_url`, listening on `host`, set up by a first `order` of the admin endpoint's kind."""

    def new_control() -> Control:
        control = Control(dict(clients))
        control.change(order)
        return control

    control = new_control()
    mint = Mint()
    mcp = ProtectedMcp(control, mint, base_url, host)
    metadata = _Metadata(control, mint, base_url)
    token = TokenEndpoint(control, mint, metadata.gateway_url)
    # On loopback a page in a browser must not reach us by a name of its own (DNS rebinding); elsewhere any name may.
    hosts = [*LOOPBACK_HOSTS, "[::1]"] if host in LOOPBACK_HOSTS else ["*"]
    bounded = [Middleware(BoundedBody)]
    return Starlette(
        routes=[
            Route("/servers/{id}/oauth/token", token.__call__, methods=["POST"], middleware=bounded),
            Route("/servers/{id}/oauth/introspect", token.introspect, methods=["POST"], middleware=bounded),
            Route("/servers/{id}/oauth/revoke", token.revoke, methods=["POST"], middleware=bounded),
            Route("/servers/{id}/oauth/jwks", metadata.jwks),
            Route("/servers/{id}/mcp", mcp),
            Route("/.well-known/oauth-authorization-server/servers/{id}", metadata.of_server),
            Route("/.well-known/oauth-protected-resource/servers/{id}/mcp", metadata.of_resource),
            Route("/admin", _Admin(control, new_control).answer, methods=["GET", "POST", "DELETE"], middleware=bounded),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        lifespan=lambda _: mcp.server.session_manager.run(),
    )
