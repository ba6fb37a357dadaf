"""`conduit-oauth demo`: each claim of the README, observed on real parts, within seconds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import TokenProvider
from ..testing.authorization_server import AuthorizationServer
from .output import plain

CALLS = 10_000
CALLERS = 20


class NotObserved(Exception):  # noqa: N818 - a finding
    """A step did not show what it claims."""


def expect(condition: bool, otherwise: str) -> None:
    """Raise `NotObserved` unless `condition` holds."""
    if not condition:
        raise NotObserved(otherwise)


@dataclass
class Callers:
    """Threads that ask one provider for its token without pause."""

    provider: TokenProvider
    calls: int = 0
    worst: float = 0.0
    tokens: set[str] = field(default_factory=set[str])
    errors: list[Exception] = field(default_factory=list[Exception])

    @contextmanager
    def calling(self) -> Generator[None]:
        """Keep them calling for the length of the block."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._call_until, args=(stop,)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _call_until(self, stop: threading.Event) -> None:
        while not stop.wait(0.001):
            begun = time.perf_counter()
            try:
                self.tokens.add(self.provider.get_token())
            except Exception as error:
                self.errors.append(error)
            self.worst = max(self.worst, time.perf_counter() - begun)
            self.calls += 1

    def check(self) -> None:
        """Raise `NotObserved` if a caller saw an error."""
        expect(not self.errors, f"a caller got {self.errors[:1]}")


class Demo:
    """The steps; each returns what it saw, or raises `NotObserved`."""

    def __init__(self, server: AuthorizationServer) -> None:
        self.server = server
        self.provider = TokenProvider(server.client_id, server.client_secret, mcp_url=server.mcp_url(), discovery=False)

    def first_token(self) -> str:
        """Derive the endpoint, fetch a token."""
        token = self.provider.get_token()
        endpoint = self.provider.state().token_endpoint
        expect(endpoint == self.server.token_endpoint(), f"derived {endpoint}")
        expect(len(self.server.token_requests) == 1, "not one token request")
        return f"{len(token)} characters from {endpoint}"

    def tool_call(self) -> str:
        """Call a tool on the protected MCP server, with and without a token."""
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        status = httpx2.post(self.server.mcp_url(), json={}, trust_env=False).status_code
        expect(status == 401, f"without a token the server answered {status}")

        async def call() -> list[str]:
            async with (
                httpx2.AsyncClient(auth=self.provider.auth(), trust_env=False) as http,
                Client(streamable_http_client(self.server.mcp_url(), http_client=http)) as client,
            ):
                total = await client.call_tool("add", {"a": 19, "b": 23})
                who = await client.call_tool("whoami", {})
            return [content.text for result in (total, who) for content in result.content if content.type == "text"]

        answers = asyncio.run(call())
        expect(answers == ["42", self.server.client_id], f"the tools answered {answers}")
        return f"add(19, 23) = {answers[0]}, whoami() = {answers[1]}; without a token: 401"

    def cache(self) -> str:
        """Serve many calls with the token that is there."""
        before = len(self.server.token_requests)
        begun = time.perf_counter()
        tokens = {self.provider.get_token() for _ in range(CALLS)}
        took = time.perf_counter() - begun
        expect(len(tokens) == 1, f"{len(tokens)} different tokens")
        expect(before == len(self.server.token_requests) == 1, "a warm call asked the server")
        return f"{CALLS:,} calls, 1 token request in all, {took / CALLS * 1e9:,.0f} ns a call"

    def refresh(self) -> str:
        """Refresh a token of two seconds under load, while the server is slow."""
        self.server.reset()
        self.server.set(lifetime=2, latency=0.3)
        with self._provider() as provider:
            first = provider.get_token()
            callers = Callers(provider)
            with callers.calling():
                self.server.wait_for_token_requests(3)
            callers.check()
            requests = len(self.server.token_requests)
        expect(len(callers.tokens | {first}) >= 2, "the token was not replaced")
        expect(callers.worst < 0.15, f"a caller waited {callers.worst:.3f} s")
        return f"{callers.calls:,} calls, {requests} token requests of 0.3 s, worst call {callers.worst * 1e3:.1f} ms"

    def invalidate(self) -> str:
        """Recover from a revocation inside one request, and from `invalidate()`."""
        self.server.reset()
        revoked = self.provider.get_token()
        self.server.revoke(revoked)
        with httpx2.Client(auth=self.provider.auth(), trust_env=False) as http:
            status = http.post(self.server.mcp_url(), json={}).status_code
        replaced = self.provider.get_token()
        expect(status != 401 and replaced != revoked, f"the revoked token was answered with {status}")
        self.provider.invalidate()
        expect(self.provider.get_token() != replaced, "the invalidated token came back")
        return "a revoked token was replaced inside the request; invalidate() fetched another"

    def outage(self) -> str:
        """Kill the server while the token is valid, and bring it back."""
        self.server.reset()
        self.server.set(lifetime=3)
        with self._provider() as provider:
            first = provider.get_token()
            callers = Callers(provider)
            with callers.calling():
                self.server.kill()
                wait_until(lambda: provider.state().counts.failures > 0, "no refresh failed")
                served = provider.get_token()
                expect(served == first, "not the token that was valid")
                self.server.start()
                callers.check()
                wait_until(lambda: provider.get_token() != first, "no new token after the outage")
            callers.check()
            failures = provider.state().counts.failures
        return f"{failures} refreshes failed, {callers.calls:,} calls did not; refreshed when the server was back"

    def _provider(self) -> TokenProvider:
        server = self.server
        return TokenProvider(server.client_id, server.client_secret, mcp_url=server.mcp_url())


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for what happens in other threads; raise `NotObserved` after ten seconds."""
    pause = threading.Event()
    give_up = time.monotonic() + 10
    while not condition():
        expect(time.monotonic() < give_up, otherwise)
        pause.wait(0.01)


def run_demo(console: Console, *, as_json: bool) -> bool:
    """Run every step and print what was seen; whether all of it was."""
    rows: list[dict[str, Any]] = []
    # The SDK takes seconds to import, and the server to start: let them take the same ones.
    threading.Thread(target=import_module, args=("mcp.client.streamable_http",)).start()
    with console.status("starting the development server…") as status, AuthorizationServer() as server:
        demo = Demo(server)
        for step in (demo.first_token, demo.tool_call, demo.cache, demo.refresh, demo.invalidate, demo.outage):
            status.update(f"{step.__doc__}")
            begun = time.perf_counter()
            try:
                seen, what = True, step()
            except Exception as error:
                seen, what = False, f"{type(error).__name__}: {error}"
            took = round(time.perf_counter() - begun, 3)
            rows.append({"step": (step.__doc__ or "").rstrip("."), "seen": seen, "what": what, "seconds": took})
    if as_json:
        plain(json.dumps(rows, indent=2))
    else:
        console.print(_table(rows))
    return all(row["seen"] for row in rows)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="conduit-oauth demo", title_justify="left")
    for column in ("step", "seen", "what", "time"):
        table.add_column(column, overflow="fold")
    for row in rows:
        mark = Text("yes", style="green") if row["seen"] else Text("NO", style="red")
        table.add_row(row["step"], mark, row["what"], f"{row['seconds']:.1f} s")
    return table
