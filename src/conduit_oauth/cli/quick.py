"""`conduit-oauth token` without the framework of the commands: it runs before each call of another program.

Invariant: what it prints is what the whole command would print. What it is not made for, it leaves to that one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ..errors import OAuthError
from ..identity.sources import SOURCES
from ..serving.formats import LOGIN, VARIABLE, Format, Issued, check_that_others_can_use, formatted, issued
from ..sharing.peek import fresh_token, resources_of
from ..stores.sqlite_rows import file_of
from .arguments import Unusual, read_arguments
from .profile import Options
from .streams import prepare_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWN = ("format", "variable", "login")


def print_token(arguments: Sequence[str]) -> None:
    """Do what `conduit-oauth token` does with these `arguments`.

    Raises `Unusual` where that one has to run, and `OAuthError` as it does.
    """
    options, own = read_arguments(arguments, OWN)
    try:
        shape = Format(own.get("format", Format.TOKEN))
        token = _cached(options, shape)
    except (OAuthError, ValueError):
        raise Unusual("settings") from None
    if token is None and sys.stderr.isatty():
        # A person sees what is waited for, and may be asked for a secret.
        raise Unusual("terminal")
    prepare_streams()
    if token is None:
        with options.provider() as provider:
            check_that_others_can_use(provider)
            token = issued(provider, provider.get_token(), provider.state())
    print(formatted(shape, token, variable=own.get("variable", VARIABLE), login=own.get("login", LOGIN)))
    sys.stdout.flush()


def _cached(options: Options, shape: Format) -> Issued | None:
    settings = options.merged()
    store = settings.get("store", "sqlite:")
    is_sealed = settings.keys() & set(SOURCES) and store.startswith("sqlite:")
    if not is_sealed or (kept := fresh_token(settings, file_of(store))) is None:
        return None
    now = datetime.now(UTC)
    refresh_at, expires_at = (now + timedelta(seconds=left) for left in (kept.refresh_in, kept.expires_in))
    origins = _origins(settings) if shape is Format.NETRC else ()
    return Issued(kept.value, "Bearer", kept.scope, refresh_at, expires_at, origins)


def _origins(settings: dict[str, Any]) -> tuple[str, ...]:
    from ..protocol.urls import origins_of_token

    return origins_of_token(settings.get("mcp_url"), resources_of(settings), settings.get("insecure_hosts", ()))
