"""The way to one gateway that outlives its tokens, its connections and its restarts.

Law: `send` always answers. What went wrong on the way is an answer, too, in the words of JSON-RPC; and nothing is sent
twice that could do its work twice.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..errors import OAuthError
from ..grant import parse_json_object
from ..life import backoff
from ..provider import TokenProvider

SESSION = "mcp-session-id"
VERSION = "mcp-protocol-version"
# Sessions that are remembered at most; who used none for the longest must begin anew after a restart.
_MOST_SESSIONS = 10_000
_INTERNAL_ERROR = -32603
# What may be asked again though an answer was lost: it changes nothing, or the same thing to the same value.
_REPEATABLE = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/initialized",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "tools/list",
    }
)
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(slots=True)
class _Session:
    """A session by the name that the client knows, and what brings it back where the gateway forgot it."""

    name: str
    current: str
    initialize: bytes
    # The log level and the subscriptions, as they were asked for.
    kept: dict[str, bytes] = field(default_factory=dict[str, bytes])
    reviving: asyncio.Lock = field(default_factory=asyncio.Lock)


class GatewayClient(httpx2.AsyncClient):
    """Sends with `provider`'s tokens; waits `patience` seconds at most for a gateway that cannot be reached."""

    def __init__(self, provider: TokenProvider, *, patience: float = 30.0) -> None:
        super().__init__(
            auth=provider.auth(),
            verify=provider.tls_context() or True,
            # A stream of events may be silent for as long as it likes.
            timeout=httpx2.Timeout(None, connect=5.0, write=30.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        )
        self._patience = patience
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The gateway's answer to `request`, or one that says what keeps us from it."""
        session = self._sessions.get(request.headers.get(SESSION, ""))
        if session is None:
            answer = await self._reached(request, **options)
        else:
            self._sessions.move_to_end(session.name)
            answer = await self._in_session(session, request, **options)
        if answer.status_code == 401:
            await answer.aclose()
            return _failure(request, "the gateway refuses the tokens that the authorization server gives this client")
        self._remember(session, request, answer)
        return answer

    async def _in_session(self, session: _Session, request: httpx2.Request, **options: Any) -> httpx2.Response:
        used = request.headers[SESSION] = session.current
        answer = await self._reached(request, **options)
        # How a server says that it knows of no such session (MCP, transports): one that was restarted.
        if answer.status_code == 404 and request.method != "DELETE" and await self._revive(session, used, request):
            await answer.aclose()
            request.headers[SESSION] = session.current
            answer = await self._reached(request, **options)
        if SESSION in answer.headers:
            answer.headers[SESSION] = session.name
        return answer

    async def _reached(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send, and wait for a gateway that is away."""
        give_up_at = time.monotonic() + self._patience
        attempt = 0
        while True:
            try:
                return await super().send(request, **options)
            except OAuthError as error:
                return _failure(request, str(error))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                problem: Exception = error
            except httpx2.TransportError as error:
                if not _repeatable(request):
                    return _failure(request, f"the answer was lost on the way ({type(error).__name__})")
                problem = error
            pause = backoff(attempt, random.random())
            attempt += 1
            if time.monotonic() + pause > give_up_at:
                return _failure(request, f"{request.url.host} cannot be reached ({type(problem).__name__})")
            await asyncio.sleep(pause)

    async def _revive(self, session: _Session, used: str, request: httpx2.Request) -> bool:
        """Begin anew what the client takes for its session; whether there is one now."""
        async with session.reviving:
            if session.current != used:
                return True
            headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
            answer = await self._reached(
                self.build_request("POST", request.url, content=session.initialize, headers=headers)
            )
            if not answer.is_success or SESSION not in answer.headers:
                return False
            session.current = headers[SESSION] = answer.headers[SESSION]
            if VERSION in request.headers:
                headers[VERSION] = request.headers[VERSION]
            for content in (_INITIALIZED, *session.kept.values()):
                await self._reached(self.build_request("POST", request.url, content=content, headers=headers))
            return True

    def _remember(self, session: _Session | None, request: httpx2.Request, answer: httpx2.Response) -> None:
        if not answer.is_success:
            return
        if session is None:
            if (name := answer.headers.get(SESSION)) and _message(request).get("method") == "initialize":
                self._sessions[name] = _Session(name, name, request.content)
                if len(self._sessions) > _MOST_SESSIONS:
                    self._sessions.popitem(last=False)
        elif request.method == "DELETE":
            self._sessions.pop(session.name, None)
        elif request.method == "POST" and (b"resources/" in request.content or b"logging/" in request.content):
            _keep(session, request)


def _keep(session: _Session, request: httpx2.Request) -> None:
    """Note what the client asked of its session for as long as that lasts."""
    message, content = _message(request), request.content
    parameters = message.get("params")
    uri = parameters.get("uri") if isinstance(parameters, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    match message.get("method"):
        case "logging/setLevel":
            session.kept["level"] = content
        case "resources/subscribe":
            session.kept[f"subscription {uri}"] = content
        case "resources/unsubscribe":
            session.kept.pop(f"subscription {uri}", None)
        case _:
            pass


def _message(request: httpx2.Request) -> dict[str, Any]:
    """The JSON-RPC message of a request; empty where it has none."""
    return (parse_json_object(request.content) or {}) if request.method == "POST" else {}


def _repeatable(request: httpx2.Request) -> bool:
    return request.method != "POST" or _message(request).get("method") in _REPEATABLE


def _failure(request: httpx2.Request, problem: str) -> httpx2.Response:
    """What the client is told where the gateway itself told nothing of use."""
    error = {"code": _INTERNAL_ERROR, "message": f"conduit-oauth bridge: {problem}"}
    body = json.dumps({"jsonrpc": "2.0", "id": _message(request).get("id"), "error": error}).encode()
    return httpx2.Response(502, content=body, headers={"content-type": "application/json"}, request=request)
