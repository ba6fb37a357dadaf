"""The agent as a service: signals, systemd's notifications, and the listeners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

from ..errors import ConfigurationError
from ..identity.sources import read_text
from ..serving.access import Access
from ..serving.listening import Address, access_of, serve
from .keeper import Agent
from .metrics import Metrics
from .web import make_app

logger = logging.getLogger("conduit_oauth.agent")


async def run_agent(agent: Agent, metrics: Metrics, on_ready: Callable[[list[str]], object]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the file anew. Raises `ConfigurationError`."""
    config, loop = agent.config, asyncio.get_running_loop()
    bearer = _bearer(agent)
    names = [access_of(address, bearer, config.allow_host, expose=config.expose).hosts for address in config.listen]
    own = frozenset[str]().union(*(each for each in names if each is not None))

    def tcp() -> Access:
        try:
            # A secret is read anew: it may have been rotated.
            return Access(own.union(agent.config.allow_host), _bearer(agent))
        except ConfigurationError as error:
            logger.warning("bearer_unreadable: %s", error)
            return Access(own, secrets.token_hex())

    tasks: list[asyncio.Task[None]] = []

    def ready(where: list[str]) -> None:
        agent.start()
        tasks.append(asyncio.create_task(_tell(agent, lambda: on_ready(where))))

    loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, _reload, agent, config.listen))
    try:
        await serve(make_app(agent, metrics, tcp), config.listen, ready)
    finally:
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.to_thread(agent.close)


def _reload(agent: Agent, listen: tuple[Address, ...]) -> None:
    """Read the file anew; `listen` is where the agent listens."""
    try:
        agent.providers.reload()
    except ConfigurationError as error:
        logger.warning("providers_not_reloaded: %s", error)
        notify(f"STATUS=Not reloaded: {error}")
        return
    if agent.config.listen != listen:
        logger.warning("listen_unchanged: restart the agent to have it listen elsewhere")
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", "STATUS=")
    # Else it is told when the first tokens are there.
    if agent.settled.is_set():
        notify("READY=1")


def _bearer(agent: Agent) -> str | None:
    file = agent.config.local_token_file
    return file and read_text(file, "agent.local_token_file").strip()


async def _tell(agent: Agent, on_ready: Callable[[], object]) -> None:
    """Tell systemd that we are ready, once whoever starts after us finds its token; then that we live."""
    await asyncio.to_thread(agent.settled.wait)
    on_ready()
    notify("READY=1")
    said = os.environ.get("WATCHDOG_USEC", "")
    limit = int(said) / 1e6 if said.isdecimal() else 0.0
    while limit:
        await asyncio.sleep(limit / 2)
        notify("WATCHDOG=1")


def notify(*lines: str) -> None:
    """Tell the service manager, where there is one (sd_notify(3))."""
    if (path := os.environ.get("NOTIFY_SOCKET", "")).startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            # An @ stands for the zero byte of an abstract socket.
            manager.sendto("\n".join(lines).encode(), "\0" + path[1:] if path[0] == "@" else path)
