"""Connections of which no step outlasts one deadline: the HTTP client alone counts its timeout anew at every read.

Invariant: whatever a peer drips or floods, a read, a write or a handshake that has an `Until` ends at its deadline.
A name with several addresses is reached by the first that answers (RFC 8305).
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

# RFC 8305 §8: how long an address has before the next one is tried beside it.
_HEAD_START = 0.25
# A name may have any number of addresses, and each takes a thread for a while.
_MOST_ADDRESSES = 10
Outcome = httpcore2.NetworkStream | Exception


class Journey:
    """One exchange: the moment, by the monotonic clock, at which it ends, and how long each of its phases took.

    `tunnel`: how many TLS handshakes end before a proxy passes on what is sent (`Proxy.handshakes`).
    """

    __slots__ = ("_entered", "_set_out", "_took", "_tunnel", "deadline", "phase")

    def __init__(self, seconds: float, tunnel: int = 0) -> None:
        self._set_out = self._entered = time.monotonic()
        self.deadline = self._set_out + seconds
        # Empty before the first.
        self.phase = ""
        self._took: dict[str, float] = {}
        self._tunnel = tunnel

    def limits(self, connect: float) -> dict[str, float]:
        """The HTTP client's timeouts, each handed on to a step of this exchange; `connect` is for a connection."""
        seconds = self.deadline - self._set_out
        step, first = Until(seconds), Until(min(connect, seconds))
        step.journey = first.journey = self
        return {"connect": first, "read": step, "write": step, "pool": seconds}

    def enter(self, phase: str) -> None:
        """The exchange goes on with `phase`."""
        if self._tunnel and phase in ("request", "answer"):
            phase = "proxy"
        elif phase == "TLS":
            self._tunnel -= self._tunnel > 0
        if phase != self.phase:
            self._end_phase()
            self.phase = phase

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._set_out

    def _end_phase(self) -> None:
        now = time.monotonic()
        if self.phase:
            self._took[self.phase] = self._took.get(self.phase, 0.0) + now - self._entered
        self._entered = now

    def __str__(self) -> str:
        self._end_phase()
        return ", ".join(f"{phase} {seconds:.2g} s" for phase, seconds in self._took.items() if seconds >= 0.01)


class Until(float):
    """Seconds for one step, and the exchange that it belongs to.

    A float, because the HTTP client hands it on to the socket as the timeout of a step.
    """

    __slots__ = ("journey",)
    journey: Journey


def bounded(client: httpx2.Client) -> httpx2.Client:
    """`client`, with its connections, those through proxies too, made here; a backend of its user's own stays."""
    # httpcore2 takes a backend, and httpx2 has no parameter to hand one on by.
    for transport in (client._transport, *client._mounts.values()):  # pyright: ignore[reportPrivateUsage]
        if isinstance(transport, httpx2.HTTPTransport):
            pool = transport._pool  # pyright: ignore[reportPrivateUsage]
            if type(pool._network_backend) is httpcore2.SyncBackend:  # pyright: ignore[reportPrivateUsage]
                pool._network_backend = _Backend()  # pyright: ignore[reportPrivateUsage]
    return client


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        _enter(timeout, "name")
        addresses = _addresses(host, port, _left(timeout, httpcore2.ConnectTimeout))
        _enter(timeout, "connection")
        left = _left(timeout, httpcore2.ConnectTimeout)
        if left is not None and timeout is not None:
            left = min(left, timeout)
        connect = super().connect_tcp

        def attempt(address: str) -> httpcore2.NetworkStream:
            return connect(address, port, left, local_address, socket_options)

        return _Stream(attempt(addresses[0]) if len(addresses) == 1 else _Race(attempt).run(addresses, left))


def _addresses(host: str, port: int, seconds: float | None) -> list[str]:
    """The addresses of `host` in the order of the system, the families by turns (RFC 8305 §4)."""
    found = look_up(host, port, seconds)
    if isinstance(found, TimeoutError):
        raise httpcore2.ConnectTimeout(str(found)) from None
    if isinstance(found, Exception):
        raise httpcore2.ConnectError(str(found)) from None
    by_family: dict[int, list[str]] = {}
    for family, *_, address in found:
        scoped = f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0])
        by_family.setdefault(family, []).append(scoped)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_family.values()))
    return list(dict.fromkeys(filter(None, turns)))[:_MOST_ADDRESSES]


def look_up(host: str, port: int, seconds: float | None) -> list[Any] | Exception:
    """What `socket.getaddrinfo` says of `host`, on a thread that is left behind where that takes too long."""
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    if seconds is None or _is_address(host):
        ask()
    else:
        _aside(ask)
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return TimeoutError(f"no answer within {seconds:.1f} s")


def _aside(work: Callable[[], None]) -> None:
    """Do it on a thread of its own; here, where there is none to be had: too many, or the interpreter ends."""
    try:
        threading.Thread(target=work, name="conduit-oauth-network", daemon=True).start()
    except RuntimeError:
        work()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Race:
    """Attempts side by side, of which the first that succeeds counts; each one ends by itself, in its own time."""

    def __init__(self, attempt: Callable[[str], httpcore2.NetworkStream]) -> None:
        self._attempt = attempt
        self._outcomes: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, addresses: list[str], seconds: float | None) -> httpcore2.NetworkStream:
        """The first connection. Raises `httpcore2.ConnectError`, or `ConnectTimeout` where no address answers."""
        give_up_at = None if seconds is None else time.monotonic() + seconds
        waiting, running = list(addresses), 0
        failures: dict[str, Exception] = {}
        try:
            while waiting or running:
                if waiting:
                    _aside(functools.partial(self._try, waiting.pop(0)))
                    running += 1
                left = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                pause = left if not waiting else _HEAD_START if left is None else min(_HEAD_START, left)
                try:
                    address, outcome = self._outcomes.get(timeout=pause)
                except queue.Empty:
                    if left == pause:
                        raise httpcore2.ConnectTimeout("no address answers") from None
                    continue
                running -= 1
                if not isinstance(outcome, Exception):
                    return outcome
                failures[address] = outcome
        finally:
            self._end()
        if all(isinstance(each, httpcore2.ConnectTimeout) for each in failures.values()):
            raise httpcore2.ConnectTimeout("no address answers")
        raise httpcore2.ConnectError("; ".join(f"{address}: {each}" for address, each in failures.items()))

    def _try(self, address: str) -> None:
        outcome: Outcome
        try:
            outcome = self._attempt(address)
        except Exception as error:  # it is raised to the caller, where no other address does better
            outcome = error
        with self._lock:
            if not self._over:
                self._outcomes.put((address, outcome))
                return
        _close(outcome)

    def _end(self) -> None:
        """Close what is connected too late."""
        with self._lock:
            self._over = True
        while not self._outcomes.empty():
            _close(self._outcomes.get()[1])


def _close(outcome: Outcome) -> None:
    if not isinstance(outcome, Exception):
        outcome.close()


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        _enter(timeout, "answer")
        return self._stream.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _enter(timeout, "request")
        self._stream.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        _enter(timeout, "TLS")
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout, httpcore2.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _enter(timeout: float | None, phase: str) -> None:
    if isinstance(timeout, Until):
        timeout.journey.enter(phase)


def _left(timeout: float | None, error: type[httpcore2.TimeoutException]) -> float | None:
    """The timeout of the step that begins now. Raises `error` where the exchange is over."""
    if not isinstance(timeout, Until):
        return timeout
    left = timeout.journey.deadline - time.monotonic()
    if left <= 0:
        raise error("the exchange is over")
    return left
