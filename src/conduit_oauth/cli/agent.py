"""`conduit-oauth agent`: tokens for programs that know no OAuth."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError
from .output import busy, err


def agent(
    config: Annotated[Path, typer.Option(help="File (TOML) with the providers and the table [agent].")],
    once: Annotated[bool, typer.Option("--once", help="Write each token once, and end.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the file will do.")] = False,
) -> None:
    """Keep every configured token fresh, and put it where other programs read it. SIGHUP reads the file anew.

    \b
    conduit-oauth agent --config /etc/conduit-oauth/agent.toml
    curl --unix-socket /run/conduit-oauth/agent.sock http://agent/tokens/billing
    """
    try:
        from ..agent.keeper import Agent
        from ..agent.metrics import Metrics
        from ..agent.service import run_agent
    except ModuleNotFoundError as missing:
        raise ConfigurationError("agent", f"{missing.name} is not installed", "Install conduit-oauth[agent].") from None
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="conduit-oauth: %(message)s")
    metrics = Metrics()
    metrics.agent = keeper = Agent(config, metrics)
    count = len(keeper.providers)

    def announce(where: list[str]) -> None:
        err.print(f"{count} providers. Listening on {', '.join(where) or 'nothing'}", soft_wrap=True)

    if check:
        # Each is made, and none is asked for a token.
        for name in keeper.providers:
            keeper.providers[name]
        keeper.providers.close()
        err.print(f"{config}: {count} providers, {len(keeper.config.outputs)} outputs", soft_wrap=True)
    elif once:
        with busy(f"Waiting for {count} tokens"):
            problems = keeper.once()
        for name, problem in problems.items():
            err.out(f"{name}: {problem}", highlight=False)
        raise typer.Exit(1 if problems else 0)
    else:
        asyncio.run(run_agent(keeper, metrics, announce))
