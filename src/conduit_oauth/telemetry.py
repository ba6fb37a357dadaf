"""Spans and metrics of OpenTelemetry for the life of tokens (extra `otel`): `TokenProvider(observer=Telemetry())`.

A token request is a client span by the semantic conventions for HTTP; its failure has their `error.type`. Metrics:

    http.client.request.duration         histogram, s    token requests and how long they took
    oauth.client.token.served            counter         calls answered from memory: cache hits
    oauth.client.token.received          counter         tokens that came; `oauth.token.source` is server or store
    oauth.client.token.refreshes         counter         of these, those that came while a valid one was at hand
    oauth.client.token.failures          counter         token requests that failed, by `error.type`
    oauth.client.token.invalidations     counter         tokens that were forgotten before their time
    oauth.client.token.time_to_expiry    gauge, s        what the latest token has left; below zero: expired
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from ._version import __version__
from .clock import elapsed
from .errors import OAuthError, TokenRequestError, without_query
from .events import Event
from .refusals import REGISTERED_ERRORS

_NAME = "conduit_oauth"


class Telemetry:
    """An observer for any number of providers; without providers of its own it uses the program's global ones."""

    def __init__(
        self, tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._duration = meter.create_histogram("http.client.request.duration", "s", "Duration of token requests.")
        self._served = meter.create_counter("oauth.client.token.served", "{call}", "Calls answered from memory.")
        self._received = meter.create_counter("oauth.client.token.received", "{token}", "Tokens that came.")
        self._refreshes = meter.create_counter("oauth.client.token.refreshes", "{token}", "Tokens that came in time.")
        self._failures = meter.create_counter("oauth.client.token.failures", "{request}", "Requests that failed.")
        self._invalidations = meter.create_counter("oauth.client.token.invalidations", "{token}", "Tokens forgotten.")
        self._lock = threading.Lock()
        self._expires: dict[str, float] = {}
        meter.create_observable_gauge(
            "oauth.client.token.time_to_expiry", [self._time_to_expiry], "s", "Seconds that the token has left."
        )

    def __call__(self, event: Event) -> None:
        """Count one event."""
        attributes: dict[str, Any] = {"oauth.provider": event.provider}
        if event.name == "token_served":
            self._served.add(1, attributes)
        elif event.name == "token_invalidated":
            self._invalidations.add(1, attributes)
            with self._lock:
                self._expires.pop(event.provider, None)
        elif event.name in ("token_received", "token_adopted"):
            source = "server" if event.name == "token_received" else "store"
            self._received.add(1, {**attributes, "oauth.token.source": source})
            if event.refresh:
                self._refreshes.add(1, attributes)
            with self._lock:
                self._expires[event.provider] = elapsed() + (event.lifetime or 0.0)
        elif event.error is not None:
            self._failures.add(1, {**attributes, "error.type": kind_of(event.error)})
        if event.seconds is not None and not event.name.startswith("discovery"):
            self._requested(event, event.seconds)

    def _requested(self, event: Event, seconds: float) -> None:
        url = urlsplit(event.url)
        attributes: dict[str, Any] = {
            "http.request.method": "POST",
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
        }
        status = 200 if event.error is None else getattr(event.error, "status", None)
        if status is not None:
            attributes["http.response.status_code"] = status
        if event.error is not None:
            attributes["error.type"] = kind_of(event.error)
        self._duration.record(seconds, attributes)
        end = time.time_ns()
        span = self._tracer.start_span(
            "POST",
            kind=trace.SpanKind.CLIENT,
            start_time=end - int(seconds * 1e9),
            attributes={**attributes, "url.full": without_query(event.url), "oauth.provider": event.provider},
        )
        if event.error is not None:
            span.set_status(trace.StatusCode.ERROR, str(event.error))
        span.end(end)

    def _time_to_expiry(self, options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        now = elapsed()
        with self._lock:
            expires = dict(self._expires)
        return [metrics.Observation(at - now, {"oauth.provider": name}) for name, at in expires.items()]


def kind_of(error: OAuthError) -> str:
    """The `error.type` of a failure: the server's error code, where an RFC has it, or its status, else the class.

    Any other code would be a series of its own: a server could make as many as it likes.
    """
    if isinstance(error, TokenRequestError):
        return error.error if error.error in REGISTERED_ERRORS else str(error.status)
    return type(error).__name__
