"""A fleet of processes, and the judgement of what its callers saw."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.operations.member import digest

ROOT = Path(__file__).parents[2]
# Seconds between two calls of a thread of the fleet.
PAUSE = 0.02


@dataclass
class Seen:
    """What all callers saw together."""

    calls: int = 0
    longest: float = 0.0
    # Tokens that were handed out past their end, or after they were void for longer than that may take.
    expired: int = 0
    void: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    said: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Seen) -> None:
        """Count in what another fleet saw."""
        self.calls += other.calls
        self.longest = max(self.longest, other.longest)
        self.expired += other.expired
        self.void += other.void
        self.errors.update(other.errors)
        self.said.update(other.said)

    @property
    def words(self) -> str:
        """What the library said, for a table."""
        counts = {name: n for name, n in self.said.items() if name.startswith("store_") and ":" not in name}
        return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "-"


class Fleet:
    """`size` processes, each with providers of `settings`; `sources` are those of another release."""

    def __init__(
        self,
        settings: list[dict[str, Any]],
        *,
        size: int = 16,
        threads: int = 2,
        pause: float = PAUSE,
        sources: Path | None = None,
    ) -> None:
        self._members: list[subprocess.Popen[str]] = []
        # When each token was invalidated, and how long it may be seen after that; a fault moves the moment.
        self.voided: dict[str, float] = {}
        facts = json.dumps({"providers": settings, "threads": threads, "pause": pause})
        command = [sys.executable, "-m", "tests.operations.member", facts]
        environment = {**os.environ, **({"PYTHONPATH": str(sources)} if sources else {})}
        for _ in range(size):
            self._members.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
                )
            )
        for member in self._members:
            assert member.stdout is not None
            assert member.stdout.readline() == "ready\n"

    def begin(self) -> None:
        """Let all threads of all processes call."""
        self._all("go")

    def invalidate(self, number: int = 0, *, forgiven: float = 0.0) -> None:
        """Have a process invalidate its token; `forgiven` seconds more than usual pass until all others must know."""
        self._send(number, "invalidate")
        told = self._answer(number)
        self.voided.setdefault(told["void"], told["at"] + forgiven)

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send a signal to a process."""
        self._members[number].send_signal(which)

    def kill(self, number: int) -> None:
        """Kill a process, which tells nothing any more."""
        member = self._members.pop(number)
        with member:
            member.kill()

    def wait_for_calls(self, count: int, seconds: float = 60.0) -> None:
        """Return when each process made so many."""
        give_up_at = time.monotonic() + seconds
        while not all(each["calls"] >= count for each in self._all("count")):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)

    def warm_up(self) -> None:
        """Return when each process has a token, or an error; waits count from now on."""
        self.wait_for_calls(1)
        self._all("look")

    def seen(self, within: float = 2.0) -> Seen:
        """What was seen so far; void tokens count that were handed out later than `within` seconds after."""
        found = Seen()
        for report in self._all("report"):
            found.calls += report["calls"]
            found.longest = max(found.longest, report["longest"])
            found.errors.update(report["errors"])
            found.said.update(report["said"])
            for token, last in report["served"].items():
                # `exp` is in whole seconds.
                found.expired += last > _end(token) + 1.0
                found.void += last - self.voided.get(digest(token), last) > within
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for member in self._members:
            with member:
                member.kill()

    def _all(self, order: str) -> list[dict[str, Any]]:
        for number in range(len(self._members)):
            self._send(number, order)
        return [self._answer(number) for number in range(len(self._members))]

    def _send(self, number: int, order: str) -> None:
        stream = self._members[number].stdin
        assert stream is not None
        stream.write(order + "\n")
        stream.flush()

    def _answer(self, number: int) -> dict[str, Any]:
        stream = self._members[number].stdout
        assert stream is not None
        return json.loads(stream.readline())


def _end(token: str) -> float:
    payload = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["ends"])
