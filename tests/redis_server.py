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
