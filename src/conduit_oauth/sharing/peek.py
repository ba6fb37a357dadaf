"""A look into the SQLite file of a machine for a token that is fresh, without a provider.

A command line runs for some milliseconds, and a provider takes longer than that to set up. What is found here is what
a provider of the same settings would serve. In any doubt nothing is found, and a provider does the work.

Invariant: no file is made and no row is written. Nobody is asked but the file.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from ..identity.digest import token_identity
from ..identity.sources import read_material
from ..places import read_bytes
from ..stores import NOTHING
from ..stores.sqlite_rows import KEY_LENGTH, NO_SYNC, connect, current_boot, key_file, load
from .record import Kept, token_in
from .sealing import Seal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds that the file may be locked by others.
_TIMEOUT = 0.05
# What changes the token, or what a provider does beside serving it, in a way that is not known here.
_BEYOND = ("client_certificate", "dpop", "revoke_on_close")


def fresh_token(settings: Mapping[str, Any], path: Path) -> Kept | None:
    """The token of a provider with these `settings`, where the store at `path` has one that is not to be refreshed.

    Raises `ConfigurationError` for a credential that cannot be read.
    """
    if any(settings.get(name) for name in _BEYOND) or isinstance(settings.get("client_secret"), list | tuple):
        return None
    if settings.get("discovery") is False and "token_endpoint" not in settings:
        return None
    try:
        pepper = read_bytes(key_file(path), KEY_LENGTH)
    except OSError:
        return None
    seal = Seal(read_material(settings.get), _identity(settings), "token", pepper)
    try:
        with closing(connect(path, _TIMEOUT)) as connection:
            connection.execute(NO_SYNC)
            entry = load(connection, seal.name, current_boot()).look(NOTHING, time.time())
    except sqlite3.Error:
        return None
    if entry.value is None:
        return None
    plain = seal.open(entry.value, entry.generation, entry.fence, entry.expires)
    record: dict[str, Any] = {} if plain is None else json.loads(plain)
    kept = token_in(record, entry.remaining, entry.fence)
    if kept is None or "refused" in record or kept.refresh_in <= 0:
        return None
    return None if kept.fence <= entry.floor or seal.digest(kept.value) in entry.void else kept


def _identity(settings: Mapping[str, Any]) -> bytes:
    return token_identity(
        settings.get("token_endpoint"),
        settings.get("issuer"),
        settings.get("mcp_url"),
        settings.get("authorization_server"),
        settings.get("client_id", ""),
        settings.get("scope"),
        resources_of(settings),
        settings.get("audience"),
        tuple(settings.get("extra_parameters", {}).items()),
    )


def resources_of(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The resource indicators that were configured; None where none is to be sent."""
    resource = settings.get("resource", ())
    return None if resource is False else (resource,) if isinstance(resource, str) else tuple(resource)
