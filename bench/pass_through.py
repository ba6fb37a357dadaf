"""The barest pass-through: bytes in, bytes out. `pass_through.py URL SERVER CLIENT` prints where it listens.

SERVER is uvicorn-h11, uvicorn (httptools) or aiohttp, CLIENT is httpx2 or aiohttp; all on uvloop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx2
import uvicorn
import uvloop
from aiohttp import web

Headers = list[tuple[bytes, bytes]]
# Method, headers and body to status, headers and body, which comes in chunks.
Pass = Callable[[str, Headers, bytes, Callable[[int, Headers], Awaitable[None]]], AsyncIterator[bytes]]


@asynccontextmanager
async def by_aiohttp(url: str) -> AsyncIterator[Pass]:
    async with aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)) as http:

        async def passed(method: str, headers: Headers, body: bytes, begin: Any) -> AsyncIterator[bytes]:
            given = {name.decode(): value.decode() for name, value in headers}
            async with http.request(method, url, headers=given, data=body) as answer:
                await begin(answer.status, list(answer.raw_headers))
                async for chunk in answer.content.iter_any():
                    yield chunk

        yield passed


@asynccontextmanager
async def by_httpx2(url: str) -> AsyncIterator[Pass]:
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None)) as http:

        async def passed(method: str, headers: Headers, body: bytes, begin: Any) -> AsyncIterator[bytes]:
            answer = await http.send(httpx2.Request(method, url, headers=headers, content=body), stream=True)
            await begin(answer.status_code, answer.headers.raw)
            async for chunk in answer.aiter_raw():
                yield chunk
            await answer.aclose()

        yield passed


async def on_uvicorn(listener: socket.socket, passed: Pass, parser: Any) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break

        async def begin(status: int, headers: Headers) -> None:
            await send({"type": "http.response.start", "status": status, "headers": headers})

        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        async for chunk in passed(scope["method"], headers, body, begin):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    given: dict[str, Any] = {"lifespan": "off", "server_header": False, "date_header": False, "proxy_headers": False}
    config = uvicorn.Config(app, http=parser, log_level="critical", **given)
    await uvicorn.Server(config).serve(sockets=[listener])


async def on_aiohttp(listener: socket.socket, passed: Pass) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()

        async def begin(status: int, headers: Headers) -> None:
            response.set_status(status)
            for name, value in headers:
                response.headers.add(name.decode(), value.decode())
            await response.prepare(request)

        headers = [(name, value) for name, value in request.raw_headers if name.lower() != b"host"]
        async for chunk in passed(request.method, headers, await request.read(), begin):
            await response.write(chunk)
        await response.write_eof()
        return response

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()


logging.disable()  # wrk leaves in the middle of its last calls


async def main(url: str, server: str, client: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    async with {"aiohttp": by_aiohttp, "httpx2": by_httpx2}[client](url) as passed:
        if server == "aiohttp":
            await on_aiohttp(listener, passed)
        else:
            await on_uvicorn(listener, passed, "h11" if server == "uvicorn-h11" else "httptools")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
