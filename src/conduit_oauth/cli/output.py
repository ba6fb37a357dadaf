"""How the command line shows anything. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import codecs
import io
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.text import Text

from ..errors import OAuthError
from ..masking import clean

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_ERRORS = "conduit_oauth.in_ascii"

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
