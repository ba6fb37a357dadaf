"""A fleet on one machine: workers as child processes, stopped by their pids."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any, Self


class Worker:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _pipes(self) -> tuple[Any, Any]:
        return self._process.stdin, self._process.stdout

    def ready(self) -> None:
        assert self._pipes()[1].readline() == "ready\n"

    def order(self, text: str) -> None:
        """Tell the worker what to do, without waiting for its answer."""
        pipe, _ = self._pipes()
        pipe.write(text + "\n")
        pipe.flush()

    def answer(self) -> dict[str, Any]:
        return json.loads(self._pipes()[1].readline())

    def ask(self, text: str) -> dict[str, Any]:
        self.order(text)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def leave(self) -> None:
        """End as a program that is done."""
        self._pipes()[0].close()
        self._process.wait()

    def end(self) -> None:
        with self._process:
            self._process.kill()


class Fleet:
    """`size` workers with the same settings, up when it is entered."""

    def __init__(self, size: int, **settings: Any) -> None:
        self.workers = [Worker(settings) for _ in range(size)]

    def __enter__(self) -> Self:
        for worker in self.workers:
            worker.ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for worker in self.workers:
            worker.end()

    def get_together(self) -> list[dict[str, Any]]:
        """The answers of all to one `get`, asked of all before any is waited for."""
        for worker in self.workers:
            worker.order("get")
        return [worker.answer() for worker in self.workers]
