"""The bridge as an HTTP server: a streaming reverse proxy for one MCP or JSON-RPC endpoint. Plain ASGI.

Law: bytes pass as they come, both ways; of the client's headers, none that speaks for the client itself does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ..access import Access
from ..serving import Message, Receive, Send
from .gateway import GatewayClient

logger = logging.getLogger("conduit_oauth.bridge")

# Held in memory, so that it can be sent again with another token.
LARGEST_BODY = 32 * 1024 * 1024
PATH = "/mcp"

# RFC 9110 §7.6.1, and what concerns one connection only.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The client's own credentials, and what tells of this machine. Length and host are those of the new request.
_NOT_PASSED_ON = _HOP_BY_HOP | {b"authorization", b"cookie", b"dpop", b"origin", b"referer", b"host", b"content-length"}
# The gateway's challenge and cookies are between it and us.
_NOT_PASSED_BACK = _HOP_BY_HOP | {b"www-authenticate", b"set-cookie"}


class Proxy:
    """An ASGI application that serves the endpoint at `url` under `/mcp` and under that URL's own path."""

    def __init__(self, url: str, client: GatewayClient, access: Access) -> None:
        self._url = url
        self._client = client
        self._access = access
        self._paths = frozenset({PATH, urlsplit(url).path})

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        refusal = self._access.refusal(scope["headers"])
        if refusal is None and scope["path"] not in self._paths:
            refusal = 404, f"this bridge serves {PATH}"
        body = b"" if refusal is not None else await _body(receive)
        if body is None:
            refusal = 413, f"a request has {LARGEST_BODY} bytes at most"
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an ASGI server runs us in one
        gone = asyncio.create_task(_cancel_when_gone(receive, task))
        try:
            await self._forward(scope, body, send)
        except asyncio.CancelledError:
            # The client's leaving ends its request, and with it the gateway's work; anything else is not ours to stop.
            if not gone.done() or gone.cancelled():
                raise
            task.uncancel()
        finally:
            gone.cancel()

    async def _forward(self, scope: Message, body: bytes | None, send: Send) -> None:
        query = scope["query_string"].decode("latin-1")
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED_ON]
        if not any(name == b"accept-encoding" for name, _ in headers):
            headers.append((b"accept-encoding", b"identity"))
        request = httpx2.Request(
            scope["method"],
            f"{self._url}?{query}" if query else self._url,
            headers=headers,
            content=body or None,
            extensions={"timeout": self._client.timeout.as_dict()},
        )
        answer = await self._client.send(request, stream=True)
        try:
            kept = [(name.lower(), value) for name, value in answer.headers.raw]
            kept = [(name, value) for name, value in kept if name not in _NOT_PASSED_BACK]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for chunk in _chunks(answer):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except httpx2.TransportError as error:
            # The connection is cut, as the gateway's was: a client that can resume (Last-Event-ID) does.
            logger.info("the gateway's answer broke off (%s)", type(error).__name__)
            raise ConnectionAbortedError from None
        finally:
            await answer.aclose()


async def _chunks(answer: httpx2.Response) -> AsyncIterator[bytes]:
    if answer.is_stream_consumed:  # one of our own making
        yield answer.content
        return
    async for chunk in answer.aiter_raw():
        yield chunk


async def _body(receive: Receive) -> bytes | None:
    """The whole body, None for one that is too large."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > LARGEST_BODY:
            return None
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": reason}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="conduit-oauth bridge"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
