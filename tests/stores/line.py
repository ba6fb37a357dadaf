"""The network between a process and its store: a relay that delays, drips, freezes and cuts as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.ports import free_port


class Line:
    """Relays a loopback port of its own to `target`. Its faults hold for connections that there are, and for new ones.

    `delay` is in seconds, each way. `drip` sends the answers byte by byte, so many seconds apart. While `frozen` is
    set, nothing passes and nothing is closed, as with a NAT that forgot the connection.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.delay = self.drip = 0.0
        self.frozen = False
        self.accepted = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._forgotten: set[int] = set()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Close every connection that there is."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def forget(self) -> None:
        """Pass on nothing more of the connections that there are; new ones work."""
        self._forgotten.update(id(pair[0]) for pair in self._pairs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            self._run(lambda near=near, far=far: self._relay(near, far, id(near), drips=False))
            self._run(lambda near=near, far=far: self._relay(far, near, id(near), drips=True))

    def _relay(self, source: socket.socket, sink: socket.socket, pair: int, *, drips: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if self.delay:
                    self._over.wait(self.delay)
                while self.frozen and not self._over.wait(0.005):
                    pass
                if pair in self._forgotten:
                    continue
                pieces = [bytes([byte]) for byte in data] if drips and self.drip else [data]
                for piece in pieces:
                    sink.sendall(piece)
                    if len(pieces) > 1:
                        self._over.wait(self.drip)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def until(found: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait for what another process or thread brings about, for which there is no event; the seconds it took."""
    begun = time.monotonic()
    while not found():
        assert time.monotonic() - begun < seconds
        time.sleep(0.005)
    return time.monotonic() - begun
