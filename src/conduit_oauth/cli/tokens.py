"""The commands that use a token: print it, send a request with it, run a program with it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from ..errors import ConfigurationError
from ..identity.sources import public_environment
from ..lifecycle.state import ProviderState
from ..provider import TokenProvider
from ..serving.formats import LOGIN, VARIABLE, Format, check_that_others_can_use, formatted, issued
from .options import as_client
from .output import busy, err, plain, quieten
from .profile import Options

Fresh = Annotated[bool, typer.Option("--fresh", help="Ask for a new token, also where a valid one is kept.")]
Variable = Annotated[str, typer.Option(help="Environment variable that holds the token.", metavar="NAME")]

# Seconds.
_PATIENCE_WITH_THE_CACHE = 0.5


@as_client
def token(
    options: Options,
    fresh: Fresh = False,
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TOKEN,  # noqa: A002
    variable: Variable = VARIABLE,
    login: Annotated[str, typer.Option(help="Login of a netrc entry.")] = LOGIN,
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
        plain(formatted(format, issued(provider, value, state), variable=variable, login=login))


@as_client
def execute(
    options: Options,
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    fresh: Fresh = False,
    variable: Variable = VARIABLE,
) -> None:
    """Run a program with a token in its environment. It gets no variable that holds a secret of the client.

    \b
    conduit-oauth exec --variable GATEWAY_TOKEN -- ./sync.sh --all
    """
    if not command[0]:
        raise ConfigurationError("command", "is empty", "Name a program to run.")
    if not variable or "=" in variable:
        raise ConfigurationError("variable", f"{variable!r} cannot be the name of a variable", "Name another.")
    with options.provider() as provider:
        value, _ = _token(provider, fresh=fresh)
    sys.stdout.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):
        # Python ignores them, and the program would inherit that.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        # In our place, so that signals, the terminal and the exit status are the program's own.
        os.execvpe(command[0], command, {**public_environment(), variable: value})  # noqa: S606 - what was asked for
    except OSError as error:
        quieten(False)
        err.out(f"error: {command[0]}: {error.strerror}. Name a program to run.", highlight=False)
        # As a shell exits.
        raise typer.Exit(127 if isinstance(error, FileNotFoundError) else 126) from None


@as_client
def revoke(options: Options) -> None:
    """Have the authorization server revoke the cached token (RFC 7009), and forget it.

    \b
    conduit-oauth revoke --profile billing
    """
    # The token of the cache is meant: a cache that is slow is worth more than a call that does not wait.
    with options.provider(store_timeout=_PATIENCE_WITH_THE_CACHE) as provider, busy("Revoking the token"):
        # Where it holds none, there is no other way to know that than to ask for one.
        provider.get_token()
        is_new = provider.state().counts.tokens > 0
        provider.revoke()
    if is_new:
        err.print("No valid token was found in the cache: a new one was revoked.", soft_wrap=True)


def _token(provider: TokenProvider, *, fresh: bool) -> tuple[str, ProviderState]:
    check_that_others_can_use(provider)
    with busy("Waiting for a token", provider.control.progress):
        value = provider.get_token()
        if fresh and provider.state().counts.tokens == 0:
            # It was in the store, and stays there until there is another.
            value = provider.refresh()
        return value, provider.state()
