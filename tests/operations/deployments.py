"""Stores as operations run them: one Redis, with TLS, Sentinels, a Cluster, a file. All are real, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import redis

from tests.ports import free_port
from tests.redis_server import RedisServer, TlsRedisServer
from tests.stores.line import Line


class Deployment:
    """A store of a fleet. `url` is what its processes are given, `servers` are those that hold the data."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.servers: list[RedisServer] = []
        self.line: Line | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        """Bring it up."""
        raise NotImplementedError

    def restart_empty(self) -> None:
        """Lose all data, as after a crash without persistence."""
        for server in self.servers:
            server.kill()
            server.start()

    def freeze(self) -> None:
        """Let no server answer; connections stay."""
        for server in self.servers:
            server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all go on."""
        for server in self.servers:
            server.signal(signal.SIGCONT)

    def cut_subscriptions(self) -> None:
        """Close the connections on which processes hear each other."""
        for server in self.servers:
            with suppress(redis.RedisError):
                server.client.client_kill_filter(_type="pubsub")

    def run(self, server: RedisServer) -> RedisServer:
        """Start a server that ends with the deployment."""
        return self._stack.enter_context(server)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


class Redis(Deployment):
    """One server, reached over a line that can be slow, frozen or cut."""

    name = "Redis"

    def start(self) -> None:
        """Bring it up."""
        self.servers = [self.run(RedisServer(self.folder))]
        self.line = self._stack.enter_context(Line(self.servers[0].port))
        self.url = self.line.url

    def restart_empty_with_clock_behind(self, seconds: float) -> None:
        """As on another host, whose clock is behind."""
        (server,) = self.servers
        library = self.folder / "behind.so"
        source = Path(__file__).with_name("behind.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)  # noqa: S607
        server.kill()
        with mock.patch.dict(os.environ, LD_PRELOAD=str(library), CLOCK_BEHIND=f"{seconds:.0f}"):
            server.start()


class Tls(Deployment):
    """One server that speaks TLS."""

    name = "Redis, TLS"

    def start(self) -> None:
        """Bring it up."""
        server = TlsRedisServer(self.folder)
        self.servers = [self.run(server)]
        self.line = self._stack.enter_context(Line(server.tls_port))
        self.url = server.url_at(self.line.port)


class Sentinels(Deployment):
    """A master with two replicas, and three Sentinels that agree on who is the master."""

    name = "Sentinel, 3 + 3"

    def start(self) -> None:
        """Bring it up."""
        master = self.run(RedisServer(self.folder))
        replicas = [self.run(RedisServer(self.folder, "--replicaof", "127.0.0.1", str(master.port))) for _ in range(2)]
        self.servers = [master, *replicas]
        for server in replicas:
            _until(lambda server=server: server.client.info("replication")["master_link_status"] == "up")
        sentinels: list[RedisServer] = []
        for number in range(3):
            config = self.folder / f"sentinel-{number}.conf"
            config.write_text(
                f"sentinel monitor fleet 127.0.0.1 {master.port} 2\nsentinel down-after-milliseconds fleet 1000\n"
                "sentinel failover-timeout fleet 3000\n"
            )
            server = RedisServer(self.folder, "--sentinel")
            server.command = ["redis-server", str(config)]
            sentinels.append(self.run(server))
        for sentinel in sentinels:
            _until(lambda sentinel=sentinel: _knows_all(sentinel))
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://{places}/fleet/0"

    def restart_empty(self) -> None:
        """Replicas would bring back what the master lost: they lose it, too."""
        self.servers[0].client.flushall()


class Cluster(Deployment):
    """Three masters, each with a replica."""

    name = "Cluster, 3 + 3"

    def start(self) -> None:
        """Bring it up."""
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        for number in range(6):
            own = ["--cluster-config-file", f"nodes-{number}.conf", "--cluster-port", str(free_port())]
            self.servers.append(self.run(RedisServer(self.folder, *options, *own)))
        # Not by `redis-cli --cluster create`, which takes the port of the bus to be the server's and 10000.
        for server in self.servers[1:]:
            bus = server.client.config_get("cluster-port")["cluster-port"]
            self.servers[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        each = 16_384 // 3 + 1
        for number, server in enumerate(self.servers[:3]):
            last = min(16_383, (number + 1) * each - 1)
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * each, last)
        for server in self.servers:
            _until(lambda server=server: "cluster_known_nodes:6" in _about(server))
        for master, replica in zip(self.servers[:3], self.servers[3:], strict=True):
            identity = str(master.client.execute_command("CLUSTER", "MYID"), "ascii")
            _until(lambda replica=replica, identity=identity: _replicates(replica, identity))
        for server in self.servers:
            _until(lambda server=server: "cluster_state:ok" in _about(server))
        # One that never had its master's data does not take over.
        for replica in self.servers[3:]:
            _until(lambda replica=replica: replica.client.info("replication")["master_link_status"] == "up")
        # The first one is down, as in a list that nobody kept.
        places = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *(server.port for server in self.servers)))
        self.url = f"redis+cluster://{places}"

    def restart_empty(self) -> None:
        """Every master loses what it has."""
        for server in self.servers[:3]:
            server.client.flushall()


class Sqlite(Deployment):
    """A file of the user's own."""

    name = "SQLite"

    def start(self) -> None:
        """It is made by whoever comes first."""
        self.url = f"sqlite:///{self.folder}/tokens.sqlite3"

    def restart_empty(self) -> None:
        """Somebody deletes the file."""
        for file in self.folder.glob("tokens.sqlite3*"):
            file.unlink(missing_ok=True)


def _until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for what servers agree on among themselves, for which there is no event."""
    give_up_at = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if holds():
                return
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def _knows_all(sentinel: RedisServer) -> bool:
    state: Any = sentinel.client.sentinel_master("fleet")
    return state["num-slaves"] == 2 and state["num-other-sentinels"] == 2


def _about(server: RedisServer) -> str:
    return str(server.client.execute_command("CLUSTER", "INFO"), "ascii")


def _replicates(replica: RedisServer, master: str) -> bool:
    return bool(replica.client.execute_command("CLUSTER", "REPLICATE", master))


ALL: tuple[type[Deployment], ...] = (Redis, Tls, Sentinels, Cluster, Sqlite)
