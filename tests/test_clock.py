import time

from conduit_oauth.clock import elapsed


def test_elapsed_time_counts_sleep_and_is_never_stepped() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = elapsed()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)
