"""The token endpoint, as strict as RFC 6749 allows: what passes here passes elsewhere."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .control import MALFORMED, Control, Fault
from .tokens import Mint


class Refusal(Exception):  # noqa: N818 - an answer of the protocol, not a fault of ours
    """An error response (RFC 6749 §5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        challenge = {"WWW-Authenticate": 'Basic realm="conduit-oauth dev-server"'} if status == 401 else {}
        self.response = JSONResponse({"error": error, "error_description": description}, status, challenge)


class HalfAnswer(Response):
    """Announces a body, sends the start of it and lets the connection drop."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call: returning before the body is whole makes the server close the connection."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"access_token": "abc', "more_body": True})


class TokenEndpoint:
    """Answers `POST /servers/{id}/oauth/token`."""

    def __init__(self, control: Control, mint: Mint, gateway_url: Callable[[str], str]) -> None:
        self._control = control
        self._mint = mint
        self._gateway_url = gateway_url

    async def __call__(self, request: Request) -> Response:
        """Log the request, be as slow and as faulty as told, then grant or refuse."""
        form = parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
        await self._control.log(_log_entry(request, form))
        if self._control.latency:
            await asyncio.sleep(self._control.latency)
        await self._control.released.wait()
        fault = self._control.next_fault()
        if fault is not None and not fault.revoked:
            return _faulty(fault)
        try:
            return self._grant(request, form, revoked=fault is not None)
        except Refusal as refusal:
            return refusal.response

    async def introspect(self, request: Request) -> Response:
        """Answers `POST /servers/{id}/oauth/introspect` (RFC 7662) to any client that authenticates."""
        try:
            token = await self._token_in(request)
        except Refusal as refusal:
            return refusal.response
        issuer = self._gateway_url(request.path_params["id"])
        claims = None if token in self._control.revoked else self._mint.verify(token, issuer=issuer)
        return JSONResponse({"active": False} if claims is None else {"active": True, **claims})

    async def revoke(self, request: Request) -> Response:
        """Answers `POST /servers/{id}/oauth/revoke` (RFC 7009); an unknown token is as good as revoked."""
        try:
            self._control.revoked.add(await self._token_in(request))
        except Refusal as refusal:
            return refusal.response
        return Response()

    async def _token_in(self, request: Request) -> str:
        parameters = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        self._authenticate(request.headers.get("authorization"), parameters)
        if not parameters.get("token"):
            raise Refusal("invalid_request", "there is no token")
        return parameters["token"]

    def _grant(self, request: Request, form: list[tuple[str, str]], *, revoked: bool) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
            raise Refusal("invalid_request", "the content type is application/x-www-form-urlencoded")
        parameters = dict(form)
        if len(parameters) != len(form):
            raise Refusal("invalid_request", "a parameter is repeated")
        client_id = self._authenticate(request.headers.get("authorization"), parameters)
        if parameters.get("grant_type") != "client_credentials":
            raise Refusal("unsupported_grant_type", "this server grants client_credentials only")
        gateway = self._gateway_url(request.path_params["id"])
        resource = parameters.get("resource", f"{gateway}/mcp")
        if resource not in self._control.resources and not f"{resource}/".startswith(f"{gateway}/"):
            raise Refusal("invalid_target", "the resource is neither of this gateway nor registered")
        allowed = self._control.resources.get(resource, self._control.scopes)
        asked = parameters.get("scope", " ".join(allowed)).split()
        if not set(asked) <= set(allowed):
            raise Refusal("invalid_scope", f"this client may have {' '.join(allowed)}")
        lifetime = self._control.lifetime
        token = self._mint.sign(
            issuer=gateway,
            audience=parameters.get("audience", resource),
            client_id=client_id,
            scope=" ".join(asked),
            lifetime=lifetime,
        )
        self._control.issued.append(token)
        if revoked:
            self._control.revoked.add(token)
        body: dict[str, Any] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(lifetime) if lifetime.is_integer() else lifetime,
            "scope": " ".join(asked),
        }
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    def _authenticate(self, authorization: str | None, parameters: dict[str, str]) -> str:
        if authorization is None:
            client_id, secret = parameters.get("client_id", ""), parameters.get("client_secret", "")
        elif "client_secret" in parameters:
            raise Refusal("invalid_request", "the client authenticates by more than one method")
        else:
            client_id, secret = _basic(authorization)
        known = self._control.clients.get(client_id)
        if known is None or not hmac.compare_digest(known.encode(), secret.encode()):
            raise Refusal("invalid_client", "unknown client or wrong secret", 401)
        return client_id


def _basic(authorization: str) -> tuple[str, str]:
    """RFC 6749 §2.3.1: both parts were form-encoded before base64, and are decoded here for what they are."""
    try:
        user, _, password = (
            base64.b64decode(authorization.removeprefix("Basic "), validate=True).decode().partition(":")
        )
    except ValueError:
        raise Refusal("invalid_client", "the Authorization header is not Basic", 401) from None
    return unquote_plus(user), unquote_plus(password)


def _log_entry(request: Request, form: list[tuple[str, str]]) -> dict[str, Any]:
    """What came, without the secret."""
    shown = {name: value for name, value in form if name != "client_secret"}
    method, client_id = "client_secret_post", shown.get("client_id")
    if authorization := request.headers.get("authorization"):
        method = "client_secret_basic"
        with contextlib.suppress(Refusal):
            client_id, _ = _basic(authorization)
    return {"gateway": request.path_params["id"], "method": method, "client_id": client_id, "form": shown}


def _faulty(fault: Fault) -> Response:
    if fault.drop:
        return HalfAnswer()
    if fault.malformed is not None:
        return Response(MALFORMED[fault.malformed], media_type="application/json")
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return Response(fault.body, fault.status or 500, headers)
