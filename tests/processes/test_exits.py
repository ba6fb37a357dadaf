"""The end of a process, and of a provider, in the midst of things: nothing is lost, nothing hangs, nothing is said."""

from __future__ import annotations

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider
from tests.processes.conftest import Run


def test_a_lease_is_given_back_at_the_end(
    authorization_server: AuthorizationServer, run: Run, make_provider: MakeProvider, store_file: str
) -> None:
    authorization_server.hold()
    ended = run("""
        provider = make(store=STORE)
        threading.Thread(target=provider.get_token, daemon=True).start()
        import urllib.request
        urllib.request.urlopen(SERVER + "/admin?token_requests=1").read()
        """)
    assert ended.complaints == ""
    authorization_server.release()
    next_one = make_provider(store=store_file, timeout=2.0)
    assert next_one.get_token()


def test_an_invalidation_right_before_the_end_is_heard_by_all(
    run: Run, make_provider: MakeProvider, store_file: str
) -> None:
    held = make_provider(store=store_file).get_token()
    for _ in range(10):
        ended = run("""
            provider = make(store=STORE, store_timeout=5.0)
            token = provider.get_token()
            provider.invalidate()
            print(token)
            """)
        assert ended.lines == [held], ended.complaints
        assert ended.complaints == ""
        held, before = make_provider(store=store_file, store_timeout=5.0, name="another").get_token(), held
        assert held != before


def test_workers_that_go_on_when_the_main_thread_has_returned_get_tokens(run: Run) -> None:
    done = run("""
        provider, late = make(timeout=600.0), make(name="late", timeout=600.0)

        def work():
            threading.main_thread().join()
            print(bool(provider.get_token()))
            import asyncio
            print(bool(asyncio.run(late.get_token_async())))

        threading.Thread(target=work).start()
        """)
    assert done.lines == ["True", "True"], done.complaints


@pytest.mark.parametrize("store", ["STORE", "None"])
@pytest.mark.parametrize("first", [True, False], ids=["before the library's", "after it"])
def test_a_handler_of_the_end_gets_a_token(run: Run, store: str, first: bool) -> None:
    handler = "atexit.register(lambda: print(bool(provider.get_token())))"
    # The latest handler is the first one to be called.
    done = run(
        f"""
        provider = make(store={store}, timeout=600.0)
        {handler if first else ""}
        """,
        before=f"import atexit; {'' if first else handler}",
    )
    assert (done.lines, done.complaints) == (["True"], "")


@pytest.mark.parametrize("late", ["", "atexit.register(lambda: print(bool(make().get_token())))"])
def test_the_end_waits_for_flights_that_make_tls_contexts(run: Run, late: str) -> None:
    """OpenSSL tidies up at the end: a thread that is still in it takes the process down."""
    for _ in range(5):
        done = run(
            f"""
            {late}
            for number in range(30):
                provider = make(name=str(number))
                threading.Thread(target=provider.get_token, daemon=True).start()
            """,
            before="import atexit",
        )
        assert done.code == 0, done.complaints
        assert "Error" not in done.complaints


def test_the_end_does_not_wait_for_a_server_that_does_not_answer(
    run: Run, authorization_server: AuthorizationServer
) -> None:
    authorization_server.hold()
    done = run(
        """
        provider = make()
        threading.Thread(target=provider.get_token, daemon=True).start()
        import urllib.request
        urllib.request.urlopen(SERVER + "/admin?token_requests=1").read()
        print("end")
        """,
        seconds=5,
    )
    authorization_server.release()
    assert (done.lines, done.complaints) == (["end"], "")


@pytest.mark.parametrize("store", ["None", "STORE"])
def test_closing_in_the_midst_of_a_flight_is_quick_and_silent(
    run: Run, authorization_server: AuthorizationServer, store: str
) -> None:
    authorization_server.hold()
    done = run(f"""
        import urllib.request
        provider = make(store={store})
        failed = []

        def call():
            try:
                provider.get_token()
            except ProviderClosedError:
                failed.append(1)

        thread = threading.Thread(target=call)
        thread.start()
        urllib.request.urlopen(SERVER + "/admin?token_requests=1").read()
        flight = provider._control.flight
        begun = time.monotonic()
        provider.close()
        thread.join()
        flight.done.wait(10)
        print(failed, time.monotonic() - begun < 2)
        """)
    authorization_server.release()
    assert (done.lines, done.complaints) == (["[1] True"], "")
