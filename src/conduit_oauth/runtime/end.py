"""The place of this package among the exit handlers of a program.

It is that of the first import: the handlers of the program register later, run earlier, and find everything at work.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

_acts: list[Callable[[], None]] = []


def at_end(act: Callable[[], None]) -> None:
    """Have `act` called when the process ends."""
    _acts.append(act)


def _run() -> None:
    for act in _acts:
        act()


atexit.register(_run)
