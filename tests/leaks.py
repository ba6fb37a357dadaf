"""What a test leaves behind: threads, processes and files. Each is a fault of the product or of the test."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A thread that was told to end needs a moment to do so, and trio keeps an idle one for ten seconds.
_PATIENCE = 15.0
# Threads and processes that live longer than the test that first needed them.
_lasting_threads: set[int] = set()
_lasting_processes: set[int] = set()


@contextmanager
def lasting() -> Iterator[None]:
    """What is started here stays until the fixture that does so ends it."""
    threads, processes = set(sys._current_frames()), _children()
    yield
    _lasting_threads.update(set(sys._current_frames()) - threads)
    _lasting_processes.update(_children() - processes)


class Traces:
    """What there is now of this process, and in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = set(sys._current_frames())
        self._processes = _children()
        self._files = self._listed()

    def left(self) -> list[str]:
        """What there is more by now."""
        if self._found():
            # A provider that a test only dropped ends with its collection.
            gc.collect()
        give_up_at = time.monotonic() + _PATIENCE
        while (found := self._found()) and time.monotonic() < give_up_at:
            # Neither a thread of `_thread` nor a process of somebody's child can be waited for.
            time.sleep(0.01)
        return found

    def _found(self) -> list[str]:
        named = {thread.ident: thread.name for thread in threading.enumerate()}
        found = [
            f"thread {named.get(ident, 'without a name')}: {''.join(traceback.format_stack(frame)[-2:])}"
            for ident, frame in sys._current_frames().items()
            if ident not in self._threads | _lasting_threads
        ]
        found += [f"process {pid}: {_command(pid)}" for pid in _children() - self._processes - _lasting_processes]
        return found + [f"file {path}" for path in sorted(self._listed() - self._files)]

    def _listed(self) -> set[Path]:
        return set(self._folder.iterdir())


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in _read(task / "children").split()}


def _command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it is gone
        return ""
