"""Many callers, one flight: in tasks, threads, several event loops, and across a fork."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from conduit_oauth import TokenProvider, TokenRequestError
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider

LATENCY = 0.2


async def gather(provider: TokenProvider, count: int) -> list[str]:
    return await asyncio.gather(*(provider.get_token_async() for _ in range(count)))


def in_threads(calls: list[Callable[[], list[str]]]) -> set[str]:
    """Run the calls in a thread each, begun at once; the tokens they got."""
    begin = threading.Barrier(len(calls))

    def run(call: Callable[[], list[str]]) -> list[str]:
        begin.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return {token for tokens in pool.map(run, calls) for token in tokens}


def test_ten_thousand_tasks_cause_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(latency=LATENCY)
    tokens = asyncio.run(gather(make_provider(), 10_000))
    assert len(tokens) == 10_000
    assert len(set(tokens)) == len(authorization_server.token_requests) == 1


def test_two_hundred_threads_cause_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(latency=LATENCY)
    provider = make_provider()
    assert len(in_threads([lambda: [provider.get_token()]] * 200)) == 1
    assert len(authorization_server.token_requests) == 1


def test_event_loops_and_threads_together_cause_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(latency=LATENCY)
    provider = make_provider()
    loops: list[Callable[[], list[str]]] = [lambda: asyncio.run(gather(provider, 500))] * 4
    assert len(in_threads([*loops, *[lambda: [provider.get_token()]] * 50])) == 1
    assert len(authorization_server.token_requests) == 1


def test_asyncio_trio_and_threads_together_cause_one_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(latency=LATENCY)
    provider = make_provider()

    async def trio_tasks() -> list[str]:
        tokens: list[str] = []

        async def call() -> None:
            tokens.append(await provider.get_token_async())

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(call)
        return tokens

    tokens = in_threads(
        [lambda: trio.run(trio_tasks), lambda: asyncio.run(gather(provider, 500)), lambda: [provider.get_token()]]
    )
    assert len(tokens) == len(authorization_server.token_requests) == 1


@pytest.mark.parametrize("lifetime", [1, 5, 30, 59, 61, 92, 120])
def test_a_short_lived_token_is_fetched_once_for_a_thousand_calls(
    lifetime: int, authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    authorization_server.set(lifetime=lifetime)
    provider = make_provider(clock=clock)
    tokens = set(asyncio.run(gather(provider, 1000)))
    clock.step(lifetime * 0.49)
    tokens.update(provider.get_token() for _ in range(1000))
    assert len(tokens) == len(authorization_server.token_requests) == 1


def test_nobody_waits_while_a_token_in_its_window_is_refreshed(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, clock: FakeClock
) -> None:
    provider = make_provider(clock=clock)
    old = provider.get_token()
    clock.step(3545)
    # The server answers nothing until every one of these calls is through: a caller that waited would wait for ever.
    authorization_server.hold()
    assert in_threads([lambda: [provider.get_token() for _ in range(100)]] * 100) == {old}
    assert set(asyncio.run(gather(provider, 10_000))) == {old}
    authorization_server.wait_for_token_requests(2)
    flight = provider._control.flight
    assert flight is not None
    authorization_server.release()
    flight.landing.wait(10)
    assert provider.get_token() != old
    assert len(authorization_server.token_requests) == 2


def test_a_cancelled_caller_takes_nobody_down(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.hold()
    provider = make_provider()

    async def main() -> None:
        tasks = [asyncio.create_task(provider.get_token_async()) for _ in range(10)]
        await asyncio.to_thread(authorization_server.wait_for_token_requests, 1)
        for task in tasks[:9]:
            task.cancel()
        await asyncio.to_thread(authorization_server.release)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[:9])
        assert isinstance(results[9], str)

    asyncio.run(main())
    assert len(authorization_server.token_requests) == 1


def test_a_caller_whose_loop_died_leaves_the_flight_to_the_others(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.hold()
    provider = make_provider()

    async def give_up() -> None:
        task = asyncio.create_task(provider.get_token_async())
        await asyncio.to_thread(authorization_server.wait_for_token_requests, 1)
        task.cancel()

    asyncio.run(give_up())
    authorization_server.release()
    assert provider.get_token()
    assert len(authorization_server.token_requests) == 1


def test_each_waiter_gets_the_failure_as_its_own_exception(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.set(latency=LATENCY)
    authorization_server.fail(400, body='{"error": "invalid_scope"}')
    provider = make_provider()

    async def main() -> list[BaseException | str]:
        return await asyncio.gather(*(provider.get_token_async() for _ in range(100)), return_exceptions=True)

    errors = asyncio.run(main())
    assert all(isinstance(error, TokenRequestError) and error.error == "invalid_scope" for error in errors)
    assert len({id(error) for error in errors}) == 100
    assert len(authorization_server.token_requests) == 1


def in_child(work: Callable[[], object]) -> object:
    """What `work` returns in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Before a call's 30 s are over: where each thread hangs.
        faulthandler.dump_traceback_later(25)
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException:
            # Nobody else in this process would tell.
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def test_a_forked_child_keeps_the_token_and_fetches_its_own_next(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider()
    token = provider.get_token()

    def work() -> list[str]:
        kept = provider.get_token()
        provider.invalidate()
        return [kept, provider.get_token()]

    kept, own = in_child(work)  # type: ignore[misc]
    assert kept == token
    assert own != token
    assert provider.get_token() == token


def test_a_child_forked_in_mid_flight_waits_for_no_flight_and_no_lock_of_its_parent(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    authorization_server.hold()
    provider = make_provider()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(provider.get_token)
        authorization_server.wait_for_token_requests(1)
        with provider._control.lock:
            assert in_child(lambda: provider.state().refreshing) is False
        authorization_server.release()
        assert waiting.result(30)


def test_an_injected_client_is_not_shared_with_a_child(make_provider: MakeProvider) -> None:
    import httpx2

    with httpx2.Client() as client:
        provider = make_provider(http_client=client)
        provider.get_token()

        def work() -> str:
            provider.invalidate()
            try:
                return provider.get_token()
            except Exception as error:
                return str(error)

        assert "after the fork" in str(in_child(work))
