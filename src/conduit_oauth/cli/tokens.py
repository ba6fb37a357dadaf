"""The commands that use a token: print it, send a request with it, run a program with it."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from ..errors import ConfigurationError
from ..provider import TokenProvider
from ..state import ProviderState
from .options import as_client
from .output import busy, plain
from .profile import Options

_EXEC_API = "client.authentication.k8s.io"

Fresh = Annotated[bool, typer.Option("--fresh", help="Ask for a new token, also where a valid one is kept.")]
Variable = Annotated[str, typer.Option(help="Environment variable that holds the token.", metavar="NAME")]


class Format(StrEnum):
    """How a token is printed."""

    TOKEN = "token"  # noqa: S105
    JSON = "json"
    HEADER = "header"
    ENV = "env"
    NETRC = "netrc"
    CURL_CONFIG = "curl-config"
    EXEC_CREDENTIAL = "exec-credential"


@as_client
def token(
    options: Options,
    fresh: Fresh = False,
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TOKEN,  # noqa: A002
    variable: Variable = "CONDUIT_OAUTH_TOKEN",
    login: Annotated[str, typer.Option(help="Login of a netrc entry.")] = "oauth2accesstoken",
) -> None:
    """Fetch an access token and print it alone, or as other programs want it.

    \b
    curl -H "Authorization: Bearer $(conduit-oauth token)" https://api.example/
    curl -K <(conduit-oauth token --format curl-config) https://api.example/
    docker run --env-file <(conduit-oauth token --format env) IMAGE
    kubectl: an exec plugin with the arguments token --format exec-credential
    """
    with options.provider() as provider:
        value, state = _token(provider, fresh=fresh)
        plain(_formatted(format, value, state, provider, variable, login))


@as_client
def execute(
    options: Options,
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    fresh: Fresh = False,
    variable: Variable = "CONDUIT_OAUTH_TOKEN",
) -> None:
    """Run a program with a token in its environment. It gets the client secret's variable no more.

    \b
    conduit-oauth exec --variable GATEWAY_TOKEN -- ./sync.sh --all
    """
    with options.provider() as provider:
        value, _ = _token(provider, fresh=fresh)
    environment = {name: text for name, text in os.environ.items() if name != "CONDUIT_OAUTH_CLIENT_SECRET"}
    sys.stdout.flush()
    try:
        # In our place, so that signals, the terminal and the exit status are the program's own.
        os.execvpe(command[0], command, {**environment, variable: value})  # noqa: S606 - what was asked for
    except OSError as error:
        raise ConfigurationError("command", f"{command[0]}: {error.strerror}", "Name a program to run.") from None


def _token(provider: TokenProvider, *, fresh: bool) -> tuple[str, ProviderState]:
    if fresh:
        provider.invalidate()
    with busy("Waiting for a token"):
        return provider.get_token(), provider.state()


def _formatted(
    shape: Format, value: str, state: ProviderState, provider: TokenProvider, variable: str, login: str
) -> str:
    kind = "Bearer" if provider.dpop is None else "DPoP"
    match shape:
        case Format.TOKEN:
            return value
        case Format.HEADER:
            return f"Authorization: {kind} {value}"
        case Format.CURL_CONFIG:
            return f'header = "Authorization: {kind} {value}"'
        case Format.ENV:
            return f"{variable}={value}"
        case Format.NETRC:
            return f"machine {_host(provider)} login {login} password {value}"
        case Format.JSON:
            said = {"access_token": value, "token_type": kind, "expires_at": _iso(state), "scope": state.granted_scope}
            return json.dumps(said)
        case Format.EXEC_CREDENTIAL:
            return json.dumps(_exec_credential(value, state))


def _host(provider: TokenProvider) -> str:
    host = urlsplit(provider.origin or "").hostname
    if not host:
        raise ConfigurationError("resource", "is needed to name the machine", "Pass --mcp-url or --resource.")
    return host


def _exec_credential(value: str, state: ProviderState) -> dict[str, Any]:
    """An ExecCredential of the version that kubectl asks for."""
    try:
        asked = json.loads(os.environ.get("KUBERNETES_EXEC_INFO") or "{}").get("apiVersion")
    except (ValueError, AttributeError):
        raise ConfigurationError("KUBERNETES_EXEC_INFO", "is not a JSON object", "kubectl sets it.") from None
    version = asked if asked in (f"{_EXEC_API}/v1", f"{_EXEC_API}/v1beta1") else f"{_EXEC_API}/v1"
    # kubectl asks again once this is over: from then on we would refresh, too.
    until = state.refresh_at if state.refresh_at and state.refresh_at > datetime.now(UTC) else state.expires_at
    status = {"token": value}
    if until is not None:
        status["expirationTimestamp"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"apiVersion": version, "kind": "ExecCredential", "status": status}


def _iso(state: ProviderState) -> str | None:
    return state.expires_at and state.expires_at.isoformat(timespec="seconds")
