"""The commands of outputs: told of each token by their standard input, and of its end by an empty one.

Invariant: Each output runs one command at a time, and the last command gets the latest token. No output waits for the
command of another. A failed command runs again. The agent leaves no process behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from ..clock import elapsed

logger = logging.getLogger("conduit_oauth.agent")

# Seconds that a command may take; and that all of them have to end, when the agent does.
LIMIT = 60.0
LAST_WORDS = 2.0
# Seconds until a command that failed is tried again: at first, and at most.
RETRY = 5.0
RETRY_CAP = 300.0
_AT_ONCE = 128

Trouble = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One command for one provider, and what it is told. The token is in no argument and no variable."""

    provider: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    token: str
    # Whether the output is gone, and nobody will be told of it again.
    is_last: bool = False


class Hooks:
    """Runs commands by the name of their output. `on_start` is told how many seconds each one came late."""

    def __init__(self, on_start: Callable[[float], object] | None = None) -> None:
        self._on_start = on_start
        self._lock = threading.Condition()
        # What each output's command is to be told, since when, and what it was told with success.
        self._wanted: dict[str, tuple[Call, float]] = {}
        self._told: dict[str, Call] = {}
        self._troubles: dict[str, tuple[str, Trouble]] = {}
        self._pauses: dict[str, float] = {}
        # When each command that failed is due again, and the thread that sees to that.
        self._retries: dict[str, float] = {}
        self._retrier: threading.Thread | None = None
        # Whose command runs or is about to, and its process.
        self._busy: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_over = False
        self._threads = ThreadPoolExecutor(_AT_ONCE, "conduit-oauth-command")

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What is wrong with the commands of each provider, and since when."""
        with self._lock:
            return dict(self._troubles.values())

    def tell(self, output: str, call: Call) -> None:
        """Have the command of `output` know; nothing where it does already."""
        with self._lock:
            wanted = self._wanted.get(output)
            if self._is_over or (wanted is not None and wanted[0] == call):
                return
            self._wanted[output] = call, elapsed()
            self._begin(output)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for `seconds` until every command was told once, with success or without; whether that is so."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._busy, seconds)

    def close(self) -> None:
        """End what runs, and begin nothing more; what was cut is logged."""
        with self._lock:
            self._is_over = True
            self._lock.notify_all()
            for output in self._busy:
                logger.warning("command_cut output=%s: %s", output, self._wanted[output][0].command[0])
            for process in self._processes.values():
                _end(process, signal.SIGTERM)
            self._lock.wait_for(lambda: not self._processes, LAST_WORDS)
            for process in self._processes.values():
                _end(process, signal.SIGKILL)
            retrier = self._retrier
        if retrier is not None:
            retrier.join()
        # A command that is about to start finds that the agent ends.
        self._threads.shutdown(cancel_futures=True)

    def _begin(self, output: str) -> None:
        self._retries.pop(output, None)
        if output not in self._busy and not self._is_over:
            self._busy.add(output)
            # Where no thread is to be had, it is queued, and begins with the next one that gets a thread.
            with contextlib.suppress(RuntimeError):
                self._threads.submit(self._work, output)

    def _begin_later(self, output: str, pause: float) -> None:
        self._retries[output] = elapsed() + pause
        self._lock.notify_all()
        if self._retrier is None:
            # One thread, however many commands fail. Where there is none to be had, the next one that fails tries it.
            retrier = threading.Thread(target=self._retry, name="conduit-oauth-retries", daemon=True)
            with contextlib.suppress(RuntimeError):
                retrier.start()
                self._retrier = retrier

    def _retry(self) -> None:
        """Begin again what is due, for as long as anything is to be begun again."""
        with self._lock:
            while self._retries and not self._is_over:
                now = elapsed()
                for output in [output for output, due in self._retries.items() if due <= now]:
                    self._begin(output)
                if self._retries:
                    self._lock.wait(min(self._retries.values()) - now)
            self._retrier = None

    def _work(self, output: str) -> None:
        """Run the command until it was told of the latest, or failed at that."""
        while True:
            with self._lock:
                wanted = self._wanted.get(output)
                if wanted is None or self._is_over or self._told.get(output) == wanted[0]:
                    self._busy.discard(output)
                    self._lock.notify_all()
                    return
            call, since = wanted
            if self._on_start is not None:
                self._on_start(elapsed() - since)
            problem = self._run(output, call)
            with self._lock:
                if self._is_over:
                    continue
                is_latest = self._wanted.get(output) == wanted
                if problem is not None:
                    logger.warning("command_failed name=%s: %s %s", call.provider, call.command[0], problem)
                if call.is_last and is_latest:
                    for table in (self._wanted, self._told, self._troubles, self._pauses):
                        table.pop(output, None)
                    continue
                if problem is None:
                    self._told[output] = call
                    self._troubles.pop(output, None)
                    self._pauses.pop(output, None)
                    continue
                self._troubles[output] = call.provider, (datetime.now(UTC), f"{call.command[0]} {problem}")
                if not is_latest:
                    continue
                pause = self._pauses.get(output, RETRY)
                self._pauses[output] = min(RETRY_CAP, 2 * pause)
                self._busy.discard(output)
                self._begin_later(output, pause)
                return

    def _run(self, output: str, call: Call) -> str | None:
        """What went wrong with the command."""
        try:
            process = subprocess.Popen(  # noqa: S603 - what was configured
                call.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=call.environment,
                # A group of its own: what it started ends with it.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # the name of a provider with a NUL
            return getattr(error, "strerror", None) or str(error)
        with process:
            with self._lock:
                self._processes[output] = process
                is_over = self._is_over
            try:
                if is_over:
                    _end(process, signal.SIGKILL)
                process.communicate(call.token.encode(), LIMIT)
            except subprocess.TimeoutExpired:
                _end(process, signal.SIGKILL)
                return f"took more than {LIMIT:g} s"
            finally:
                with self._lock:
                    del self._processes[output]
                    self._lock.notify_all()
        return f"ended with status {process.returncode}" if process.returncode else None


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Its group is named by its pid, which is not used anew before it is waited for.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
