"""`conduit-oauth token` where the cache has a fresh token: it runs before each call of another program.

Invariant: it prints what the whole command would print. In any doubt it prints nothing, and the whole command runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..errors import OAuthError
from ..identity.sources import SOURCES
from ..places import expanded
from ..serving.formats import LOGIN, VARIABLE, Format, Issued, formatted
from ..sharing.peek import fresh_token, resources_of
from ..stores.sqlite_rows import file_of
from .profile import PREFIX, SETTINGS, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SWITCHES = frozenset({"dpop", "no_resource"})
_FILES = ("client_secret_file", "config")
_VALUES = {*SETTINGS, *_FILES, "profile", "format", "variable", "login"} - _SWITCHES


def is_served(arguments: Sequence[str]) -> bool:
    """Print what `conduit-oauth token` prints with these `arguments`; whether there is a fresh token to print."""
    try:
        line = _line(arguments)
    except (OAuthError, LookupError, ValueError):
        # The whole command finds the same, and has the words for it.
        return False
    return line is not None and _is_written(f"{line}\n".encode())


def _line(arguments: Sequence[str]) -> str | None:
    given: dict[str, Any] = {}
    for name, value in _pairs(arguments):
        given[name] = [*given.get(name, []), value] if name == "resource" else value
    shape = Format(given.pop("format", Format.TOKEN))
    variable, login = given.pop("variable", VARIABLE), given.pop("login", LOGIN)
    if len(several := given.get("resource", [])) == 1:
        (given["resource"],) = several
    if given.pop("no_resource", False):
        given["resource"] = False
    where: dict[str, Any] = {name: Path(given.pop(name)) for name in _FILES if name in given}
    if not all(_can_be_read_again(where.get(name) or os.environ.get(PREFIX + name.upper())) for name in _FILES):
        return None
    settings = Options(given, profile=given.pop("profile", None), **where).merged()
    if not settings.keys() & set(SOURCES):
        return None
    kept = fresh_token(settings, file_of(settings.get("store", "sqlite:")))
    if kept is None:
        return None
    now = datetime.now(UTC)
    token = Issued(
        kept.value,
        "Bearer",
        kept.scope,
        now + timedelta(seconds=kept.refresh_in),
        now + timedelta(seconds=kept.expires_in),
        _origins(settings) if shape is Format.NETRC else (),
    )
    return formatted(shape, token, variable=variable, login=login)


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | bool]]:
    """The options and their values. Raises `LookupError` for what is none of them."""
    rest = iter(arguments)
    for word in rest:
        option, is_joined, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option != f"--{name.replace('_', '-')}":
            raise LookupError(word)
        if name in _SWITCHES and not is_joined:
            yield name, True
            continue
        said = value if is_joined else next(rest, None)
        if name not in _VALUES or said is None:
            raise LookupError(word)
        yield name, said


def _can_be_read_again(file: Path | str | None) -> bool:
    """Whether the whole command finds what we find: not standard input, and not a pipe."""
    return not file or expanded(Path(file)).is_file()


def _origins(settings: dict[str, Any]) -> tuple[str, ...]:
    from ..protocol.urls import origins_of_token

    return origins_of_token(settings.get("mcp_url"), resources_of(settings), settings.get("insecure_hosts", ()))


def _is_written(line: bytes) -> bool:
    try:
        while line:
            line = line[os.write(1, line) :]
    except OSError:
        return False
    return True
