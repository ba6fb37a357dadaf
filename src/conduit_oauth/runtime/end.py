"""The place of this package among the exit handlers of a program.

It is that of the first import: the handlers of the program register later, run earlier, and find everything at work.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

_act: Callable[[], None] | None = None


def at_end(act: Callable[[], None]) -> None:
    """Have `act` called when the process ends; there is one."""
    global _act
    _act = act


def _run() -> None:
    if _act is not None:
        _act()


atexit.register(_run)
