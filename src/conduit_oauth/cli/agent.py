"""`conduit-oauth agent`: tokens for programs that know no OAuth."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError
from .logs import LogFormat, LogLevel, log_to_stderr
from .output import busy, err


def agent(
    config: Annotated[Path, typer.Option(help="File (TOML) with the providers and the table [agent].")],
    once: Annotated[bool, typer.Option("--once", help="Write each token once, and end.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="How messages are logged.")] = LogFormat.TEXT,
    log_level: Annotated[LogLevel, typer.Option(help="The least level that is logged.")] = LogLevel.INFO,
) -> None:
    """Keep every configured token fresh, and put it where other programs read it. SIGHUP reads the file anew.

    \b
    conduit-oauth agent --config /etc/conduit-oauth/agent.toml
    curl --unix-socket /run/conduit-oauth/agent.sock http://agent/tokens/billing
    """
    if hasattr(signal, "SIGCHLD"):
        # Whoever started us may ignore it: then every command that we run would seem to have done well.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP") and not (once or check):
        # From the first moment on: what comes before the file is read changes nothing.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from ..agent.keeper import Agent
        from ..agent.metrics import Metrics
        from ..agent.service import run_agent
    except ModuleNotFoundError as missing:
        raise ConfigurationError("agent", f"{missing.name} is not installed", "Install conduit-oauth[agent].") from None
    log_to_stderr(log_format, log_level)
    metrics = Metrics()
    metrics.agent = keeper = Agent(config, metrics, metrics.command_began)
    count = len(keeper.providers)

    def announce(where: list[str]) -> None:
        err.print(f"{count} providers. Listening on {', '.join(where) or 'nothing'}", soft_wrap=True)

    if check:
        problems = keeper.check()
        keeper.providers.close()
        for problem in problems:
            err.out(f"error: {problem}", highlight=False)
        err.print(f"{config}: {count} providers, {len(keeper.config.outputs)} outputs", soft_wrap=True)
        raise typer.Exit(2 if problems else 0)
    if once:
        with busy(f"Waiting for {count} tokens"):
            problems = keeper.once()
        for name, problem in problems.items():
            err.out(f"{name}: {problem}", highlight=False)
        raise typer.Exit(1 if problems else 0)
    asyncio.run(run_agent(keeper, metrics, announce))
