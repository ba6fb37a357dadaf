"""What is counted of the agent for Prometheus, and how its providers are at the moment of asking. No secret in it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..events import Event
from .keeper import Agent


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
        self._lateness = Histogram(
            "conduit_oauth_command_lateness_seconds", "How late commands of outputs were run.", registry=self.registry
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

    def command_began(self, late: float) -> None:
        """Count a command that began `late` seconds after what it tells."""
        self._lateness.observe(late)

    def collect(self) -> Iterator[Metric]:
        """How each provider is at this moment."""
        valid = GaugeMetricFamily("conduit_oauth_token_valid", "1: there is a valid token.", labels=["provider"])
        expiry = GaugeMetricFamily(
            "conduit_oauth_token_expiry_timestamp_seconds", "When the token expires.", labels=["provider"]
        )
        trouble = GaugeMetricFamily(
            "conduit_oauth_output_failing", "1: what was to be written or run failed.", labels=["provider"]
        )
        troubles = self.agent.troubles if self.agent is not None else {}
        for name, health in self.agent.providers.health().items() if self.agent is not None else ():
            valid.add_metric([name], health.valid)
            trouble.add_metric([name], name in troubles)
            if health.expires_at is not None:
                expiry.add_metric([name], health.expires_at.timestamp())
        yield from (valid, expiry, trouble)
