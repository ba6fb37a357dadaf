"""An agent and a bridge under load, for minutes, while things happen to them as they do in production."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import Gateway
from tests.operations.fleet import ROOT

COMMAND = Path(sys.executable).with_name("conduit-oauth")
# Seconds.
LIFETIME = 60.0
BETWEEN_FAULTS = 10.0
# For all outputs, after SIGHUP. Without it, the agent looks at each of them once a minute.
WRITTEN_AGAIN = 8.0
# What a call says whose gateway died: before its answer began, or in its midst.
_CUT = ("lost on the way", "SSE stream ended without a response")
# MiB by which a process may grow between the first half and the second: caches of Python and of libraries.
GROWTH = 8.0


@dataclass
class Soaked:
    """What readers of the files and callers of the tool saw, and how large the processes were, in MiB."""

    providers: int
    clients: int
    seconds: float
    reads: int = 0
    # Tokens that were read after their end; files that were not there for longer than they may be.
    expired: int = 0
    missing: int = 0
    calls: int = 0
    longest: float = 0.0
    # Calls that were under way when the gateway died, and those that failed for another reason.
    cut: int = 0
    restarts: int = 0
    errors: list[str] = field(default_factory=list[str])
    said: list[str] = field(default_factory=list[str])
    sizes: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        found = [f"{count} {what}" for count, what in ((self.expired, "expired"), (self.missing, "missing")) if count]
        found += [f"a call failed: {error}" for error in self.errors[:3]]
        found += [f"the agent said: {line}" for line in self.said[:3]]
        if self.cut > self.restarts * self.clients:
            found.append(f"{self.cut} calls cut by {self.restarts} restarts")
        if self.longest > 30:
            found.append(f"a call took {self.longest:.1f} s")
        for name, sizes in self.sizes.items():
            first, second = self.halves(sizes)
            if second > first + GROWTH:
                found.append(f"the {name} grew from {first:.0f} to {second:.0f} MiB")
        return found

    @staticmethod
    def halves(sizes: list[float]) -> tuple[float, float]:
        """The most in each half, less the beginning."""
        settled = sizes[len(sizes) // 5 :]
        half = len(settled) // 2
        return max(settled[:half]), max(settled[half:])


def resident(pid: int) -> float:
    """MiB that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def end_of(token: str) -> float:
    """When a token ends; raises for half a token."""
    _, claims, _ = token.split(".")
    return json.loads(base64.urlsafe_b64decode(claims + "=="))["ends"]


class Agent:
    """`conduit-oauth agent` with many providers, a cache of its own, and a file for each token."""

    def __init__(self, folder: Path, server: AuthorizationServer, providers: int) -> None:
        self._folder = folder
        self._log = folder / "log"
        (folder / "secret").write_text(server.client_secret)
        tables = "".join(f'[providers.p{number}]\nscope = "mcp:read"\n' for number in range(providers))
        self._config = (
            f'[defaults]\nclient_id = "{server.client_id}"\nclient_secret = {{ file = "secret" }}\n'
            f'token_endpoint = "{server.token_endpoint()}"\nstore = "sqlite://{folder}/cache.sqlite3"\n{tables}'
            '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\nmode = "0640"\n'
        )
        self._write(self._config)
        command = [COMMAND, "agent", "--config", folder / "agent.toml"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log)
        self.pid = self._process.pid
        self.files = [folder / "tokens" / f"p{number}" for number in range(providers)]
        while not all(file.exists() for file in self.files):
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)
        # Until then a file may be missing: somebody deleted it.
        self.complete_at = 0.0

    def _write(self, config: str) -> None:
        # As an editor does that writes in place.
        with (self._folder / "agent.toml").open("w") as file:
            for line in config.splitlines(keepends=True):
                file.write(line)

    def reload(self) -> None:
        """Write the configuration anew, with another mode, and tell the agent."""
        before, after = ("0640", "0600") if '"0640"' in self._config else ("0600", "0640")
        self._config = self._config.replace(before, after)
        self._write(self._config)
        self._process.send_signal(signal.SIGHUP)

    def lose_files(self) -> None:
        """Delete some of the files, and tell the agent."""
        self.complete_at = time.monotonic() + WRITTEN_AGAIN
        for file in self.files[::50]:
            file.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> list[str]:
        """End it; what it said of trouble that nobody made."""
        self._process.terminate()
        self._process.wait(60)
        return [line for line in self._log.read_text().splitlines() if "store_" in line or "Traceback" in line]


