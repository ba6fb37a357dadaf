"""The standard streams of a command: what is printed there is shown in any encoding, or ends in an `OutputError`."""

from __future__ import annotations

import codecs
import io
import sys
from typing import TYPE_CHECKING, cast

from ..errors import OAuthError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

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
