"""Work on a thread of its own, awaited under asyncio and trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import trio
import trio.testing

from conduit_oauth.runtime.landing import Flag, Landing, NoThreadError, in_thread

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
RUNS = pytest.mark.parametrize("run", [lambda main: asyncio.run(main()), trio.run], ids=["asyncio", "trio"])


@RUNS
def test_the_result_of_work_that_takes_its_time_is_awaited(run: Run) -> None:
    begun = threading.Event()

    def work() -> int:
        assert begun.wait(20)
        return 42

    async def main() -> list[int]:
        found: list[int] = []

        async def first() -> None:
            found.append(await in_thread(work))

        async def second() -> None:
            # The loop goes on meanwhile.
            found.append(1)
            begun.set()

        if run is trio.run:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                nursery.start_soon(second)
        else:
            await asyncio.gather(first(), second())
        return found

    assert run(main) == [1, 42]


@RUNS
def test_the_error_of_work_is_raised(run: Run) -> None:
    def work() -> None:
        raise ValueError("for the caller")

    async def main() -> None:
        with pytest.raises(ValueError, match="for the caller"):
            await in_thread(work)

    run(main)


def test_without_a_thread_the_work_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(NoThreadError, match="can't start new thread"):
        asyncio.run(in_thread(lambda: pytest.fail("it began")))


def test_a_loop_that_was_closed_keeps_no_other_from_waking() -> None:
    landing = Landing()
    closed = asyncio.new_event_loop()
    closed.run_until_complete(landing.wait_async(0.0))
    closed.close()

    async def main() -> None:
        waiting = asyncio.create_task(landing.wait_async(20.0))
        await asyncio.sleep(0)
        landing.set()
        await asyncio.wait_for(waiting, 10.0)

    asyncio.run(main())


def test_who_comes_late_does_not_wait() -> None:
    waited: list[float] = []

    class Baton:
        def acquire(self, timeout: float) -> bool:
            waited.append(timeout)
            return False

    flag = Flag()
    flag._baton = cast("Any", Baton())
    assert flag.wait(-5.0) is False
    assert waited == [0.0]


def test_a_task_of_trio_that_comes_late_does_not_wait() -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> float:
        await Landing().wait_async(-5.0)
        return trio.current_time() - begun

    begun = clock.current_time()
    assert trio.run(main, clock=clock) == pytest.approx(0.0, abs=0.01)
