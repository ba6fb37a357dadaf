"""A signal handler runs in the midst of whatever the main thread is at, and may use the same provider."""

from __future__ import annotations

import pytest

from tests.processes.conftest import Run

HANDLERS = ["provider.state()", "provider.invalidate()", "provider.close()"]


@pytest.mark.parametrize("store", ["None", "STORE"])
@pytest.mark.parametrize("handled", HANDLERS)
@pytest.mark.parametrize("busy", ["provider.state()", "provider.invalidate()", "provider.get_token()"])
def test_a_handler_may_call_what_it_interrupts(run: Run, store: str, handled: str, busy: str) -> None:
    """Called at every line that the main thread runs in the library: a lock that is taken there is found taken."""
    done = run(
        f"""
        signal.alarm(40)
        provider = make(store={store}, store_timeout=1.0)
        provider.get_token()
        places = set()

        def handle(number, frame):
            try:
                {handled}
            except ProviderClosedError:
                pass

        signal.signal(signal.SIGUSR1, handle)

        def trace(frame, event, argument):
            if "conduit_oauth" not in frame.f_code.co_filename:
                return None
            if event == "line" and (place := (frame.f_code, frame.f_lineno)) not in places:
                places.add(place)
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
                sys.settrace(trace)
            return trace

        for _ in range(3):
            sys.settrace(trace)
            try:
                {busy}
            except ProviderClosedError:
                pass
            finally:
                sys.settrace(None)
        print(len(places) > 3)
        try:
            print(bool(provider.get_token()))
        except ProviderClosedError:
            print(True)
        """,
    )
    assert done.lines == ["True", "True"], (done.code, done.complaints)


def test_a_handler_closes_what_the_main_thread_waits_for(run: Run, authorization_server: object) -> None:
    authorization_server.hold()  # type: ignore[attr-defined]
    done = run("""
        provider = make()
        signal.signal(signal.SIGALRM, lambda *_: provider.close())
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        begun = time.monotonic()
        try:
            provider.get_token()
        except ProviderClosedError:
            print("closed", time.monotonic() - begun < 5)
        """)
    authorization_server.release()  # type: ignore[attr-defined]
    assert done.lines == ["closed True"], done.complaints
