from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from conduit_oauth.agent.keeper import Agent
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND


class Bell:
    """A command for an output to run, and what it told: whose token, and of how many bytes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bell"
        os.mkfifo(self._path)
        # For both, so that neither side waits for the other.
        self._descriptor = os.open(self._path, os.O_RDWR)
        self._rest = b""

    @property
    def command(self) -> list[str]:
        return ["/bin/sh", "-c", f'echo "$CONDUIT_OAUTH_PROVIDER" $(wc -c) > {self._path}']

    def wait(self) -> tuple[str, int]:
        """The next change, told by the command."""
        while b"\n" not in self._rest:
            assert select.select([self._descriptor], [], [], 20)[0], "nothing changed"
            self._rest += os.read(self._descriptor, 4096)
        line, _, self._rest = self._rest.partition(b"\n")
        name, size = line.decode().split()
        return name, int(size)

    def wait_for(self, name: str) -> None:
        """A token of that provider."""
        while True:
            rung, size = self.wait()
            if rung == name and size:
                return

    def is_silent(self) -> bool:
        """Whether nothing more was told."""
        return not self._rest and not select.select([self._descriptor], [], [], 0)[0]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    bell = Bell(tmp_path)
    yield bell
    bell.close()


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, authorization_server: AuthorizationServer, bell: Bell) -> Write:
    """Writes the agent's file: defaults that lead to the development server, then what a test says."""
    (tmp_path / "secret").write_text(authorization_server.client_secret)

    def write(text: str) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(
            f"""
            [defaults]
            client_id = "{authorization_server.client_id}"
            client_secret = {{ file = "secret" }}
            token_endpoint = "{authorization_server.token_endpoint()}"
            store = "sqlite://{tmp_path}/tokens.sqlite3"
            store_timeout = 5
            {text.replace("BELL", str(bell.command).replace("'/bin/sh', '-c', ", '"/bin/sh", "-c", '))}
            """
        )
        return path

    return write


Keep = Callable[[str], Agent]


@pytest.fixture
def keep(write: Write) -> Iterator[Keep]:
    """Starts agents in this process."""
    agents: list[Agent] = []

    def keep(text: str) -> Agent:
        agents.append(Agent(write(text)))
        agents[-1].start()
        return agents[-1]

    yield keep
    for agent in agents:
        agent.close()


class Service:
    """`conduit-oauth agent`, as a child process that serves a Unix socket and a port."""

    def __init__(self, config: Path, environment: dict[str, str], *options: str) -> None:
        self._process = subprocess.Popen(
            [COMMAND, "agent", "--config", config, *options], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        self.said = ""
        self.wait_for("Listening on")
        where = self.said.rpartition("Listening on ")[2].strip().split(", ")
        self.url = next((each for each in where if each.startswith("http")), "")
        self.socket = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(config.with_name("agent.sock"))), base_url="http://agent"
        )

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_for(self, words: str) -> None:
        assert self._process.stderr is not None
        while words not in self.said:
            line = self._process.stderr.readline()
            if not line:
                self._process.communicate()
                raise AssertionError(self.said)
            self.said += line

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.socket.close()
        with self._process as process:
            process.send_signal(number)
            if process.stderr is not None and not process.stderr.closed:
                self.said += process.stderr.read()
            return process.wait(20)


Serve = Callable[..., Service]


@pytest.fixture
def serve(write: Write, client_environment: dict[str, str]) -> Iterator[Serve]:
    services: list[Service] = []

    def serve(text: str, *options: str, **environment: str) -> Service:
        services.append(Service(write(text), {**client_environment, **environment}, *options))
        return services[-1]

    yield serve
    for service in services:
        service.stop()