class Callers:
    """MCP clients behind a bridge, and the gateway, which dies now and then."""

    def __init__(
        self, server: AuthorizationServer, clients: int, environment: dict[str, str], stack: ExitStack
    ) -> None:
        self._gateway = Gateway(server.issuer()).start()
        stack.callback(self._gateway.kill)
        found = "--mcp-url", self._gateway.url, "--token-endpoint", server.token_endpoint()
        command = [COMMAND, "bridge", "--listen", "127.0.0.1:0", "--no-local-token", *found]
        self._bridge = stack.enter_context(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(self._bridge.terminate)
        assert self._bridge.stderr is not None
        url = self._bridge.stderr.readline().strip().removeprefix("Listening on ")
        self.pid = self._bridge.pid
        self._callers = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.operations.callers", url, str(clients)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert self._callers.stdout is not None
        # Nothing happens to clients that do not call yet.
        assert self._callers.stdout.readline() == "begun\n"
        self.restarts = 0

    def restart(self) -> None:
        """The gateway dies, and is back after a second."""
        self.restarts += 1
        self._gateway.kill()
        time.sleep(1.0)
        self._gateway.start()

    def stop(self) -> dict[str, Any]:
        """What the clients saw."""
        out, _ = self._callers.communicate("", 60)
        return json.loads(out)


def measure(providers: int = 2000, clients: int = 50, seconds: float = 600.0) -> Soaked:
    """Run both for so long."""
    soaked = Soaked(providers, clients, seconds)
    with ExitStack() as stack:
        server = stack.enter_context(AuthorizationServer(lifetime=LIFETIME))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CONDUIT_OAUTH_CLIENT_ID": server.client_id,
            "CONDUIT_OAUTH_CLIENT_SECRET": server.client_secret,
            "CONDUIT_OAUTH_RESOURCE": server.mcp_url(),
            "CONDUIT_OAUTH_STORE": "memory:",
        }
        agent = Agent(folder, server, providers)
        callers = Callers(server, clients, environment, stack)
        sizes = soaked.sizes = {"agent": list[float](), "bridge": list[float]()}
        happenings: list[Callable[[], object]] = [
            callers.restart,
            server.revoke,
            lambda: server.fail(503, count=20),
            agent.reload,
            agent.lose_files,
            lambda: server.drop(count=5),
        ]
        began = time.monotonic()
        for number, happen in enumerate(cycle(happenings)):
            if time.monotonic() - began > seconds:
                break
            happen()
            while time.monotonic() < began + (number + 1) * min(BETWEEN_FAULTS, seconds / len(happenings)):
                _read(agent, soaked)
                sizes["agent"].append(resident(agent.pid))
                sizes["bridge"].append(resident(callers.pid))
        heard = callers.stop()
        soaked.calls, soaked.longest, soaked.restarts = heard["calls"], heard["longest"], callers.restarts
        for error, count in heard["errors"].items():
            if any(words in error for words in _CUT):
                soaked.cut += count
            else:
                soaked.errors += [error] * count
        soaked.said = agent.stop()
    return soaked


def _read(agent: Agent, soaked: Soaked) -> None:
    for file in agent.files:
        try:
            token = file.read_text()
        except FileNotFoundError:
            soaked.missing += time.monotonic() > agent.complete_at
            continue
        soaked.reads += 1
        soaked.expired += end_of(token) < time.time()
    time.sleep(0.05)
