"""What the agent tells over HTTP: tokens to programs of this machine, health, metrics, and a status page.

Law: tokens are had on the Unix socket, or with the agent's own bearer token; everything else holds no secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..access import Access
from ..errors import ConfigurationError, OAuthError
from ..events import Event
from ..formats import Format, formatted, token_type
from ..provider import TokenProvider
from ..serving import Application, Message, Receive, Send
from ..state import Health
from .keeper import Agent

_NO_STORE = {"Cache-Control": "no-store"}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_PAGE = {
    "/": ("status.html", "text/html"),
    "/status.css": ("status.css", "text/css"),
    "/status.js": ("status.js", "text/javascript"),
}


class Metrics(Collector):
    """An observer that counts, and Prometheus' collector of what is counted and how the providers are."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._received = Counter(
            "conduit_oauth_tokens", "Tokens that came.", ["provider", "source"], registry=self.registry
        )
        self._failures = Counter(
            "conduit_oauth_token_request_failures",
            "Token requests that failed.",
            ["provider", "error"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "conduit_oauth_token_request_duration_seconds", "How long token requests took.", registry=self.registry
        )
        self.agent: Agent | None = None
        self.registry.register(self)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        if event.name in ("token_received", "token_adopted"):
            self._received.labels(event.provider, "server" if event.name == "token_received" else "store").inc()
        elif event.error is not None:
            self._failures.labels(event.provider, type(event.error).__name__).inc()
        if event.seconds is not None:
            self._duration.observe(event.seconds)

    def collect(self) -> Iterator[Metric]:
        """How each provider is at this moment."""
        valid = GaugeMetricFamily("conduit_oauth_token_valid", "1: there is a valid token.", labels=["provider"])
        expiry = GaugeMetricFamily(
            "conduit_oauth_token_expiry_timestamp_seconds", "When the token expires.", labels=["provider"]
        )
        trouble = GaugeMetricFamily(
            "conduit_oauth_output_failing", "1: what was to be written or run failed.", labels=["provider"]
        )
        for name, health in self.agent.providers.health().items() if self.agent is not None else ():
            valid.add_metric([name], health.valid)
            trouble.add_metric([name], self.agent is not None and name in self.agent.troubles)
            if health.expires_at is not None:
                expiry.add_metric([name], health.expires_at.timestamp())
        yield from (valid, expiry, trouble)


def make_app(agent: Agent, metrics: Metrics, *, tcp: Access, socket: Access) -> Application:
    """The agent's application: who comes by TCP is held to `tcp`, by the Unix socket to `socket`."""

    async def token(request: Request) -> Response:
        name: str = request.path_params["name"]
        try:
            provider = agent.providers[name]
            shape = Format(request.query_params.get("format", Format.JSON))
        except KeyError:
            return JSONResponse({"error": "no such provider"}, 404)
        except ValueError:
            return JSONResponse({"error": f"format is one of {', '.join(Format)}"}, 400)
        except ConfigurationError as error:
            return JSONResponse({"error": str(error)}, 503)
        if request.method == "DELETE":
            # The one that was refused to whoever asks, or whatever there is.
            provider.invalidate((await request.body()).decode("latin-1").strip() or None)
        try:
            value = await provider.get_token_async()
        except OAuthError as error:
            return JSONResponse({"error": str(error)}, 503, headers=_NO_STORE)
        return _token_answer(shape, value, provider)

    async def health(_: Request) -> Response:
        # On a thread: with thousands of providers this takes a while, and others are being served.
        failing = await run_in_threadpool(
            lambda: sorted(
                {name for name, each in agent.providers.health().items() if not each.valid} | set(agent.troubles.copy())
            )
        )
        return JSONResponse({"status": "failing" if failing else "ok", "failing": failing}, 503 if failing else 200)

    async def measured(_: Request) -> Response:
        text = await run_in_threadpool(generate_latest, metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def status(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(_status, agent), headers=_NO_STORE)

    async def page(request: Request) -> Response:
        file, kind = _PAGE[request.url.path]
        return Response(
            files("conduit_oauth.agent").joinpath(file).read_bytes(), media_type=kind, headers=_PAGE_HEADERS
        )

    app = Starlette(
        routes=[
            Route("/tokens/{name:path}", token, methods=["GET", "DELETE"]),
            Route("/healthz", health),
            Route("/metrics", measured),
            Route("/status.json", status),
            *(Route(path, page) for path in _PAGE),
        ]
    )

    async def guarded(scope: Message, receive: Receive, send: Send) -> None:
        # uvicorn tells a port where there is one.
        access = tcp if (scope.get("server") or (None, None))[1] is not None else socket
        wants_token = scope["path"].startswith("/tokens/")
        refusal = (access if wants_token else Access(access.hosts)).refusal(scope["headers"])
        if refusal is None and wants_token and access is tcp and tcp.bearer is None:
            refusal = 403, "by TCP there are tokens only where the agent has a local_token_file"
        if refusal is None:
            await app(scope, receive, send)
            return
        status, reason = refusal
        headers = {"WWW-Authenticate": 'Bearer realm="conduit-oauth agent"'} if status == 401 else {}
        await PlainTextResponse(reason, status, headers)(scope, receive, send)

    return guarded


def _token_answer(shape: Format, value: str, provider: TokenProvider) -> Response:
    state = provider.state()
    if shape is not Format.JSON:
        try:
            return PlainTextResponse(formatted(shape, value, state, provider), headers=_NO_STORE)
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
    rows = [_row(health, agent) for health in agent.providers.health().values()]
    return {"now": datetime.now(UTC).timestamp(), "providers": rows}


def _row(health: Health, agent: Agent) -> dict[str, Any]:
    def moment(value: datetime | None) -> float | None:
        return value and value.timestamp()

    trouble = agent.troubles.get(health.name)
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
