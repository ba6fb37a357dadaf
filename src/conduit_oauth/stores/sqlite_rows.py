"""How a row lies in the file of the SQLite store, for the store and for who only reads there."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from urllib.parse import unquote

from ..clock import elapsed
from ..errors import ConfigurationError
from ..places import cache_folder
from . import split
from .row import LONGEST_VALUE, Row

# Each release has the tables of its own format, so that an old one and a new one use one file side by side.
TABLE = "entries_2"
COLUMNS = "value, fence, expires, owner, lease, lease_until, last, floor, generation, touched"
_LOAD = f"SELECT {COLUMNS}, void, elapsed, boot FROM {TABLE} WHERE key = ?"  # noqa: S608
_NUMBER = (int, float)
_KINDS = ((bytes, type(None)), int, _NUMBER, str, int, _NUMBER, int, int, str, _NUMBER, str, _NUMBER, str)
# In bytes.
KEY_LENGTH = 32
# Nobody waits for a disk that is busy: what is here can be had again. A crash of the machine may cost the file, and the
# next process sets aside what is left of it.
NO_SYNC = "PRAGMA synchronous = OFF"


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    """A connection to a file that is there, which takes no value that is longer than any of ours."""
    # SQLite would make a file that others may read, and that is none of ours.
    existing = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(existing, timeout=timeout, isolation_level=None, check_same_thread=False, uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    return connection


def load(connection: sqlite3.Connection, key: str, boot: str) -> Row:
    """The row of `key`; an empty one where there is none. `boot` is what `current_boot` says."""
    try:
        found = connection.execute(_LOAD, (key,)).fetchone()
    except sqlite3.DataError:  # longer than anything of ours
        found = None
    if found is None or not all(map(isinstance, found, _KINDS)):
        # Nobody of ours wrote anything else: what is there is not read.
        return Row()
    *values, void, until, written_in = found
    now = time.time()
    row = Row(*values, void=read_void(void, now))
    if written_in == boot and boot and now + until - elapsed() < row.expires - 1.0:
        # The wall clock was set back since: what is there looks younger than it is.
        row.value = None
    return row


def read_void(text: str, now: float) -> dict[str, float]:
    """The digests of invalidated tokens that a row remembers, and their ends."""
    try:
        return {str(digest): float(end) for digest, end in json.loads(text).items() if end > now}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def file_of(url: str) -> Path:
    """The file of `sqlite:///path`, or of `sqlite:` in the platform's cache directory. Raises `ConfigurationError`."""
    parts = split(url)
    if parts.scheme.lower() != "sqlite" or parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError("store", "is no sqlite URL", "Write sqlite:///absolute/path, or sqlite:.")
    if parts.path in ("", "/"):
        return cache_folder("store", "Set HOME, or write sqlite:///path.") / "tokens.sqlite3"
    path = unquote(parts.path)
    if "\0" in path:
        raise ConfigurationError("store", "names a file with a NUL in its name", "Name another.")
    # Four slashes, as SQLAlchemy has it, name an absolute path, too.
    return Path("/" + path.lstrip("/") if path.startswith("/") else path)


def key_file(path: Path) -> Path:
    """Where the random key of the store at `path` is."""
    return path.with_name(path.name + ".key")


def current_boot() -> str:
    """What tells this start of the machine from another: `elapsed` readings compare within one only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
