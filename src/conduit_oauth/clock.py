"""The clock that token lives are measured with, and the chance that keeps processes from acting at the same moment.

The clock gives seconds since some fixed moment, never steps, and counts sleep.
"""

from __future__ import annotations

import os
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
# Seconds by which the date of what we sign lies back. A server whose clock is a moment behind refuses what seems to
# come from the future, and on Linux time(2) alone lags by some milliseconds.
DATED_BACK = 1
# A draw in [0, 1). Not from the generator that a program may seed, so that all its processes would pause alike.
# Nor `random.SystemRandom`: its import takes longer than that of `TokenProvider`.
jitter: Callable[[], float] = lambda: (int.from_bytes(os.urandom(7)) >> 3) / (1 << 53)  # noqa: E731
