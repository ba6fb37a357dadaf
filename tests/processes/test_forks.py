"""A child has locks, threads and sockets of its own, whatever its parent's were at when it forked."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.sentinel import Sentinel

from conduit_oauth.stores.redis import RedisStore
from conduit_oauth.testing import AuthorizationServer
from tests.ports import free_port
from tests.processes.conftest import Run
from tests.redis_server import RedisServer
from tests.stores.line import until


def test_threads_fork_at_once_while_a_file_is_a_store(run: Run) -> None:
    done = run("""
        provider = make(store=STORE)
        provider.get_token()
        begin = threading.Barrier(4)

        def fork() -> None:
            begin.wait()
            for _ in range(10):
                if (pid := os.fork()) == 0:
                    os._exit(not provider.get_token())
                assert os.waitpid(pid, 0)[1] == 0

        threads = [threading.Thread(target=fork) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        provider.invalidate()
        print(bool(provider.get_token()))
        """)
    assert done.lines == ["True"], done.complaints


def test_a_subprocess_with_a_preexec_fn_starts_from_several_threads(run: Run) -> None:
    done = run("""
        import subprocess
        from concurrent.futures import ThreadPoolExecutor
        provider = make(store=STORE)
        provider.get_token()
        with ThreadPoolExecutor(4) as pool:
            codes = pool.map(lambda _: subprocess.call(["true"], preexec_fn=os.getpid), range(20))
        print(set(codes))
        """)
    assert done.lines == ["{0}"], done.complaints


@pytest.mark.parametrize("store", ["None", "STORE"])
def test_a_child_that_is_forked_in_the_midst_of_the_first_flight_gets_a_token(
    authorization_server: AuthorizationServer, run: Run, store: str
) -> None:
    """At each point of the flight: of what it imports, or locks, nothing is in the child's way."""
    authorization_server.set(latency=0.05)
    done = run(
        f"""
        import random
        children = []
        for delay in (0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.04, 0.06):
            provider = make(store={store}, name=str(delay))
            threading.Thread(target=provider.get_token).start()
            time.sleep(delay)
            if (pid := os.fork()) == 0:
                signal.alarm(20)
                os._exit(not provider.get_token())
            children.append(pid)
        print({{os.waitpid(pid, 0)[1] for pid in children}})
        """,
    )
    assert done.lines == ["{0}"], done.complaints


def test_a_child_that_was_idle_does_not_serve_what_was_invalidated_meanwhile(
    authorization_server: AuthorizationServer, run: Run
) -> None:
    done = run("""
        provider = make(store=STORE)
        before = provider.get_token()
        idle, wake = os.pipe()
        if (other := os.fork()) == 0:
            os.close(wake)
            os.read(idle, 1)
            os._exit(provider.get_token() == before)
        if (first := os.fork()) == 0:
            kept = provider.get_token() == before
            provider.invalidate(before)
            kept = kept and provider.get_token() != before
            # What comes here ends without the handlers that would tell the store of the new one.
            provider.close()
            os._exit(not kept)
        print(os.waitpid(first, 0)[1])
        os.close(wake)
        print(os.waitpid(other, 0)[1])
        """)
    assert done.lines == ["0", "0"], done.complaints
    assert len(authorization_server.token_requests) == 2


def test_a_child_keeps_the_token_though_the_store_is_out_of_reach(
    authorization_server: AuthorizationServer, run: Run
) -> None:
    done = run("""
        provider = make(store=STORE, timeout=1)
        before = provider.get_token()
        os.remove(STORE.removeprefix("sqlite:///"))
        os.mkdir(STORE.removeprefix("sqlite:///"))
        if (child := os.fork()) == 0:
            os._exit(provider.get_token() != before)
        print(os.waitpid(child, 0)[1])
        """)
    assert done.lines == ["0"], done.complaints
    assert len(authorization_server.token_requests) == 1


@pytest.mark.parametrize("cluster", [False, True])
def test_a_child_waits_for_no_lock_that_the_parent_held_in_redis_py(cluster: bool, run: Run, tmp_path: Path) -> None:
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())] if cluster else []
    with RedisServer(tmp_path, *options) as server:
        if cluster:
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            until(lambda: b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO"))
        done = run(
            """
            import redis
            from redis.cluster import RedisCluster
            from conduit_oauth.stores.redis import RedisStore

            inside, go_on = threading.Event(), threading.Event()

            class Held(redis.Connection):
                def __init__(self, **given):  # a pool holds its lock as it calls this
                    if armed:
                        inside.set()
                        go_on.wait()
                    super().__init__(**given)

            armed = False
            if CLUSTER:
                client = RedisCluster.from_url(URL, connection_class=Held)
            else:
                client = redis.Redis.from_pool(redis.ConnectionPool.from_url(URL, connection_class=Held))
            provider = make(store=RedisStore(client))
            armed = True
            threading.Thread(target=provider.get_token).start()
            inside.wait()
            if (child := os.fork()) == 0:
                armed = False
                signal.alarm(20)
                provider.get_token()
                provider.close()
                client.close()
                os._exit(0)
            print(os.waitpid(child, 0)[1])
            go_on.set()
            """.replace("URL", repr(server.url)).replace("CLUSTER", repr(cluster))
        )
    assert done.lines == ["0"], done.complaints


def test_a_child_waits_for_no_lock_of_the_pools_that_ask_sentinels() -> None:
    sentinel = Sentinel([("127.0.0.1", 1)])
    store = RedisStore(sentinel.master_for("service"))
    store._connected()
    asking = sentinel.sentinels[0].connection_pool
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with asking._lock:
            held.set()
            over.wait(20)

    with ThreadPoolExecutor(2) as threads:
        threads.submit(hold)
        held.wait(20)
        store.after_fork_in_child()
        try:
            threads.submit(asking.reset).result(10)
        finally:
            over.set()


def test_a_store_that_breaks_down_at_a_fork_leaves_the_other_providers_alone(run: Run) -> None:
    done = run("""
        from conduit_oauth.stores.memory import MemoryStore

        class Broken(MemoryStore):
            def after_fork_in_child(self):
                raise LookupError("a fault of mine")

        broken = make(store=Broken())
        other = make()
        before = [broken.get_token(), other.get_token()]
        if (child := os.fork()) == 0:
            other.invalidate(before[1])
            os._exit(broken.get_token() != before[0] or other.get_token() == before[1])
        print(os.waitpid(child, 0)[1])
        """)
    assert done.lines == ["0"], done.complaints
    assert "process_hook_failed" in done.complaints
    assert "a fault of mine" in done.complaints


def test_a_fork_waits_for_a_thread_that_python_has_done_with_and_that_has_used_openssl(run: Run) -> None:
    done = run("""
        import time
        from conduit_oauth.lifecycle import boarding
        before, after, leaving, gone = threading.local(), threading.local(), threading.Event(), []

        class Last:
            ended = 0

            def __del__(self):
                Last.ended += 1
                # Python gives up what a thread holds in one order or the other: ours is between the two.
                if Last.ended == 2:
                    leaving.set()
                    time.sleep(0.2)
                    gone.append(True)

        def observe(event):
            if event.name == "token_received":
                after.last = Last()

        def first_hold_something(work):
            before.last = Last()
            work()

        spawn = boarding.spawn
        boarding.spawn = lambda work: spawn(lambda: first_hold_something(work))
        make(observer=observe).get_token()
        leaving.wait()
        if (pid := os.fork()) == 0:
            os._exit(not gone)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """)
    assert done.lines == ["0"], done.complaints


def test_no_fork_finds_a_module_that_a_flight_is_importing(authorization_server: AuthorizationServer, run: Run) -> None:
    done = run("""
        from conduit_oauth.runtime import process
        begun, main = [], threading.get_ident()

        class Watch:
            def find_spec(self, name, path=None, target=None):
                thread = threading.get_ident()
                if thread != main and thread not in [each for each, _ in process._inside]:
                    begun.append(name)

        def proven(**settings):
            provider = make(**settings)
            sys.meta_path.insert(0, watch := Watch())
            try:
                provider.get_token()
            except Exception as error:
                print(type(error).__name__, error)
            sys.meta_path.remove(watch)

        from joserfc.jwk import ECKey
        key = ECKey.generate_key("P-256").as_pem(private=True).decode()
        proven(timeout=5)
        proven(store=STORE)
        proven(dpop=True, timeout=1)
        proven(mcp_url=SERVER + "/servers/demo/mcp", token_endpoint=None)
        proven(token_endpoint="https://localhost:1/token", timeout=0.3)
        proven(token_endpoint="http://localhost:1/token", timeout=0.3)
        proven(token_endpoint_auth_method="client_secret_jwt", timeout=0.3)
        print(begun)
        """)
    assert done.lines[-1] == "[]", (done.lines, done.complaints)
