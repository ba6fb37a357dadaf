"""Starts the development server on a socket of its own and tells where it listens."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from ..serving.listening import AnnouncingServer
from .app import make_app

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
DEFAULT_SECRET = "demo-secret"  # noqa: S105 - known to everybody, of use to nobody


@dataclass(frozen=True, slots=True)
class DevServerConfig:
    """Where to listen, whom to know, and a first order to the admin endpoint (latency, lifetime, faults)."""

    host: str = "127.0.0.1"
    port: int = 0
    client_id: str = "demo"
    client_secret: str = field(default=DEFAULT_SECRET, repr=False)
    order: dict[str, Any] = field(default_factory=dict[str, Any])


def serve(config: DevServerConfig, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Calls `on_ready` with the base URL once requests are answered.

    SIGINT ends in `KeyboardInterrupt`.

    Raises `OSError` where the port cannot be had, `ValueError` for a senseless order.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((config.host, config.port))
    # The wildcard address is no name to reach the server by.
    name = socket.gethostname() if config.host in _WILDCARDS else config.host
    host = f"[{name}]" if ":" in name else name
    base_url = f"http://{host}:{listener.getsockname()[1]}"
    app = make_app(base_url, config.host, {config.client_id: config.client_secret}, config.order)
    served = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
    server = AnnouncingServer(served, lambda: on_ready(base_url))
    server.run(sockets=[listener])
