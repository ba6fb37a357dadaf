"""Names with several addresses, and addresses where nobody is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


@contextmanager
def silent_address(port: int, address: str) -> Iterator[None]:
    """An address where nobody answers a knock: its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(2):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(listener.getsockname())
        yield


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(_host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    own = SimpleNamespace(**{**vars(socket), "getaddrinfo": getaddrinfo})
    monkeypatch.setattr("conduit_oauth.client.network.socket", own)
