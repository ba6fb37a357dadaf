"""The clock that token lives are measured with: seconds since some fixed moment, never stepped, counting sleep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

Clock = Callable[[], float]


def _best_clock() -> Clock:
    if sys.platform == "linux":
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    # On macOS CLOCK_MONOTONIC counts sleep, and time.monotonic (mach_absolute_time) does not.
    if sys.platform == "darwin":
        return partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


elapsed: Clock = _best_clock()
