"""What the agent tells over HTTP: tokens to programs of this machine, health, metrics, and a status page.

Invariant: Tokens are served on the Unix socket, or for the agent's own bearer token. No other page contains a secret.
Probes and scrapers may use any `Host`, because the address of a pod has no name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..clock import elapsed
from ..errors import ConfigurationError, OAuthError
from ..lifecycle.state import Health
from ..provider import TokenProvider
from ..serving.access import Access
from ..serving.bodies import BoundedBody
from ..serving.formats import Format, check_that_others_can_use, formatted, issued, token_type
from ..serving.listening import Application, Message, Receive, Send
from .hooks import Trouble
from .keeper import Agent
from .metrics import Metrics

_NO_STORE = {"Cache-Control": "no-store"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# What carries no token and is asked for by any name.
_PROBES = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
# Seconds: how long one invalidation by a program keeps the next from being one, at first and at most, and when all of
# that is forgotten.
_FIRST_REST, _LONGEST_REST, _FORGOTTEN = 1.0, 60.0, 120.0
_PAGE = {
    "/": ("status.html", "text/html"),
    "/status.css": ("status.css", "text/css"),
    "/status.js": ("status.js", "text/javascript"),
}


class Pages:
    """What is answered; each request finds the agent as it is at that moment."""

    def __init__(self, agent: Agent, metrics: Metrics) -> None:
        self._agent = agent
        self._metrics = metrics
        self._damper = Damper()

    def routes(self) -> list[Route]:
        """Each path, and who answers there."""
        return [
            Route("/tokens/{name:path}", self._token, methods=["GET", "DELETE"], middleware=[Middleware(BoundedBody)]),
            Route("/livez", _alive),
            Route("/readyz", self._ready),
            Route("/healthz", self._health),
            Route("/metrics", self._measured),
            Route("/status.json", self._status),
            *(Route(path, _page) for path in _PAGE),
        ]

    async def _token(self, request: Request) -> Response:
        try:
            provider = self._agent.providers[request.path_params["name"]]
            shape = Format(request.query_params.get("format", Format.JSON))
            check_that_others_can_use(provider)
        except KeyError:
            return JSONResponse({"error": "no such provider"}, 404)
        except ValueError:
            return JSONResponse({"error": f"format is one of {', '.join(Format)}"}, 400)
        except ConfigurationError as error:
            return JSONResponse({"error": str(error)}, 503)
        if request.method == "DELETE" and self._damper.lets(provider.name):
            # The one that was refused to whoever asks, or whatever there is.
            provider.invalidate((await request.body()).decode("latin-1").strip() or None)
        try:
            value = await provider.get_token_async()
        except OAuthError as error:
            return JSONResponse({"error": str(error)}, 503, headers=_NO_STORE)
        return _token_answer(shape, value, provider)

    # On a thread: with thousands of providers these take a while, and token requests must not wait.

    async def _ready(self, _: Request) -> Response:
        if not self._agent.settled.is_set():
            return PlainTextResponse("not yet\n", 503)
        failing = await self._failing()
        # One that fails takes none of the others out of service.
        return PlainTextResponse("ready\n" + "".join(f"failing: {name}\n" for name in failing))

    async def _health(self, _: Request) -> Response:
        failing = await self._failing()
        return JSONResponse({"status": "failing" if failing else "ok", "failing": failing}, 503 if failing else 200)

    async def _failing(self) -> list[str]:
        health = await run_in_threadpool(self._agent.providers.health)
        invalid = {name for name, each in health.items() if not each.valid}
        return sorted(invalid | set(self._agent.troubles))

    async def _measured(self, _: Request) -> Response:
        text = await run_in_threadpool(generate_latest, self._metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _status(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(_status, self._agent), headers=_NO_STORE)


class Damper:
    """Keeps programs that invalidate again and again from making a token request each time."""

    def __init__(self) -> None:
        # By provider: how often in a row, when the last time, and until when no more.
        self._rests: dict[str, tuple[int, float, float]] = {}

    def lets(self, name: str) -> bool:
        """Whether this one counts."""
        now = elapsed()
        times, last, until = self._rests.get(name, (0, -math.inf, -math.inf))
        if now < until:
            return False
        times = 0 if now - last > _FORGOTTEN else times + 1
        rest = min(_LONGEST_REST, _FIRST_REST * 2.0 ** min(times - 1, 16)) if times else 0.0
        self._rests[name] = times, now, now + rest
        return True


class Guard:
    """Lets in who may: who comes by TCP is held to `tcp`, and has tokens only where that knows a bearer token."""

    def __init__(self, app: Application, tcp: Callable[[], Access]) -> None:
        self._app = app
        self._tcp = tcp

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse to."""
        # uvicorn tells a port where there is one: who comes by the socket passed its file's mode.
        by_tcp = (scope.get("server") or (None, None))[1] is not None
        is_open = not by_tcp or scope["path"] in _PROBES
        # On a thread: the bearer token is read from its file, which may be slow.
        if is_open or (refusal := await run_in_threadpool(self._refusal, scope)) is None:
            await self._app(scope, receive, send)
            return
        status, reason = refusal
        headers = {"WWW-Authenticate": 'Bearer realm="conduit-oauth agent"'} if status == 401 else {}
        await PlainTextResponse(reason, status, headers)(scope, receive, send)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        tcp = self._tcp()
        if not scope["path"].startswith("/tokens/"):
            return Access(tcp.hosts).refusal(scope["headers"])
        if tcp.bearer is None:
            return 403, "by TCP there are tokens only where the agent has a local_token_file"
        return tcp.refusal(scope["headers"])


