"""How the command line shows anything. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from ..masking import clean

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def quieten(quiet: bool) -> None:
    """Print nothing to stderr, or print again."""
    err.quiet = quiet


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


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "less than a second"
