"""The agent as a service: signals, systemd's notifications, and the listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable

from ..access import Access
from ..credentials import read_text
from ..errors import ConfigurationError
from ..serving import access_of, serve
from .keeper import Agent
from .metrics import Metrics
from .web import make_app

logger = logging.getLogger("conduit_oauth.agent")


async def run_agent(agent: Agent, metrics: Metrics, on_ready: Callable[[list[str]], object]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the file anew. Raises `ConfigurationError`."""
    config, loop = agent.config, asyncio.get_running_loop()
    bearer = config.local_token_file and read_text(config.local_token_file, "agent.local_token_file").strip()
    tcp = Access(frozenset(), bearer)
    for address in config.listen:
        access = access_of(address, bearer, config.allow_host, expose=config.expose)
        if access.hosts is not None and tcp.hosts is not None:
            tcp = Access(tcp.hosts | access.hosts, bearer)

    def reload() -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            agent.providers.reload()
        except ConfigurationError as error:
            logger.warning("providers_not_reloaded: %s", error)
        notify("READY=1")

    tasks: list[asyncio.Task[None]] = []

    def ready(where: list[str]) -> None:
        agent.start()
        tasks.append(asyncio.create_task(_tell(agent, lambda: on_ready(where))))

    loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload))
    try:
        await serve(make_app(agent, metrics, tcp), config.listen, ready)
    finally:
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.to_thread(agent.close)


async def _tell(agent: Agent, on_ready: Callable[[], object]) -> None:
    """Tell systemd that we are ready, once whoever starts after us finds its token; then that we live."""
    await asyncio.to_thread(agent.settled.wait)
    on_ready()
    notify("READY=1")
    limit = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
    while limit:
        await asyncio.sleep(limit / 2)
        notify("WATCHDOG=1")


def notify(*lines: str) -> None:
    """Tell the service manager, where there is one (sd_notify(3))."""
    if (path := os.environ.get("NOTIFY_SOCKET", "")).startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # An @ stands for the zero byte of an abstract socket.
            manager.sendto("\n".join(lines).encode(), "\0" + path[1:] if path[0] == "@" else path)
