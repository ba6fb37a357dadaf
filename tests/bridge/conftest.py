from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

ROOT = Path(__file__).parents[2]


class Gateway:
    """The example server as a child process, which can be restarted where it was."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self.url = ""
        self.said: list[str] = []
        self._heard = threading.Condition()

    def start(self) -> Self:
        port = [self.url.split(":")[2].split("/")[0]] if self.url else []
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "tests.bridge.example_server", self._issuer, *port],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._heard:
                self.said.append(line.strip())
                self._heard.notify_all()

    def wait_for(self, line: str) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: line in self.said, 20), self.said

    def kill(self) -> None:
        with self._process as process:
            process.kill()
            process.wait()
            self._reader.join()


@pytest.fixture
def gateway(authorization_server: AuthorizationServer) -> Iterator[Gateway]:
    gateway = Gateway(authorization_server.issuer()).start()
    yield gateway
    gateway.kill()


@pytest.fixture
def bridge_environment(client_environment: dict[str, str], authorization_server: AuthorizationServer) -> dict[str, str]:
    return {
        **client_environment,
        # The authorization server knows of its own gateways only.
        "CONDUIT_OAUTH_RESOURCE": authorization_server.mcp_url(),
        "CONDUIT_OAUTH_STORE": "memory:",
    }


@pytest.fixture
def fastmcp_url(authorization_server: AuthorizationServer) -> Iterator[str]:
    script = Path(__file__).parent.parent / "interop" / "fastmcp_server.py"
    command = [sys.executable, script, authorization_server.issuer()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


class Bridge:
    """`conduit-oauth bridge --listen`, as a child process."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [COMMAND, "bridge", *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        self.first_line = self._process.stderr.readline().strip()
        self.pid = self._process.pid
        self.url = self.first_line.removeprefix("Listening on ")

    def stop(self, number: int) -> tuple[int, str]:
        """End it by a signal, unless it has ended; its exit status, and what else it said."""
        with self._process as process:
            process.send_signal(number)
            said = "" if process.stderr is None or process.stderr.closed else process.stderr.read()
            return process.wait(20), said


StartBridge = Callable[..., Bridge]


@pytest.fixture
def start_bridge(bridge_environment: dict[str, str]) -> Iterator[StartBridge]:
    bridges: list[Bridge] = []

    def start(*arguments: str, listen: str = "127.0.0.1:0") -> Bridge:
        open_to_all = [] if "--local-token-file" in arguments else ["--no-local-token"]
        bridges.append(Bridge(bridge_environment, "--listen", listen, *open_to_all, *arguments))
        return bridges[-1]

    yield start
    for bridge in bridges:
        bridge.stop(signal.SIGTERM)


@pytest.fixture
def start(start_bridge: StartBridge, authorization_server: AuthorizationServer) -> StartBridge:
    """Starts a bridge to a resource that publishes no metadata."""

    def start(url: str, *arguments: str, listen: str = "127.0.0.1:0") -> Bridge:
        found = "--token-endpoint", authorization_server.token_endpoint()
        return start_bridge("--mcp-url", url, *found, *arguments, listen=listen)

    return start
