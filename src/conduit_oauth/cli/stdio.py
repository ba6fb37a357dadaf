"""`conduit-oauth bridge` over stdio, without the framework of the commands: an MCP client waits for its start."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence

from ..errors import ConfigurationError
from .arguments import Unusual, read_arguments
from .logs import LogFormat, LogLevel, log_to_stderr
from .profile import Options
from .streams import prepare_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..bridge.gateway import Gateway

OWN = ("patience", "largest_message")
PATIENCE = 30.0
# In MiB.
LARGEST_MESSAGE, MOST_OF_A_MESSAGE = 32, 1024
# Seconds for a token though no gateway is waited for: each try of one takes its time.
_SHORTEST_PATIENCE = 1.0


def bridge_stdio(arguments: Sequence[str]) -> None:
    """Do what `conduit-oauth bridge` does with these `arguments`.

    Raises `Unusual` where that one has to run, and `OAuthError` as it does.
    """
    options, own = read_arguments(arguments, OWN)
    try:
        patience, largest = float(own.get("patience", PATIENCE)), int(own.get("largest_message", LARGEST_MESSAGE))
    except ValueError:
        raise Unusual("number") from None
    if not 0 <= patience < math.inf or not 1 <= largest <= MOST_OF_A_MESSAGE:
        raise Unusual("number")
    prepare_streams()
    log_to_stderr(LogFormat.TEXT, LogLevel.WARNING)
    run_bridge(options, patience, largest << 20, by_stdio)


async def by_stdio(url: str, gateway: Gateway) -> None:
    """Serve the client that started this process."""
    from ..bridge.stdio import serve_stdio

    async with gateway:
        await serve_stdio(url, gateway)


def run_bridge(
    options: Options, patience: float, largest: int, door: Callable[[str, Gateway], Coroutine[Any, Any, None]]
) -> None:
    """Open `door` to the gateway of `options`, and stay until it closes. `largest` is in bytes."""
    from ..bridge.gateway import Gateway

    with options.provider(max(patience, _SHORTEST_PATIENCE)) as provider:
        if (url := provider.mcp_url) is None:
            raise ConfigurationError("mcp_url", "is missing", "Pass --mcp-url, the gateway's MCP endpoint.")
        gateway = Gateway(provider, patience=patience, largest=largest)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(door(url, gateway))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop that there is for this platform."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
