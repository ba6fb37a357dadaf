"""The command that shows what a token says."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError
from ..masking import clean
from .exits import InvalidTokenError
from .inspection import Inspected, has_ended, read_jwt, verify_jwt
from .options import as_client
from .output import busy, out, plain, span
from .profile import Options

_TIMES = frozenset({"exp", "iat", "nbf", "auth_time"})
# In characters: tokens with certificates in their headers are large.
_LONGEST = 1 << 20
# No Unix time.
_FAR = 1e12


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
    if str(token_file) == "-":
        options.leave_stdin("the token is read from")
    try:
        with nullcontext(sys.stdin) if str(token_file) == "-" else token_file.open(encoding="utf-8-sig") as file:
            token = file.read(_LONGEST + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        # Without the name: it is often the token itself that is given in its place.
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "Name a file that holds a token, or pipe one to this command."
        raise ConfigurationError("token_file", f"cannot be read ({reason})", advice) from None
    if len(token) > _LONGEST:
        raise ConfigurationError("token", f"is longer than {_LONGEST} characters", "Name a file that holds a token.")
    if not token:
        raise ConfigurationError("token", "is empty", "Name a file that holds a token, or pipe one to this command.")
    inspected = read_jwt(token)
    if inspected is None:
        with options.provider() as provider, busy("Asking its server"):
            inspected = Inspected("opaque token, as its server says", {}, provider.introspect(token), verified=True)
    elif verify:
        try:
            with busy("Asking for the issuer's keys"):
                inspected = verify_jwt(token, inspected, options.merged())
        except InvalidTokenError:
            if as_json:
                _show(inspected, datetime.now(UTC), as_json=True)
            raise
    now = datetime.now(UTC)
    _show(inspected, now, as_json=as_json)
    if (verify and has_ended(inspected, now)) or inspected.claims.get("active") is False:
        raise typer.Exit(5)


def _show(inspected: Inspected, now: datetime, *, as_json: bool) -> None:
    if as_json:
        said = {
            "source": inspected.source,
            "verified": inspected.verified,
            # Nobody knows it of a token that nobody verified.
            "active": False if has_ended(inspected, now) else inspected.verified or None,
            "expires_in": None if (left := _left(inspected.claims, now)) is None else int(left),
            "header": inspected.header,
            "claims": inspected.claims,
        }
        plain(json.dumps(said, indent=2))
        return
    out.print(Text(clean(inspected.source), style="bold"), soft_wrap=True)
    out.print(_claims_table(inspected, now))
    out.print(_expiry_line(inspected.claims, now))


def _claims_table(inspected: Inspected, now: datetime) -> Table:
    """What a token says, for a human, times spelt out."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in {**{f"header {k}": v for k, v in inspected.header.items()}, **inspected.claims}.items():
        shown = _moment(value, now) if name in _TIMES else value if isinstance(value, str) else json.dumps(value)
        # A token is anybody's text: no markup and no terminal codes of its making.
        table.add_row(Text(clean(name)), Text(clean(shown)))
    return table


def _expiry_line(claims: dict[str, Any], now: datetime) -> Text:
    """Whether the token lives, in a sentence."""
    if (left := _left(claims, now)) is None:
        return Text("It does not say when it expires.")
    if left > 0:
        return Text(f"It expires in {span(left)}.", style="green")
    return Text(f"It expired {span(-left)} ago.", style="red")


def _left(claims: dict[str, Any], now: datetime) -> float | None:
    """The seconds until the token expires, where it says that."""
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not abs(expires) < _FAR:
        return None
    return expires - now.timestamp()


def _moment(value: Any, now: datetime) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    try:
        moment = datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return str(value)
    away = moment - now
    relative = f"in {span(away.total_seconds())}" if away > timedelta() else f"{span(-away.total_seconds())} ago"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({relative})"
