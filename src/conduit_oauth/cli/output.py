"""What the command line shows people: claims, discovery, errors. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import codecs
import io
import json
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ..discovery import Discovery, Finding
from ..errors import OAuthError, clean
from .inspection import Inspected

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_ERRORS = "conduit_oauth.in_ascii"
_TIMES = frozenset({"exp", "iat", "nbf", "auth_time"})

# What we say beyond ASCII, for a stream that lacks it.
_IN_ASCII = {"✓": "+", "✗": "x", "→": "->", "…": "..."}


class OutputError(OAuthError):
    """What was asked for cannot be written."""

    def __init__(self, where: str, error: OSError) -> None:
        super().__init__(f"{where}: {error.strerror or error}")


class _Stdout(io.FileIO):
    """Fails once. What is still buffered then is dropped, or the end of the process would fail over it again."""

    _failed = False

    def write(self, data: Buffer) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._failed = True
            raise OutputError("standard output", error) from None
        except KeyboardInterrupt:  # what is left would wait for the same reader
            self._failed = True
            raise


def prepare_streams() -> None:
    """Have what is printed shown in any encoding, and what cannot be printed end in an `OutputError`.

    A stream of a narrow code page (a pipe on Windows, an ASCII locale) shows what it lacks in ASCII.
    """
    codecs.register_error(_ERRORS, _in_ascii)
    before, stderr = sys.stdout, cast("object", sys.stderr)
    if isinstance(stderr, io.TextIOWrapper):
        stderr.reconfigure(errors=_ERRORS)
    if before is None:  # pyright: ignore[reportUnnecessaryComparison] - it was closed by whoever started us
        raise OutputError("standard output", OSError("is closed"))
    raw = _Stdout(before.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), before.encoding, _ERRORS, line_buffering=before.isatty(), write_through=False
    )


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(each) or ascii(each)[1:-1] for each in lacking), error.end


def plain(text: str) -> None:
    """Print `text` alone: unwrapped and without a colour, for a program to read."""
    out.out(text)


@contextmanager
def busy(what: str) -> Generator[None]:
    """Say what is being waited for, to a person who has waited for a second."""
    status = err.status(Text(clean(what)))
    timer = threading.Timer(1.0, status.start)
    if err.is_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        status.stop()


def claims_table(inspected: Inspected, now: datetime) -> Table:
    """What a token says, for a human, times spelt out."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in {**{f"header {k}": v for k, v in inspected.header.items()}, **inspected.claims}.items():
        shown = _moment(value, now) if name in _TIMES else value if isinstance(value, str) else json.dumps(value)
        # A token is anybody's text: no markup and no terminal codes of its making.
        table.add_row(Text(clean(name)), Text(clean(shown)))
    return table


def expiry_line(claims: dict[str, Any], now: datetime) -> str:
    """Whether the token lives, in a sentence."""
    if "exp" not in claims:
        return "It does not say when it expires."
    left = float(claims["exp"]) - now.timestamp()
    return f"[green]It expires in {span(left)}.[/]" if left > 0 else f"[red]It expired {span(-left)} ago.[/]"


def discovery_tree(url: str, findings: list[Finding], found: Discovery | None) -> Tree:
    """Every location that was asked, in order, and what follows from them; `found` is None where they lead nowhere."""
    tree = Tree(f"[bold]{escape(url)}[/]")
    for finding in findings:
        colour = "green" if finding.outcome == "found" else "yellow"
        tree.add(f"{finding.step}\n{escape(finding.url)}\n[{colour}]{escape(finding.outcome)}[/]")
    if found is not None:
        node = tree.add(f"[bold]token endpoint[/] {escape(found.token_endpoint)}")
        server = found.server
        published: Mapping[str, str] = server.endpoints if server else {}
        for name, value in (
            ("issuer", found.issuer),
            ("client authentication", ", ".join(server.auth_methods["token_endpoint"]) if server else ""),
            ("scope", found.scope or " ".join(server.scopes if server else ())),
            ("introspection endpoint", published.get("introspection_endpoint")),
            ("revocation endpoint", published.get("revocation_endpoint")),
            ("JWKS", published.get("jwks_uri")),
        ):
            node.add(f"{name}: {escape(clean(value or 'not published'))}")
    return tree


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "less than a second"


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
