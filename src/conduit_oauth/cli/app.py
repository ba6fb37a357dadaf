"""The commands of `conduit-oauth`, their options and exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..discovery import Search, discover_any
from ..errors import (
    ConfigurationError,
    DiscoveryError,
    InvalidTokenResponse,
    OAuthError,
    TokenRequestError,
    TransportError,
    clean,
)
from ..locator import drive
from ..transport import Transport
from .agent import agent
from .bridge import bridge
from .doctor import doctor
from .inspection import Inspected, InvalidTokenError, has_ended, read_jwt, verify_jwt
from .options import as_client
from .output import busy, claims_table, discovery_tree, err, expiry_line, out, plain, prepare_streams
from .profile import Options
from .profiles import profile as profiles
from .request import REFUSED, request
from .tokens import execute, token

EXIT_CODES: tuple[tuple[type[OAuthError], int], ...] = (
    (ConfigurationError, 2),
    (TokenRequestError, 3),
    (TransportError, 4),
    (InvalidTokenResponse, 5),
    (DiscoveryError, 6),
    (InvalidTokenError, 5),
    (OAuthError, 1),
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with locals shows secrets
    help="OAuth 2.1 access tokens for machines (client credentials).",
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by the server, 4 not reachable, "
    f"5 invalid answer or token, 6 discovery failed, {REFUSED} the resource answered 400 or above. "
    "Settings come from options, then CONDUIT_OAUTH_* variables, then the profile.",
)


app.command()(token)
app.command("exec")(execute)
app.command()(request)
app.command()(bridge)
app.command()(agent)
app.command()(doctor)
app.add_typer(profiles, name="profile")


@app.command()
def discover(
    url: Annotated[str, typer.Argument(help="URL of an issuer, an MCP endpoint or another protected resource.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where the token endpoint of URL is, and every location that was asked on the way.

    \b
    conduit-oauth discover https://gateway.example/servers/42/mcp
    conduit-oauth discover https://login.example/realms/machines
    """
    transport = Transport()
    search = Search()
    found = None
    try:
        with busy("Reading metadata"):
            found = drive(discover_any(url, search), transport, 10.0)
    finally:
        transport.close()
        if as_json:
            steps = [dataclasses.asdict(finding) for finding in search.findings]
            plain(json.dumps({"url": url, "steps": steps, "found": found and dataclasses.asdict(found)}, indent=2))
        elif search.findings:
            out.print(discovery_tree(url, search.findings, found))


@app.command()
@as_client
def inspect(
    options: Options,
    token_file: Annotated[Path, typer.Argument(help="File with the token; - reads standard input.")] = Path("-"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[
        bool,
        typer.Option(help="Verify a JWT by its issuer's keys; exit with 5 where the token is not valid."),
    ] = False,
) -> None:
    """Show what a token says and when it expires.

    An opaque token says nothing: its server is asked (introspection), as the client that the options describe.

    \b
    conduit-oauth token | conduit-oauth inspect
    conduit-oauth inspect --verify token.txt
    """
    try:
        token = (sys.stdin.read() if str(token_file) == "-" else token_file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("token", str(error), "Name a readable file, or -.") from None
    if not token:
        raise ConfigurationError("token", "is empty", "Name a file that holds a token, or pipe one to this command.")
    inspected = read_jwt(token)
    if inspected is None:
        with options.provider() as provider, busy("Asking its server"):
            inspected = Inspected("opaque token, as its server says", {}, provider.introspect(token))
    elif verify:
        with busy("Asking for the issuer's keys"):
            inspected = verify_jwt(token, inspected, options.issuer)
    _show(inspected, as_json=as_json)
    if verify and has_ended(inspected, datetime.now(UTC)):
        raise typer.Exit(5)


def _show(inspected: Inspected, *, as_json: bool) -> None:
    if as_json:
        plain(
            json.dumps({"source": inspected.source, "header": inspected.header, "claims": inspected.claims}, indent=2)
        )
        return
    now = datetime.now(UTC)
    out.print(f"[bold]{escape(clean(inspected.source))}[/]", soft_wrap=True)
    out.print(claims_table(inspected, now))
    out.print(expiry_line(inspected.claims, now))


@app.command("dev-server")
def dev_server(
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback is reachable by others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    client_id: Annotated[str, typer.Option(help="The client that it knows.")] = "demo",
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
        out.print(f"[bold green]Development authorization server[/] on {url}, not for production. Ctrl-C stops it.\n")
        plain(f"export CONDUIT_OAUTH_CLIENT_ID={shlex.quote(client_id)}")
        if secret == DEFAULT_SECRET:
            plain(f"export CONDUIT_OAUTH_CLIENT_SECRET={secret}")
        plain(f"export CONDUIT_OAUTH_MCP_URL={url}/servers/demo/mcp")
        out.print("\nFaults on demand, for instance:")
        plain(f"""curl -d '{{"latency": 2, "faults": [{{"status": 503, "count": 3}}]}}' {url}/admin""")

    order = {"latency": latency, "lifetime": lifetime, "faults": faults}
    try:
        serve(DevServerConfig(host, port, client_id, secret, order), show)
    except OSError as error:
        raise ConfigurationError("port", f"{host}:{port}: {error.strerror}", "Choose another with --port.") from None


@app.command()
def demo() -> None:
    """Show the main job on real parts: a development server, an MCP tool call, caching, refresh, an outage.

    \b
    conduit-oauth demo
    """
    try:
        from .demo import run_demo
    except ModuleNotFoundError as missing:
        raise ConfigurationError("demo", f"{missing.name} is not installed", "Install conduit-oauth[dev].") from None
    raise typer.Exit(0 if run_demo(out) else 1)


def run() -> int:
    """Run the command line; the exit status."""
    status: int | str | None = 0
    try:
        prepare_streams()
        try:
            app()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OAuthError as error:
        err.print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
        err.out(str(error), highlight=False)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return status if isinstance(status, int) else 1
