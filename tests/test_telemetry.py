"""Events, logs, spans and metrics: off unless asked for, and never with a secret in them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from conduit_oauth import TokenRequestError
from conduit_oauth.events import Event
from conduit_oauth.telemetry import Telemetry
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider


class Backend:
    """What an operator would see."""

    def __init__(self) -> None:
        self.spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracer_provider, self._meter_provider = TracerProvider(), MeterProvider([self._reader])
        tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.telemetry = Telemetry(tracer_provider, self._meter_provider)

    def metrics(self) -> str:
        data = self._reader.get_metrics_data()
        return data.to_json() if data else "{}"

    def points(self, name: str) -> list[dict[str, object]]:
        scopes = [
            scope for resource in json.loads(self.metrics())["resource_metrics"] for scope in resource["scope_metrics"]
        ]
        found = [metric for scope in scopes for metric in scope["metrics"] if metric["name"] == name]
        return [point for metric in found for point in metric["data"]["data_points"]]


def test_a_token_request_is_a_span_and_a_duration(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    backend = Backend()
    provider = make_provider(observer=backend.telemetry, name="billing")
    token = provider.get_token()
    provider.get_token()
    provider.get_token()
    (span,) = backend.spans.get_finished_spans()
    assert span.name == "POST"
    assert span.attributes is not None
    assert span.attributes["url.full"] == authorization_server.token_endpoint()
    assert span.attributes["http.response.status_code"] == 200
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time > span.start_time
    (duration,) = backend.points("http.client.request.duration")
    assert duration["count"] == 1
    (served,) = backend.points("oauth.client.token.served")
    assert (served["value"], served["attributes"]) == (2, {"oauth.provider": "billing"})
    (expiry,) = backend.points("oauth.client.token.time_to_expiry")
    assert 3590 < float(str(expiry["value"])) <= 3600
    for secret in (token, "demo-secret"):
        assert secret not in span.to_json() + backend.metrics()


def test_failures_are_counted_by_kind(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    backend = Backend()
    with pytest.raises(TokenRequestError):
        make_provider(observer=backend.telemetry, client_secret="not-this").get_token()
    authorization_server.fail(503)
    make_provider(observer=backend.telemetry).get_token()
    kinds = {str(point["attributes"]) for point in backend.points("oauth.client.token.failures")}
    assert any("invalid_client" in kind for kind in kinds)
    assert any("503" in kind for kind in kinds)
    failed = [span for span in backend.spans.get_finished_spans() if not span.status.is_ok]
    assert len(failed) == 2
    assert "not-this" not in "".join(span.to_json() for span in failed) + backend.metrics()


def test_refreshes_and_invalidations_are_counted(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    backend = Backend()
    provider = make_provider(observer=backend.telemetry, clock=clock)
    first = provider.get_token()
    clock.step(3550)
    assert provider.get_token() == first
    authorization_server.wait_for_token_requests(2)
    while provider.state().refreshing:
        pass
    assert [point["value"] for point in backend.points("oauth.client.token.refreshes")] == [1]
    clock.step(7200)
    provider.get_token()
    # That one came too late: it replaced nothing that was valid.
    assert [point["value"] for point in backend.points("oauth.client.token.refreshes")] == [1]
    provider.invalidate()
    (received,) = backend.points("oauth.client.token.received")
    assert received["value"] == 3
    (invalidated,) = backend.points("oauth.client.token.invalidations")
    assert invalidated["value"] == 1


def test_a_hook_is_told_what_happens_and_its_faults_stay_its_own(
    make_provider: MakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []

    def hook(event: Event) -> None:
        told.append(event)
        raise LookupError("the hook's own")

    provider = make_provider(observer=hook, name="billing")
    token = provider.get_token()
    provider.get_token()
    provider.invalidate(token)
    assert [event.name for event in told] == ["token_received", "token_served", "token_invalidated"]
    assert {event.provider for event in told} == {"billing"}
    assert token not in repr(told)
    assert caplog.text.count("observer_failed event=token_received") == 1


def test_nobody_pays_for_what_nobody_asked_for() -> None:
    code = "import conduit_oauth, sys; conduit_oauth.TokenProvider; conduit_oauth.TokenProviders; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"opentelemetry", "redis", "sqlite3", "cryptography", "httpx2"} & set(loaded.split())
