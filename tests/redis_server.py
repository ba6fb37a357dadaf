"""A real Redis on a free loopback port, as a child process that is stopped by its pid."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.certificates import issue
from tests.ports import free_port


class RedisServer:
    """`options` are those of redis-server. Nothing is kept on disk, so a restart comes up empty."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self._directory = directory
        self._options = options
        self.command = ["redis-server", "--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))

    def start(self) -> Self:
        command = [*self.command, "--port", str(self.port), "--bind", "127.0.0.1"]
        log = self._directory / f"redis-{self.port}.log"
        self._process = subprocess.Popen(
            [*command, "--dir", str(self._directory), "--logfile", str(log), *self._options],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                # A server that does not come up ends this: there is no event to wait on across its start.
                assert time.monotonic() < deadline, log.read_text()
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


class TlsRedisServer(RedisServer):
    """It speaks TLS at a port of its own, with a certificate of an authority that is made for it."""

    def __init__(self, directory: Path) -> None:
        authority = issue(directory, "ca", ca=True)
        issue(directory, "redis", authority)
        self.tls_port = free_port()
        files = {"cert-file": "redis.pem", "key-file": "redis-key.pem", "ca-cert-file": "ca.pem"}
        options = [word for name, file in files.items() for word in (f"--tls-{name}", str(directory / file))]
        super().__init__(directory, "--tls-port", str(self.tls_port), "--tls-auth-clients", "no", *options)

    def url_at(self, port: int) -> str:
        """The store that is reached at `port`: the server's own for TLS, or one that leads there."""
        return f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={self._directory}/ca.pem"
