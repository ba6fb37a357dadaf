"""The bridge as an HTTP server: a streaming reverse proxy for one MCP or JSON-RPC endpoint. Plain ASGI.

Invariant: Bytes pass unchanged in both directions. Headers in which the client speaks for itself do not pass.
"""

from __future__ import annotations

import asyncio
import json
import logging
from urllib.parse import quote, urlsplit

import aiohttp

from ..serving.access import Access, RawHeaders
from ..serving.listening import Message, Receive, Send
from .exchange import Question
from .gateway import Gateway

logger = logging.getLogger("conduit_oauth.bridge")

PATH = "/mcp"
# Seconds after which it is worth while to watch whether the client is still there.
_QUICK = 0.1

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
# The client's own credentials, and what tells of this machine. Length and host are those of the new request. What the
# client expects before it sends its body, it has from us.
_NOT_PASSED_ON = _HOP_BY_HOP | {
    *(b"authorization", b"cookie", b"dpop", b"origin", b"referer"),
    *(b"host", b"content-length", b"expect"),
}
# What a query keeps as it is. Anything else has no place in a URL.
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
# The gateway's challenge and cookies are between it and us.
_NOT_PASSED_BACK = _HOP_BY_HOP | {b"www-authenticate", b"set-cookie"}
# Control characters become blanks (RFC 9110 §5.5): our server sends no header with one.
_BLANKED = bytes(0x20 if (each < 0x20 and each != 0x09) or each == 0x7F else each for each in range(256))


class Proxy:
    """An ASGI application that serves the endpoint at `url` under `/mcp` and under that URL's own path."""

    def __init__(self, url: str, gateway: Gateway, access: Access) -> None:
        self._url = url
        self._gateway = gateway
        self._access = access
        self._paths = frozenset({PATH, urlsplit(url).path})

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        refusal = self._access.refusal(scope["headers"])
        if refusal is None and scope["path"] not in self._paths:
            refusal = 404, f"this bridge serves {PATH}"
        # Also what is refused is read: a client that still sends would not see why.
        body = await _body(receive, self._gateway.largest, keep=refusal is None)
        if body is None:
            refusal = refusal or (413, f"a request has {self._gateway.largest} bytes at most (--largest-message)")
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        watch = _Watch(receive)
        try:
            await self._forward(scope, body or b"", send)
        except asyncio.CancelledError:
            # The client's leaving ends its request, and with it the gateway's work; anything else is not ours to stop.
            if not watch.client_left:
                raise
            watch.task.uncancel()
        finally:
            watch.end()

    async def _forward(self, scope: Message, body: bytes, send: Send) -> None:
        query = quote(scope["query_string"], safe=_ASCII)
        url = f"{self._url}?{query}" if query else self._url
        answer = await self._gateway.send(Question(scope["method"], url, _passed_on(scope["headers"]), body))
        try:
            passed = _without(_NOT_PASSED_BACK, answer.headers)
            headers = [(name, value.translate(_BLANKED).strip()) for name, value in passed]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in answer.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except aiohttp.ClientError as error:
            # The connection is cut, as the gateway's was: a client that can resume (Last-Event-ID) does.
            logger.info("the gateway's answer broke off (%s)", type(error).__name__)
            raise ConnectionAbortedError from None
        finally:
            answer.close()


class _Watch:
    """Cancels the task that serves a request when its client leaves; begun only for one that takes its time."""

    __slots__ = ("_receive", "_timer", "_watcher", "client_left", "task")

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an ASGI server runs us in one
        self.task = task
        self.client_left = False
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_QUICK, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self.task.cancel()


def _without(names: frozenset[bytes], headers: RawHeaders) -> RawHeaders:
    """`headers` less those of `names`, and less those that belong to one connection by its own word; in lower case."""
    given = [(name.lower(), value) for name, value in headers]
    own = {each.strip().lower() for name, value in given if name == b"connection" for each in value.split(b",")}
    return [(name, value) for name, value in given if name not in names and name not in own]


def _passed_on(headers: RawHeaders) -> dict[str, str]:
    """The client's headers, less its own affairs; of one that came in several lines, one line (RFC 9110 §5.3)."""
    passed: dict[str, str] = {}
    for raw, value in _without(_NOT_PASSED_ON, headers):
        name, text = raw.decode("latin-1"), _text_of(value)
        passed[name] = f"{passed[name]}, {text}" if name in passed else text
    return passed


def _text_of(value: bytes) -> str:
    """A header's value as text. aiohttp writes it in UTF-8: what was in UTF-8 passes unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _body(receive: Receive, largest: int, *, keep: bool) -> bytes | None:
    """The whole body, None for one that is too large or that ends early; nothing of it without `keep`."""
    body, size = bytearray(), 0
    while True:
        message = await receive()
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > largest or message["type"] == "http.disconnect":
            return None
        if keep:
            body += chunk
        if not message.get("more_body"):
            return bytes(body)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": reason}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="conduit-oauth bridge"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
