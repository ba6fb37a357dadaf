"""A process that runs out of threads, of descriptors, or has no home."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from conduit_oauth import TokenProviders, TransportError
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider, Said
from tests.processes.conftest import Run


def out_of_threads(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Until it is undone, no thread can be started."""

    monkeypatch.setattr("_thread.start_new_thread", out_of_threads)
    monkeypatch.setattr("threading.Thread.start", out_of_threads)
    return monkeypatch


def test_a_thread_that_needs_a_token_asks_for_it_itself(
    authorization_server: AuthorizationServer, no_threads: pytest.MonkeyPatch, make_provider: MakeProvider
) -> None:
    assert make_provider().get_token()
    assert len(authorization_server.token_requests) == 1


def test_so_does_a_worker(monkeypatch: pytest.MonkeyPatch, make_provider: MakeProvider) -> None:
    provider = make_provider(timeout=600.0)
    with ThreadPoolExecutor(1) as pool:
        # The worker was there before.
        pool.submit(int).result()
        monkeypatch.setattr("_thread.start_new_thread", out_of_threads)
        assert pool.submit(provider.get_token).result(60)


def test_a_task_is_told_that_there_is_no_thread_and_gets_its_token_later(
    no_threads: pytest.MonkeyPatch, make_provider: MakeProvider
) -> None:
    import asyncio

    provider = make_provider(store="sqlite:///nowhere/tokens.sqlite3")

    async def main() -> None:
        with pytest.raises(TransportError, match="no thread") as caught:
            await provider.get_token_async()
        assert caught.value.local
        with pytest.raises(TransportError, match="no thread"):
            await provider.introspect_async("token")
        no_threads.undo()
        assert await provider.get_token_async()

    asyncio.run(main())


def test_a_valid_token_is_served_while_there_is_no_thread_for_its_refresh(
    make_provider: MakeProvider, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    provider = make_provider(clock=clock)
    token = provider.get_token()
    clock.step(3545)
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", lambda *_: (_ for _ in ()).throw(RuntimeError("no more")))
        assert provider.get_token() == token
        assert provider.get_token() == token
    assert said.count("token_refresh_put_off") == 1
    clock.step(6)
    assert provider.get_token() == token
    while provider.state().refreshing:
        pass
    assert provider.get_token() != token


def test_a_provider_with_a_store_is_made_used_and_closed_without_a_thread(
    no_threads: pytest.MonkeyPatch, make_provider: MakeProvider, store_file: str
) -> None:
    import asyncio

    provider = make_provider(store=store_file)
    assert provider.get_token()
    asyncio.run(provider.aclose())
    assert provider.state().closed


def test_a_supervision_without_a_thread_is_a_typed_error_and_starts_later(
    authorization_server: AuthorizationServer, no_threads: pytest.MonkeyPatch
) -> None:
    from conduit_oauth.errors import OAuthError

    settings = {"client_id": "demo", "client_secret": "demo-secret"}
    providers = TokenProviders({"demo": {**settings, "token_endpoint": authorization_server.token_endpoint()}})
    with pytest.raises(OAuthError, match="thread"):
        providers.start()
    no_threads.undo()
    with providers:
        assert providers["demo"].get_token()


def test_an_asynchronous_supervision_without_a_thread_goes_on_when_there_is_one(
    authorization_server: AuthorizationServer, no_threads: pytest.MonkeyPatch
) -> None:
    import asyncio

    settings = {"client_id": "demo", "client_secret": "demo-secret"}
    providers = TokenProviders({"demo": {**settings, "token_endpoint": authorization_server.token_endpoint()}})

    async def main() -> None:
        async with providers:
            await asyncio.sleep(0)
            no_threads.undo()
            assert await providers["demo"].get_token_async()

    asyncio.run(main())


def test_a_process_without_descriptors_keeps_its_trouble_to_itself(run: Run) -> None:
    """Others, who share the store, ask the server as if nothing had happened."""
    done = run("""
        import resource
        other = make(store=STORE, timeout=10)
        if (pid := os.fork()) == 0:
            poor = make(store=STORE, timeout=0.3, name="poor")
            poor._requester.transport.prepare("http://127.0.0.1:1")
            while not poor._control.share.tier.up:
                poor._control.share.tier.call("", lambda store: None)
            soft = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
            spare = [os.dup(0) for _ in range(soft - len(os.listdir("/proc/self/fd")) + 1)]
            try:
                poor.get_token()
            except TransportError as error:
                # One that is killed now keeps its lease until that ends: the lease is given back on the store's thread.
                poor.close()
                os._exit(0 if error.local else 3)
            os._exit(4)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        begun = time.monotonic()
        print(bool(other.get_token()), time.monotonic() - begun < 1)
        """)
    assert done.lines == ["0", "True True"], done.complaints


def test_a_user_without_a_home_is_told_which_setting_to_make(run: Run) -> None:
    done = run(
        """
        import pwd
        pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
        os.environ.pop("HOME"), os.environ.pop("XDG_CACHE_HOME", None)
        try:
            make(store="sqlite:")
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    assert done.lines == [
        "ConfigurationError store: has no default place: HOME is not set, and this user has no home "
        "directory. "
        "Set HOME, or write sqlite:///path."
    ], done.complaints


HOMELESS = """
import pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
    os.environ.pop(name, None)
sys.argv = ["conduit-oauth", *{arguments!r}]
from conduit_oauth.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["token"], 0, ""),
        (["doctor"], 0, "It works"),
        (["profile", "list"], 2, "HOME is not set"),
        (["token", "--profile", "mine"], 2, "HOME is not set"),
        (["token", "--client-secret-file", "~/secret"], 2, "~/secret"),
        (["bridge", "--listen", "127.0.0.1:0"], 2, "HOME is not set"),
    ],
)
def test_commands_of_a_user_without_a_home_work_or_say_what_they_miss(
    run: Run, authorization_server: AuthorizationServer, arguments: list[str], code: int, words: str
) -> None:
    facts = {"CLIENT_ID": "demo", "CLIENT_SECRET": "demo-secret", "MCP_URL": authorization_server.mcp_url()}
    done = run(
        HOMELESS.format(arguments=arguments), **{f"CONDUIT_OAUTH_{name}": value for name, value in facts.items()}
    )
    assert done.code == code, done.complaints
    assert words in done.complaints + " ".join(done.lines)
    assert "Traceback" not in done.complaints
