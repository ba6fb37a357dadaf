"""Work on a thread of its own, awaited under asyncio and trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from conduit_oauth.runtime.landing import in_thread

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
