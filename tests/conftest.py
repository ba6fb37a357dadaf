from __future__ import annotations

import gc
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from conduit_oauth import TokenProvider
from conduit_oauth.sharing.tier import LOCAL
from conduit_oauth.testing import AuthorizationServer
from tests.leaks import Traces
from tests.resource_server import ResourceServer

COMMAND = Path(sys.executable).with_name("conduit-oauth")

pytest_plugins = ["pytester"]

# No test is timed: by default an example may take 0.2 s, which says nothing where the machine is busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# What tools keep for the next run.
CACHES = {".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__"}
_FILES = pytest.StashKey[set[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it starts in the background ignore it, and what the tests start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    session.config.stash[_FILES] = {path.name for path in session.config.rootpath.iterdir()}


def pytest_sessionfinish(session: pytest.Session) -> None:
    # By the run as a whole: of what one worker finds there, it cannot tell whose it is.
    if hasattr(session.config, "workerinput"):
        return
    found = {path.name for path in session.config.rootpath.iterdir()}
    if left := sorted(found - session.config.stash[_FILES] - CACHES):
        print(f"\nThe tests left behind: {', '.join(left)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += seconds


class Said(logging.Handler):
    """What the package logs, for a test to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.lines.append(record.getMessage())
            self._changed.notify_all()

    def count(self, words: str) -> int:
        return sum(line.startswith(words) for line in self.lines)

    def about(self, port: int) -> list[str]:
        """What was said of one server: those of earlier tests may be missed in this one."""
        return [line for line in self.lines if f":{port}" in line]

    def wait_for(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(words) > 0, 20), self.lines


@pytest.fixture
def said() -> Iterator[Said]:
    handler, logger = Said(), logging.getLogger("conduit_oauth")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


MakeProvider = Callable[..., TokenProvider]


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this run makes its temporary files, and no other run does."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        # Nor does it read the profiles of whoever runs it, or leave anything in that user's cache.
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield folder


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(temporary_folder: Path) -> Iterator[None]:
    traces = Traces(temporary_folder)
    yield
    # What serves for long takes its modules out of the garbage collection.
    gc.unfreeze()
    left = traces.left()
    assert not left, "\n".join(left)


@pytest.fixture(autouse=True)
def _endpoints_are_new() -> None:
    """What one test did to an endpoint is no other test's trouble."""
    LOCAL.store.close()


@pytest.fixture
def client_environment(authorization_server: AuthorizationServer, tmp_path: Path) -> dict[str, str]:
    """All that a command knows: the development server's client, and a home of its own."""
    return {
        "HOME": str(tmp_path),
        "CONDUIT_OAUTH_CLIENT_ID": authorization_server.client_id,
        "CONDUIT_OAUTH_CLIENT_SECRET": authorization_server.client_secret,
    }


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_provider(authorization_server: AuthorizationServer) -> Iterator[MakeProvider]:
    """Makes providers for the development server, closed at the end of the test."""
    made: list[TokenProvider] = []

    def make(**options: Any) -> TokenProvider:
        settings: dict[str, Any] = {
            "client_id": authorization_server.client_id,
            "client_secret": authorization_server.client_secret,
            **options,
        }
        if not settings.keys() & {"token_endpoint", "mcp_url", "issuer"}:
            settings["token_endpoint"] = authorization_server.token_endpoint()
        made.append(TokenProvider(**settings))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


@pytest.fixture
def resource_server() -> Iterator[ResourceServer]:
    with ResourceServer() as server:
        yield server


@pytest.fixture
def other_origin() -> Iterator[ResourceServer]:
    with ResourceServer() as server:
        yield server