async def _alive(_: Request) -> Response:
    return PlainTextResponse("alive")


def make_app(agent: Agent, metrics: Metrics, tcp: Callable[[], Access]) -> Application:
    """The agent's application; `tcp` says who may use it by TCP at this moment."""
    return Guard(Starlette(routes=Pages(agent, metrics).routes()), tcp)


async def _page(request: Request) -> Response:
    file, kind = _PAGE[request.url.path]
    content = files("conduit_oauth.agent").joinpath(file).read_bytes()
    return Response(content, media_type=kind, headers=_PAGE_HEADERS)


def _token_answer(shape: Format, value: str, provider: TokenProvider) -> Response:
    state = provider.state()
    if shape is not Format.JSON:
        try:
            return PlainTextResponse(formatted(shape, issued(provider, value, state)), headers=_NO_STORE)
        except ConfigurationError as error:
            return JSONResponse({"error": str(error)}, 400)
    # As a token endpoint has it (RFC 6749 §5.1), so that a program can take one for the other.
    said: dict[str, Any] = {"access_token": value, "token_type": token_type(provider)}
    if state.expires_at is not None:
        said["expires_in"] = max(0, int((state.expires_at - datetime.now(UTC)).total_seconds()))
    if state.granted_scope is not None:
        said["scope"] = state.granted_scope
    return JSONResponse(said, headers=_NO_STORE)


def _status(agent: Agent) -> dict[str, Any]:
    troubles = agent.troubles
    rows = [_row(health, troubles.get(health.name)) for health in agent.providers.health().values()]
    return {"now": datetime.now(UTC).timestamp(), "providers": rows}


def _row(health: Health, trouble: Trouble | None) -> dict[str, Any]:
    def moment(value: datetime | None) -> float | None:
        return value and value.timestamp()

    return {
        "name": health.name,
        "state": health.state,
        "valid": health.valid,
        "issued": moment(health.last_success),
        "expires": moment(health.expires_at),
        "refresh": moment(health.next_refresh),
        "error": health.last_error and str(health.last_error),
        "error_at": moment(health.last_error_at),
        "output": trouble and trouble[1],
        "output_at": trouble and moment(trouble[0]),
    }
