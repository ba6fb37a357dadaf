"""The file of the SQLite store: how it and its key are made, and whether it is one.

Invariant: A file has its name only when it is whole, and nobody else may read it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
from pathlib import Path

from ..places import is_planted, make_private, read_bytes
from . import StoreError
from .sqlite_rows import KEY_LENGTH, NO_SYNC, TABLE, key_file

_APPLICATION_ID = 0x434F4175  # "COAu": whose file this is
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    key TEXT PRIMARY KEY, value BLOB, fence INTEGER NOT NULL, expires REAL NOT NULL, owner TEXT NOT NULL,
    lease INTEGER NOT NULL, lease_until REAL NOT NULL, last INTEGER NOT NULL, floor INTEGER NOT NULL,
    generation TEXT NOT NULL, touched REAL NOT NULL, void TEXT NOT NULL, elapsed REAL NOT NULL, boot TEXT NOT NULL
) WITHOUT ROWID;
"""
# What the release before had: it sets aside a file without them.
_SCHEMA_1 = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value BLOB, fence INTEGER NOT NULL, expires REAL NOT NULL, lease INTEGER NOT NULL,
    lease_until REAL NOT NULL, last INTEGER NOT NULL, floor INTEGER NOT NULL, changed REAL NOT NULL,
    elapsed REAL NOT NULL, boot TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def create(path: Path) -> None:
    """Make the file whole before it has its name: nobody ever opens a half-made one, or one that others may read."""
    make_private(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # 0600
    os.close(descriptor)
    draft = Path(name)
    try:
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.executescript(
                f"{NO_SYNC}; PRAGMA journal_mode = WAL; {_SCHEMA_1} {_SCHEMA}PRAGMA application_id = {_APPLICATION_ID};"
            )
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def key_beside(path: Path, new: bytes | None = None) -> bytes:
    """The random key of the store at `path`, made where there is none (or `new`). Raises `StoreError`."""
    file = key_file(path)
    try:
        make_private(path.parent)
        if not file.exists():
            descriptor, name = tempfile.mkstemp(prefix=f"{file.name}.", dir=path.parent)  # 0600
            with os.fdopen(descriptor, "wb") as draft:
                draft.write(new or secrets.token_bytes(KEY_LENGTH))
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(name)
            Path(name).unlink()
        key = read_bytes(file, KEY_LENGTH + 1)
    except OSError as error:
        raise StoreError(f"{file}: {error}") from None
    if is_planted(file):
        # Who knows the key can guess secrets by the names in the file.
        raise StoreError(f"{file} may be another user's: everybody can write to a folder above. Choose another folder")
    if len(key) != KEY_LENGTH:
        raise StoreError(f"{file} is no key: remove it")
    return key


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of this release. Raises `sqlite3.DatabaseError` where the file is not ours."""
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    if identity != _APPLICATION_ID:
        raise sqlite3.DatabaseError("file is not a token store")
    connection.execute(NO_SYNC)
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (TABLE,)).fetchone():
        connection.execute(_SCHEMA)


def is_broken(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is of no use, rather than busy, full or out of reach."""
    code = getattr(error, "sqlite_errorcode", None)
    # Our own complaint has no code; else a corrupt file, or none of SQLite's.
    return type(error) is sqlite3.DatabaseError and code in (None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
