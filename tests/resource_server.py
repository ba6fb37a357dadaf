"""A protected HTTP API on a real socket: refuses the tokens it is told to, redirects, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route


def scope_of(token: str) -> list[str]:
    """The scope that a JWT says it has; nothing for another token."""
    parts = token.split(".")
    if len(parts) != 3:
        return []
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=="))["scope"].split()


class ResourceServer:
    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self.refuse_all = False
        # The scope that is wanted, and where the scope of a token is read.
        self.needs = ""
        self.never_content = False
        # What a token is refused with: the status, and the parameters of its challenge.
        self.refusal: tuple[int, str] = (401, "")
        # Whether the challenge, and the metadata, say which scope is wanted.
        self.tells_scope = self.publishes_scope = True
        # The MCP sessions that it knows of, until a test has it forget them.
        self.sessions: set[str] = set()
        # How many requests of unknown sessions are refused at the same time.
        self.refused_together = asyncio.Barrier(1)
        # What an event stream waits for, after each event, and whether its client has left.
        self._go_on = asyncio.Semaphore(0)
        self.stream_left = threading.Event()
        app = Starlette(
            routes=[
                Route("/echo", self._echo, methods=["GET", "POST"]),
                Route("/redirect", self._redirect, methods=["GET", "POST"]),
                Route("/stream", self._stream),
                Route("/.well-known/oauth-protected-resource/echo", self._metadata),
                Route("/session", self._session, methods=["POST", "DELETE"]),
            ]
        )
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        startup = self._server.startup

        async def announced(sockets: list[socket.socket] | None = None) -> None:
            await startup(sockets)
            self._up.set()

        self._server.startup = announced  # type: ignore[method-assign]
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def go_on(self) -> None:
        """Let the event stream that was opened send its next event."""
        self._loop.call_soon_threadsafe(self._go_on.release)

    @property
    def tokens(self) -> list[str | None]:
        """The Authorization header of each request, in order."""
        return [request["authorization"] for request in self.requests]

    async def _note(self, request: Request) -> dict[str, Any]:
        entry = {
            "method": request.method,
            "path": request.url.path,
            "authorization": request.headers.get("authorization"),
            "dpop": request.headers.get("dpop"),
            "body": (await request.body()).decode("utf-8", "backslashreplace"),
            "headers": dict(request.headers),
            "query": request.url.query,
        }
        self.requests.append(entry)
        return entry

    async def _echo(self, request: Request) -> Response:
        entry = await self._note(request)
        token = (entry["authorization"] or "").partition(" ")[2]
        if self.refuse_all or not token or token in self.refused:
            status, challenge = self.refusal
            return JSONResponse(
                {"error": "invalid_token"}, status, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()}
            )
        granted = set(scope_of(token))
        if self.never_content:
            # Each time for something that was not asked for before.
            self.needs += f" more:{len(self.requests)}"
        if self.never_content or not set(self.needs.split()) <= granted:
            challenge = 'Bearer error="insufficient_scope"' + (f', scope="{self.needs}"' if self.tells_scope else "")
            return JSONResponse({"error": "insufficient_scope"}, 403, {"WWW-Authenticate": challenge})
        return JSONResponse(entry)

    async def _metadata(self, request: Request) -> Response:
        if not self.publishes_scope:
            return JSONResponse({}, 404)
        return JSONResponse({"resource": f"{self.url}/echo", "scopes_supported": self.needs.split()})

    async def _redirect(self, request: Request) -> Response:
        entry = await self._note(request)
        if (entry["authorization"] or "").partition(" ")[2] in self.refused:
            return Response(status_code=401)
        return RedirectResponse(request.query_params["to"], 307)

    async def _stream(self, request: Request) -> Response:
        await self._note(request)

        self._loop = asyncio.get_running_loop()

        async def events() -> AsyncIterator[str]:
            try:
                for number in itertools.count(1):
                    yield f"id: {number}\ndata: event {number}\n\n"
                    await self._go_on.acquire()
            finally:
                self.stream_left.set()

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Set-Cookie": "a=b"})

    async def _session(self, request: Request) -> Response:
        entry = await self._note(request)
        message = json.loads(entry["body"])
        name = request.headers.get("mcp-session-id")
        if message["method"] == "initialize":
            name = f"session-{len(self.requests)}"
            self.sessions.add(name)
        if name not in self.sessions:
            await self.refused_together.wait()
            return JSONResponse({"error": "no such session"}, 404)
        return JSONResponse({"jsonrpc": "2.0", "id": message.get("id"), "result": {}}, headers={"mcp-session-id": name})
