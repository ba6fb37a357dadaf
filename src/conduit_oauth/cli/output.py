"""How the command line shows anything. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from ..masking import clean

# Without markup: paths and answers of servers may hold what looks like it.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def quieten(quiet: bool) -> None:
    """Print nothing to stderr, or print again."""
    err.quiet = quiet


def plain(text: str) -> None:
    """Print `text` alone: unwrapped and without a colour, for a program to read."""
    out.out(text)


@contextmanager
def busy(what: str, progress: Callable[[], str] = str) -> Generator[None]:
    """Say what is being waited for, to a person who has waited for a second; `progress` says more of it."""
    over = threading.Event()

    def show() -> None:
        if over.wait(1.0):
            return
        with err.status("") as status:
            while True:
                status.update(Text(clean(": ".join(filter(None, (what, progress()))))))
                if over.wait(0.2):
                    return

    shown = threading.Thread(target=show, daemon=True)
    if err.is_terminal:
        shown.start()
    try:
        yield
    finally:
        over.set()
        if shown.is_alive():
            shown.join()


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "less than a second"
