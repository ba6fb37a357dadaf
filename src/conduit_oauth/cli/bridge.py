"""`conduit-oauth bridge`: any MCP client, with machine credentials."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..bridge.snippets import Client, snippet, snippet_for_http
from ..errors import ConfigurationError
from ..places import expanded, make_private, state_folder
from ..stores import hide_password
from .logs import LogFormat, LogLevel, log_to_stderr
from .options import as_client
from .output import err, plain
from .profile import PREFIX, Options
from .stdio import LARGEST_MESSAGE, MOST_OF_A_MESSAGE, PATIENCE, by_stdio, run_bridge

if TYPE_CHECKING:
    from ..bridge.gateway import Gateway
    from ..serving.access import Access, LocalToken
    from ..serving.listening import Address


@as_client
def bridge(
    options: Options,
    listen: Annotated[
        str | None,
        typer.Option(help="Serve HTTP there, and not stdio: 127.0.0.1:PORT or unix:/path.", metavar="ADDRESS"),
    ] = None,
    local_token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the bearer token that clients by TCP must send; by default one that the bridge makes."
        ),
    ] = None,
    no_local_token: Annotated[
        bool, typer.Option("--no-local-token", help="Serve every user and program of this machine.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that the bridge is reached by.", metavar="NAME")
    ] = None,
    expose: Annotated[bool, typer.Option("--expose", help="Listen where other machines can reach it.")] = False,
    socket_mode: Annotated[
        str | None, typer.Option(help="Mode of the Unix socket, for example 0660.", metavar="MODE")
    ] = None,
    socket_group: Annotated[str | None, typer.Option(help="Group of the Unix socket.", metavar="GROUP")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a gateway that is away.", min=0)] = PATIENCE,
    largest_message: Annotated[
        int, typer.Option(help="MiB that a message may have.", metavar="MIB", min=1, max=MOST_OF_A_MESSAGE)
    ] = LARGEST_MESSAGE,
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
    of_http = {
        "local_token_file": local_token_file,
        "no_local_token": no_local_token,
        "allow_host": allow_host,
        "expose": expose,
        "socket_mode": socket_mode,
        "socket_group": socket_group,
    }
    if listen is None and (name := next((name for name, value in of_http.items() if value), None)):
        raise ConfigurationError(name, "is for a bridge that serves HTTP", "Pass --listen, or leave it out.")
    if listen is None:
        options.leave_stdin("the MCP client writes to")
    if no_local_token and local_token_file is not None:
        raise ConfigurationError("no_local_token", "is given beside local_token_file", "Pass one of them.")
    if print_config is not None and listen is None:
        own = {"patience": (patience, PATIENCE), "largest_message": (largest_message, LARGEST_MESSAGE)}
        given = {name: value for name, (value, default) in own.items() if value != default}
        _print_config(print_config, server_name, options, given)
        return
    # stdout is the protocol's; what goes wrong is told on stderr, which clients keep in their logs.
    log_to_stderr(LogFormat.TEXT, LogLevel.WARNING)
    try:
        if print_config is not None and listen is not None:
            _print_http_config(print_config, server_name, listen, local_token_file, no_local_token=no_local_token)
            return
        if listen is None:
            run_bridge(options, patience, largest_message << 20, by_stdio)
            return

        def by_http(url: str, gateway: Gateway) -> Coroutine[Any, Any, None]:
            # Only now: a token is made for a bridge that can be opened.
            address = _address(listen, socket_mode, socket_group)
            access = _access(address, local_token_file, allow_host or (), no_local_token=no_local_token, expose=expose)
            return _by_http(url, gateway, address, access)

        run_bridge(options, patience, largest_message << 20, by_http)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "bridge", f"{missing.name} is not installed", "Install conduit-oauth[bridge]."
        ) from None


async def _by_http(url: str, gateway: Gateway, address: Address, access: Access) -> None:
    from ..bridge.proxy import PATH, Proxy
    from ..serving.listening import serve

    def announce(where: list[str]) -> None:
        path = "" if where[0].startswith("unix:") else PATH
        err.print(f"Listening on {where[0]}{path}", soft_wrap=True)

    async with gateway:
        await serve(Proxy(url, gateway, access), [address], announce)


def _address(listen: str, mode: str | None, group: str | None) -> Address:
    """Where to listen. Raises `ConfigurationError`."""
    from ..serving.listening import parse_address
    from ..serving.owners import group_of, mode_of

    address = parse_address(listen)
    for name, value in (("socket_mode", mode), ("socket_group", group)):
        if value is not None and address.path is None:
            raise ConfigurationError(name, "is for a Unix socket", "Pass --listen unix:/path.")
    private = address.mode if mode is None else mode_of(mode, "socket_mode")
    return dataclasses.replace(address, mode=private, gid=group_of(group, "socket_group"))


def _access(address: Address, file: Path | None, names: Sequence[str], *, no_local_token: bool, expose: bool) -> Access:
    """Who may come. Raises `ConfigurationError`."""
    from ..serving.listening import access_of

    if not address.is_private and no_local_token:
        raise ConfigurationError(
            "no_local_token", "would let other machines act as this client", "Leave it out where you pass --expose."
        )
    # Before a token is made.
    access_of(address, None, names, expose=expose)
    return access_of(address, _bearer(address, file, no_local_token=no_local_token), names, expose=expose)


def _bearer(address: Address, file: Path | None, *, no_local_token: bool) -> LocalToken | None:
    """The token that the bridge's own clients must send: by TCP every user of this machine could come."""
    from ..serving.access import LocalToken

    if file is None and (no_local_token or address.path is not None):
        return None
    if file is None:
        advice = "Set HOME, or pass --local-token-file."
        file = state_folder("local_token_file", advice) / "bridge.token"
        _make_token(file)
        err.print(f"Clients send the bearer token in {file}", soft_wrap=True)
    return LocalToken(expanded(file))


