"""Frameworks that replace threads, locks and sockets after this library was imported, and servers that use them."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.ports import free_port
from tests.processes.conftest import Run
from tests.redis_server import RedisServer

PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    # trio, which the HTTP client imports where it is installed, cannot be imported after that.
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch(); "
    "sys.modules['trio'] = None",
}
SPAWN = {
    "gevent": "import gevent; each = [gevent.spawn(call) for _ in range(50)]; found = [g.get() for g in each]",
    "eventlet": "import eventlet; each = [eventlet.spawn(call) for _ in range(50)]; found = [g.wait() for g in each]",
}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("framework", PATCHES)
@pytest.mark.parametrize("store", ["None", "STORE"])
@pytest.mark.parametrize("is_made_before", [True, False], ids=["made before", "made after"])
def test_callers_of_a_framework_that_patches_after_the_import_share_a_token(
    authorization_server: AuthorizationServer, run: Run, framework: str, store: str, *, is_made_before: bool
) -> None:
    authorization_server.set(latency=0.2)
    patch, made = PATCHES[framework], f"provider = make(store={store}, store_timeout=1.0)"
    done = run(
        f"""
        {made if is_made_before else patch}
        {patch if is_made_before else made}
        took = []
        def call():
            begun = time.monotonic()
            token = provider.get_token()
            took.append(time.monotonic() - begun)
            return token
        {SPAWN[framework]}
        print(len(set(found)), max(took) < 5)
        provider.invalidate()
        {SPAWN[framework]}
        print(len(set(found)), max(took) < 5)
        """,
    )
    assert done.lines == ["1 True", "1 True"], done.complaints
    assert len(authorization_server.token_requests) == 2


@pytest.mark.parametrize("framework", PATCHES)
def test_what_is_invalidated_is_told_once_though_all_tasks_are_of_one_thread(
    authorization_server: AuthorizationServer, run: Run, framework: str
) -> None:
    done = run(
        f"""
        from conduit_oauth.stores.memory import MemoryStore
        class Slow(MemoryStore):
            told = 0
            def forget(self, *what):
                Slow.told += 1
                # A second one would come after the next lease, and make the token void that is asked for with it.
                time.sleep(0.3 * Slow.told)
                return super().forget(*what)
        provider = make(store=Slow(), store_timeout=2.0)
        {PATCHES[framework]}
        before = provider.get_token()
        time.sleep(0.1)
        provider.invalidate()
        print(provider.get_token() != before, Slow.told)
        """,
    )
    assert done.lines == ["True 1"], done.complaints
    assert len(authorization_server.token_requests) == 2


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """gunicorn with the application `web:application` of `folder`; where it listens."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "web:application", "--bind", f"127.0.0.1:{port}"]
    log = folder / "gunicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        give_up_at = time.monotonic() + 60
        while b"Booting worker" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(60)
        print(log.read_text())


APPLICATION = """
import faulthandler, logging, time
from conduit_oauth import TokenProvider
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
provider = TokenProvider("demo", "demo-secret", token_endpoint={endpoint!r}, store={store!r}, store_timeout=2.0)
{supervised}
def application(environ, start_response):
    begun = time.monotonic()
    # Before gunicorn takes it for dead: where it hangs.
    faulthandler.dump_traceback_later(20)
    try:
        token = provider.get_token()
        said = f"{{token}} {{time.monotonic() - begun:.3f}}"
        if environ["PATH_INFO"] == "/void":
            provider.invalidate()
    except Exception as error:
        said = f"{{type(error).__name__}} {{error}}"
    faulthandler.cancel_dump_traceback_later()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [said.encode()]
"""
SUPERVISED = """
from conduit_oauth import TokenProviders
settings = {{"client_id": "demo", "client_secret": "demo-secret", "token_endpoint": {endpoint!r}}}
settings |= {{"store": {store!r}, "store_timeout": 2.0}}
providers = TokenProviders({{"demo": settings}}).start()
provider = providers["demo"]
"""


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "each"])
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("kind", ["alone", "supervised"])
def test_every_worker_of_gunicorn_answers_with_the_token_of_all(
    authorization_server: AuthorizationServer,
    redis_server: RedisServer,
    tmp_path: Path,
    worker: str,
    kind: str,
    *,
    preload: bool,
) -> None:
    redis_server.client.flushall()
    authorization_server.set(latency=0.1)
    facts = {"endpoint": authorization_server.token_endpoint(), "store": redis_server.url}
    supervised = SUPERVISED.format(**facts) if kind == "supervised" else ""
    (tmp_path / "web.py").write_text(APPLICATION.format(**facts, supervised=supervised))
    options = ["--workers", "3", "--worker-class", worker, *(["--preload"] if preload else [])]
    # It is one for all who run as this user.
    options.append("--no-control-socket")
    with served(tmp_path, *options) as url:
        said = [urllib.request.urlopen(url, timeout=60).read().decode() for _ in range(12)]  # noqa: S310
        said.append(urllib.request.urlopen(url + "void", timeout=60).read().decode())  # noqa: S310
        after = urllib.request.urlopen(url, timeout=60).read().decode()  # noqa: S310
        # Counted before the end cuts a request short, which another process then makes.
        requests = len(authorization_server.token_requests)
    assert [each for each in [*said, after] if "Error" in each] == []
    tokens = {each.rpartition(" ")[0] for each in said}
    assert len(tokens) == 1, said
    assert all(float(each.rpartition(" ")[2]) < 2 for each in [*said, after]), [*said, after]
    # One, and one after the token was void.
    assert requests <= 2
