"""The life of a token under arbitrary interleavings of calls, answers, failures, invalidations and cancellations.

The provider runs for real, with its threads; the test answers its token requests one by one, and goes on only when
every caller has either come back or waits for the flight.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any
from unittest import mock

import httpx2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from conduit_oauth import OAuthError, TokenProvider
from conduit_oauth.runtime.landing import Landing
from tests.conftest import FakeClock


class Scripted(httpx2.BaseTransport):
    """Holds each request until the test answers it; counts how many are under way at once."""

    def __init__(self, settled: threading.Condition) -> None:
        self.settled = settled
        self.pending = 0
        self.doubled = False
        self.answers: queue.Queue[httpx2.Response | Exception] = queue.Queue()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        with self.settled:
            self.pending += 1
            self.doubled |= self.pending > 1
            self.settled.notify_all()
        answer = self.answers.get(timeout=60)
        if isinstance(answer, Exception):
            raise answer
        return answer


class CountedLanding(Landing):
    """Tells the test how many callers wait."""

    __slots__ = ()
    settled = threading.Condition()
    waiting = 0

    @classmethod
    def count(cls, change: int) -> None:
        with cls.settled:
            CountedLanding.waiting += change
            cls.settled.notify_all()

    def wait(self, timeout: float) -> None:
        self.count(1)
        super().wait(60)
        self.count(-1)

    async def wait_async(self, timeout: float) -> None:
        self.count(1)
        try:
            await super().wait_async(60)
        finally:
            self.count(-1)


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        CountedLanding.waiting = 0
        self.settled = CountedLanding.settled
        self.patches = [
            mock.patch("conduit_oauth.lifecycle.boarding.Landing", CountedLanding),
            # No pause between attempts, so that the test alone decides when time passes.
            mock.patch("conduit_oauth.lifecycle.flight.jitter", return_value=0.0),
            mock.patch("conduit_oauth.sharing.gate.backoff", return_value=0.0),
        ]
        for patch in self.patches:
            patch.start()
        self.clock = FakeClock()
        self.transport = Scripted(self.settled)
        self.provider = TokenProvider(
            "me", "secret", token_endpoint="https://as.example/token", transport=self.transport, clock=self.clock
        )
        self.pool = ThreadPoolExecutor(64)
        self.loop = asyncio.new_event_loop()
        self.loop_thread = threading.Thread(target=self.loop.run_forever)
        self.loop_thread.start()
        self.calls: list[Future[str]] = []
        self.issued = 0
        self.invalidations = 0
        self.void_from: dict[str, float] = {}
        self.sent_in = 0
        self.doomed: set[str] = set()
        self.last_token: str | None = None

    def teardown(self) -> None:
        self.provider.close()
        self.transport.answers.put(httpx2.ConnectError("over"))
        wait(self.calls, 60)
        self.pool.shutdown()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.loop_thread.join()
        self.loop.close()
        for patch in self.patches:
            patch.stop()

    def settle(self) -> None:
        """Wait until nothing moves: each caller is back or waits, and the flight, if any, waits for its answer."""

        def still() -> bool:
            open_calls = sum(not call.done() for call in self.calls)
            if self.provider._control.flight is None:
                return open_calls == 0
            return self.transport.pending > 0 and open_calls == CountedLanding.waiting

        for call in self.calls:
            call.add_done_callback(lambda _: CountedLanding.count(0))
        with self.settled:
            # The end of a flight is not announced to the test, hence the short waits.
            for _ in range(3000):
                if still():
                    break
                self.settled.wait(0.01)
            else:
                raise AssertionError("a caller hangs")
        self.sent_in = self.invalidations if not self.transport.pending else self.sent_in
        self.collect()

    def collect(self) -> None:
        for call in [call for call in self.calls if call.done()]:
            self.calls.remove(call)
            if call.cancelled():
                continue
            error = call.exception()
            if error is None:
                token = call.result()
                assert self.clock.now < self.void_from[token], "an expired token was handed out"
                assert token not in self.doomed, "an invalidated token was handed out"
                self.last_token = token
            else:
                assert isinstance(error, OAuthError)
                assert not self.provider.state().cached, "an error in spite of a valid token"

    def begin(self, call: Future[str]) -> None:
        idle = self.provider._control.flight is None
        self.calls.append(call)
        self.settle()
        if idle and self.transport.pending:
            self.sent_in = self.invalidations

    @rule()
    def call_from_a_thread(self) -> None:
        self.begin(self.pool.submit(self.provider.get_token))

    @rule()
    def call_from_a_task(self) -> None:
        self.begin(asyncio.run_coroutine_threadsafe(self.provider.get_token_async(), self.loop))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel_a_task(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.calls)).cancel()
        self.settle()

    def answer(self, answer: httpx2.Response | Exception) -> None:
        with self.settled:
            self.transport.pending -= 1
        self.transport.answers.put(answer)
        self.settle()
        # If another request is waiting now, it was sent after everything that has happened so far.
        self.sent_in = self.invalidations

    @precondition(lambda self: self.transport.pending)
    @rule(lifetime=st.sampled_from([0, 1, 30, 120, 3600]))
    def grant(self, lifetime: int) -> None:
        self.issued += 1
        token = f"token-{self.issued}"
        # Counted from now at the latest; the provider counts from when it sent the request, which is earlier.
        self.void_from[token] = self.clock.now + lifetime
        if self.sent_in != self.invalidations:
            self.doomed.add(token)
        body: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": lifetime}
        self.answer(httpx2.Response(200, json=body))

    @precondition(lambda self: self.transport.pending)
    @rule(status=st.sampled_from([200, 302, 400, 401, 429, 500, 503]))
    def refuse(self, status: int) -> None:
        self.answer(httpx2.Response(status, text="no"))

    @precondition(lambda self: self.transport.pending)
    @rule()
    def drop(self) -> None:
        self.answer(httpx2.ConnectError("connection lost"))

    @rule()
    def invalidate(self) -> None:
        self.provider.invalidate()
        self.invalidations += 1
        self.doomed.update(self.void_from)
        self.settle()

    @precondition(lambda self: self.last_token)
    @rule()
    def invalidate_the_last_one_seen(self) -> None:
        assert self.last_token
        cached = self.provider._life.token.value
        self.provider.invalidate(self.last_token)
        if cached == self.last_token:
            self.invalidations += 1
            self.doomed.add(cached)
        else:
            assert self.provider._life.token.value == cached, "a late 401 threw a newer token away"
        self.settle()

    @rule(seconds=st.sampled_from([0.5, 1, 15, 31, 59, 61, 700, 3600]))
    def time_passes(self, seconds: float) -> None:
        self.clock.step(seconds)

    @invariant()
    def one_flight(self) -> None:
        assert not self.transport.doubled


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLifecycle = pytest.mark.timeout(300)(TestLifecycle)