def _make_token(file: Path) -> None:
    """Write a new token to `file`, unless it is there."""
    try:
        make_private(file.parent)
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as draft:
            draft.write(secrets.token_urlsafe(32) + "\n")
            draft.flush()
            # Whole when it appears: another bridge may start at the same time.
            os.link(draft.name, file)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigurationError(
            "local_token_file",
            f"{file} cannot be made ({error.strerror})",
            "Pass --local-token-file or --no-local-token.",
        ) from None


def _print_http_config(client: Client, name: str, listen: str, file: Path | None, *, no_local_token: bool) -> None:
    from ..serving.listening import parse_address

    address = parse_address(listen)
    if address.path is not None or address.port == 0:
        raise ConfigurationError("listen", f"{listen!r} is no URL for a client", "Write HOST:PORT, with a port.")
    bearer = _bearer(address, file, no_local_token=no_local_token)
    said = snippet_for_http(client, name, f"{address.url(address.port)}/mcp", bearer and bearer())
    if said is None:
        raise ConfigurationError("print_config", f"{client} starts its servers itself", "Leave --listen out.")
    place, text = said
    err.print(f"For {place}:", soft_wrap=True)
    plain(text)


def _print_config(client: Client, server_name: str, options: Options, own: dict[str, Any]) -> None:
    stated = options.stated()
    # Variables with a secret in them.
    secret = [] if options.named_secret_file else ["CLIENT_SECRET"]
    if (store := stated.get("store")) is not None and hide_password(store) != store:
        secret.append("STORE")
        del stated["store"]
    if options.settings.get("store") is not None and "STORE" in secret:
        problem = "holds a password, which the configuration and the list of processes would show"
        raise ConfigurationError("store", problem, "Leave it out, and append ?password_file=PATH to the URL.")
    given = {**stated, "profile": options.named, "config": options.named_config}
    given["client_secret_file"] = options.named_secret_file
    arguments = [word for setting, value in {**given, **own}.items() for word in _as_given(setting, value)]
    # By its whole path: what is started from a desktop has another PATH than a shell.
    command = shutil.which(sys.argv[0]) or "conduit-oauth"
    file, text = snippet(client, server_name, str(Path(command).absolute()), ["bridge", *arguments])
    err.print(f"For {file}:", soft_wrap=True)
    plain(text)
    for variable in (f"{PREFIX}{name}" for name in secret):
        if os.environ.get(variable):
            err.print(f"It has no secret in it. Start the client with {variable} in its environment.", soft_wrap=True)


def _as_given(setting: str, value: object) -> list[str]:
    """A setting as the arguments that say it."""
    option = f"--{setting.replace('_', '-')}"
    match value:
        case None:
            return []
        case False:
            return [f"--no-{setting}"]
        case True:
            return [option]
        case list():
            return [word for each in cast("list[str]", value) for word in (option, each)]
        case Path():
            # A client starts the bridge from anywhere.
            return [option, str(expanded(value).absolute())]
        case _:
            return [option, str(value)]
