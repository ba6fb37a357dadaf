"""One exchange with a server: its deadline, its phases, and how a name is reached.

Invariant: no step of an exchange begins after its deadline. A name with several addresses is reached by the first that
answers (RFC 8305).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import itertools
import math
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

# RFC 8305 §8: how long an address has before the next one is tried beside it.
_HEAD_START = 0.25
# A name may have any number of addresses, and each takes a thread for a while.
_MOST_ADDRESSES = 10


# What each phase of an exchange waits for, in words for a person.
WAITS = {
    "name": "its name is not resolved yet",
    "connection": "there is no connection yet",
    "proxy": "the proxy has not opened a way yet",
    "TLS": "the TLS handshake has not ended yet",
    "request": "the request is not taken yet",
    "answer": "there is no answer yet",
}


class Closable(Protocol):
    """A connection, of whichever kind."""

    def close(self) -> None:
        """Let go of it."""
        ...


C = TypeVar("C", bound=Closable)


class Answer(NamedTuple):
    """An answer whose body is still on its way; header names in lower case."""

    status: int
    headers: dict[str, str]
    chunks: Iterable[bytes]


class Journey:
    """One exchange: the moment, by the monotonic clock, at which it ends, and how long each of its phases took.

    `tunnel`: how many TLS handshakes end before a proxy passes on what is sent (`Proxy.handshakes`).
    """

    __slots__ = ("_connection", "_entered", "_set_out", "_took", "_tunnel", "deadline", "phase", "seconds")

    def __init__(self, seconds: float, tunnel: int = 0) -> None:
        self.seconds = seconds
        self._set_out = self._entered = time.monotonic()
        self.deadline = self._set_out + seconds
        self.phase = "preparation"
        self._took: dict[str, float] = {}
        self._tunnel = tunnel
        # What is read from or written to now.
        self._connection: socket.socket | None = None

    def cut(self) -> None:
        """End it now, from any thread: a step that waits for the peer returns, and none begins any more."""
        self.deadline = -math.inf
        if (connection := self._connection) is not None:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)

    def left(self) -> float:
        """Seconds for the step that begins now. Raises `TimeoutError` where there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time of the exchange has ended")
        return left

    def enter(self, phase: str, connection: socket.socket | None = None) -> None:
        """The exchange goes on with `phase`, on `connection` where there is one yet."""
        self._connection = connection
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
        self._took[self.phase] = self._took.get(self.phase, 0.0) + now - self._entered
        self._entered = now

    def __str__(self) -> str:
        self._end_phase()
        return ", ".join(f"{phase} {seconds:.2g} s" for phase, seconds in self._took.items() if seconds >= 0.01)


# No descriptors, memory, ports or route left; a firewall of this machine's.
_LOCAL = {
    getattr(errno, name)
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EADDRNOTAVAIL"),
        *("ENETDOWN", "ENETUNREACH", "EHOSTUNREACH", "EPERM", "EACCES"),
    )
    if hasattr(errno, name)
}


def is_local(error: BaseException | None) -> bool:
    """Whether `error` comes of a fault of this machine, and says nothing of the server."""
    while error is not None:
        if isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in _LOCAL):
            return True
        error = error.__cause__ or error.__context__
    return False


def reach(
    host: str, port: int, seconds: float | None, attempt: Callable[[str, float | None], C], journey: Journey | None
) -> C:
    """A connection to `host` by `attempt`, which gets one of its addresses and what is left of `seconds`.

    Raises `TimeoutError` or another `OSError`.
    """

    def left() -> float | None:
        return seconds if seconds is None or journey is None else min(seconds, journey.left())

    if journey is not None:
        journey.enter("name")
    addresses = _addresses(host, port, left())
    if journey is not None:
        journey.enter("connection")
    limit = left()
    if len(addresses) == 1:
        return attempt(addresses[0], limit)
    return _Race(lambda address: attempt(address, limit)).run(addresses, limit)


def _addresses(host: str, port: int, seconds: float | None) -> list[str]:
    """The addresses of `host` in the order of the system, the families by turns (RFC 8305 §4)."""
    found = look_up(host, port, seconds)
    if isinstance(found, UnicodeError):
        raise OSError(str(found)) from found
    if isinstance(found, Exception):
        raise found
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


class _Race(Generic[C]):
    """Attempts side by side, of which the first that succeeds counts; each one ends by itself, in its own time."""

    def __init__(self, attempt: Callable[[str], C]) -> None:
        self._attempt = attempt
        self._outcomes: queue.SimpleQueue[tuple[str, C | Exception]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    def run(self, addresses: list[str], seconds: float | None) -> C:
        """The first connection. Raises `OSError`, or `TimeoutError` where no address answers."""
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
                        raise TimeoutError("no address answers") from None
                    continue
                running -= 1
                if not isinstance(outcome, Exception):
                    return outcome
                failures[address] = outcome
        finally:
            self._end()
        if all(isinstance(each, TimeoutError) for each in failures.values()):
            raise TimeoutError("no address answers")
        summary = "; ".join(f"{address}: {each}" for address, each in failures.items())
        cause = next(iter(failures.values())) if all(map(is_local, failures.values())) else None
        raise OSError(summary) from cause

    def _try(self, address: str) -> None:
        outcome: C | Exception
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


def _close(outcome: Closable | Exception) -> None:
    if not isinstance(outcome, Exception):
        outcome.close()


def spare(connection: socket.socket | None, kept: contextlib.ExitStack) -> socket.socket | None:
    """Another descriptor of `connection`, for a cut: a handshake takes the socket away from its object."""
    try:
        return None if connection is None else kept.enter_context(connection.dup())
    except (OSError, NotImplementedError):  # no descriptor left; TLS already
        return None
