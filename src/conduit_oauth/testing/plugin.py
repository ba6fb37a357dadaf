"""The fixture for pytest, which loads this wherever the package is installed: nothing heavy before it is used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .authorization_server import AuthorizationServer


@pytest.fixture(scope="session")
def _authorization_server_process() -> Iterator[AuthorizationServer]:  # pyright: ignore[reportUnusedFunction]
    with AuthorizationServer() as server:
        yield server


@pytest.fixture
def authorization_server(_authorization_server_process: AuthorizationServer) -> AuthorizationServer:
    """A development authorization server (one process per session), as good as new for each test."""
    from ..sharing.tier import LOCAL

    _authorization_server_process.reset()
    # What this process remembers of an earlier test's faults.
    LOCAL.store.close()
    return _authorization_server_process
