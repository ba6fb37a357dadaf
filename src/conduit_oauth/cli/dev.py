"""The commands to try everything out on one machine. They need the extra `dev`."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.text import Text

from ..errors import ConfigurationError
from .output import out, plain


def dev_server(
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback is reachable by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    client_id: Annotated[str, typer.Option(help="The client that it knows.")] = "demo",
    resource: Annotated[
        list[str] | None,
        typer.Option(help="A resource server of your own: its URL, and its scopes after blanks.", metavar="RESOURCE"),
    ] = None,
    latency: Annotated[float, typer.Option(help="Seconds each token request takes.", min=0)] = 0.0,
    lifetime: Annotated[float, typer.Option(help="Seconds a token lives.", min=0)] = 3600.0,
    fail: Annotated[int, typer.Option(help="How many of the first token requests fail.", min=0)] = 0,
    fail_status: Annotated[int, typer.Option(help="The status they fail with.", min=300, max=599)] = 503,
    malform: Annotated[int, typer.Option(help="How many of the first token requests get a malformed body.", min=0)] = 0,
    revoke: Annotated[int, typer.Option(help="How many of the first tokens are revoked at once.", min=0)] = 0,
    drop: Annotated[int, typer.Option(help="How many of the first token requests lose their connection.", min=0)] = 0,
) -> None:
    """Serve a development authorization server with a protected MCP server behind it, under /servers/{id}/.

    \b
    conduit-oauth dev-server
    conduit-oauth dev-server --port 0 --lifetime 60 --fail 2
    conduit-oauth dev-server --resource "http://127.0.0.1:3000/mcp tools:read tools:call"
    """
    try:
        from ..devserver import DEFAULT_SECRET, DevServerConfig, serve
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            "dev-server", f"{missing.name} is not installed", "Install conduit-oauth[dev]."
        ) from None
    faults: list[dict[str, Any]] = [
        *([{"status": fail_status, "count": fail}] if fail else []),
        *([{"malformed": "html", "count": malform}] if malform else []),
        *([{"revoked": True, "count": revoke}] if revoke else []),
        *([{"drop": True, "count": drop}] if drop else []),
    ]
    secret = os.environ.get("CONDUIT_OAUTH_CLIENT_SECRET") or DEFAULT_SECRET

    def show(url: str) -> None:
        title = "Development authorization server", "bold green"
        out.print(Text.assemble(title, f" on {url}, not for production. Ctrl-C stops it.\n"))
        plain(f"export CONDUIT_OAUTH_CLIENT_ID={shlex.quote(client_id)}")
        if secret == DEFAULT_SECRET:
            plain(f"export CONDUIT_OAUTH_CLIENT_SECRET={secret}")
        plain(f"export CONDUIT_OAUTH_MCP_URL={url}/servers/demo/mcp")
        out.print("\nFaults on demand, for instance:")
        plain(f"""curl -d '{{"latency": 2, "faults": [{{"status": 503, "count": 3}}]}}' {url}/admin""")

    resources: dict[str, list[str]] = {}
    for each in resource or ():
        url, *scopes = each.split() or [""]
        resources[url] = scopes
    order = {"latency": latency, "lifetime": lifetime, "faults": faults, "resources": resources}
    try:
        serve(DevServerConfig(host, port, client_id, secret, order), show)
    except TypeError:  # the socket's, for a name that is none
        raise ConfigurationError("host", f"{host!r} is no address", "Name one of this machine.") from None
    except OSError as error:
        raise ConfigurationError("port", f"{host}:{port}: {error.strerror}", "Choose another with --port.") from None


def is_installed(module: str) -> bool:
    """Whether `module` can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def demo(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the main job on real parts: a development server, an MCP tool call, caching, refresh, an outage.

    \b
    conduit-oauth demo
    """
    # Looked for and not imported: the server is another process, and the rest comes while it starts.
    for module in ("mcp", "starlette", "uvicorn", "joserfc"):
        if not is_installed(module):
            raise ConfigurationError("demo", f"{module} is not installed", "Install conduit-oauth[dev].")
    from .demo import run_demo

    raise typer.Exit(0 if run_demo(out, as_json=as_json) else 1)
