"""`conduit-oauth bridge`: any MCP client, with machine credentials."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..bridge.snippets import Client, snippet
from ..credentials import read_text
from ..errors import ConfigurationError
from ..provider import TokenProvider
from .options import as_client
from .output import err, plain
from .profile import Options


@as_client
def bridge(
    options: Options,
    listen: Annotated[
        str | None,
        typer.Option(help="Serve HTTP there, and not stdio: 127.0.0.1:PORT or unix:/path.", metavar="ADDRESS"),
    ] = None,
    local_token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token that the bridge's own clients must send.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that the bridge is reached by.", metavar="NAME")
    ] = None,
    expose: Annotated[bool, typer.Option("--expose", help="Listen where other machines can reach it.")] = False,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a gateway that is away.", min=0)] = 30.0,
    print_config: Annotated[
        Client | None, typer.Option(help="Print what to put into this client's configuration, and do nothing else.")
    ] = None,
    server_name: Annotated[str, typer.Option(help="What --print-config calls the server.")] = "gateway",
) -> None:
    """Let an MCP client use a gateway with this machine's credentials: over stdio, as its configured command, or HTTP.

    \b
    conduit-oauth bridge --print-config claude-desktop --mcp-url https://gateway.example/mcp
    conduit-oauth bridge --profile billing --listen 127.0.0.1:8900
    """
    if print_config is not None:
        _print_config(print_config, server_name, options)
        return
    # stdout is the protocol's; what goes wrong is told on stderr, which clients keep in their logs.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="conduit-oauth: %(message)s")
    bearer = local_token_file and read_text(local_token_file, "local_token_file").strip()
    try:
        with options.provider() as provider:
            if (url := provider.mcp_url) is None:
                raise ConfigurationError("mcp_url", "is missing", "Pass --mcp-url, the gateway's MCP endpoint.")
            if listen is None:
                door = _by_stdio(provider, url, patience)
            else:
                door = _by_http(provider, url, patience, listen, bearer, allow_host or (), expose=expose)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(door)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "bridge", f"{missing.name} is not installed", "Install conduit-oauth[bridge]."
        ) from None


# Each door loads what it needs: a client that starts the bridge waits for that.


async def _by_stdio(provider: TokenProvider, url: str, patience: float) -> None:
    from ..bridge.gateway import Gateway
    from ..bridge.stdio import serve_stdio

    async with Gateway(provider, patience=patience) as gateway:
        await serve_stdio(url, gateway)


async def _by_http(
    provider: TokenProvider,
    url: str,
    patience: float,
    listen: str,
    bearer: str | None,
    names: Sequence[str],
    *,
    expose: bool,
) -> None:
    from ..bridge.gateway import Gateway
    from ..bridge.proxy import PATH, Proxy
    from ..serving import access_of, parse_address, serve

    address = parse_address(listen)
    access = access_of(address, bearer, names, expose=expose)
    if not address.is_private and bearer is None:
        raise ConfigurationError(
            "local_token_file", "is missing: whoever reaches the bridge acts as this client", "Pass one."
        )

    def announce(where: list[str]) -> None:
        path = "" if where[0].startswith("unix:") else PATH
        err.print(f"Listening on {where[0]}{path}", soft_wrap=True)

    async with Gateway(provider, patience=patience) as gateway:
        await serve(Proxy(url, gateway, access), [address], announce)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest event loop that there is for this platform."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _print_config(client: Client, name: str, options: Options) -> None:
    given = {**options.settings, "profile": options.profile, "config": options.config}
    given["client_secret_file"] = options.client_secret_file
    arguments = ["bridge"]
    for option, value in given.items():
        if value is not None:
            # A client starts the bridge from anywhere.
            said = value.expanduser().absolute() if isinstance(value, Path) else value
            arguments += [f"--{option.replace('_', '-')}", str(said)]
    # By its whole path: what is started from a desktop has another PATH than a shell.
    command = shutil.which(sys.argv[0]) or "conduit-oauth"
    file, text = snippet(client, name, str(Path(command).absolute()), arguments)
    err.print(f"For {file}:", soft_wrap=True)
    plain(text)
