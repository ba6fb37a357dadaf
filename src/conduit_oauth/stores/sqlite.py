"""The store of one machine: a SQLite file that several processes share (WAL, 0600).

Invariants: A process may be killed at any point. A file that is corrupt or not ours is renamed and logged. It is
never repaired and never deleted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..clock import elapsed
from ..places import is_device
from ..runtime.landing import Flag
from ..runtime.process import Rank, Resident, enter
from . import Entry, Known, News, StoreError
from .row import Row
from .sqlite_file import create, is_broken, key_beside, prepare
from .sqlite_rows import COLUMNS, TABLE, connect, current_boot, file_of, load, read_void

T = TypeVar("T")

_TIDY = f"DELETE FROM {TABLE} WHERE max(expires, lease_until, touched) < ?"  # noqa: S608 - constants
_SAVE = f"INSERT OR REPLACE INTO {TABLE} (key, {COLUMNS}, void, elapsed, boot) VALUES (?{', ?' * 13})"  # noqa: S608
_CHANGED = f"SELECT key, floor, generation, void FROM {TABLE} WHERE touched >= ?"  # noqa: S608
# Seconds to try for the file's lock before looking whether it is still wanted.
_GLIMPSE = 0.003
# How long a row is kept after its last word, so that processes that were asleep still hear of it.
_KEEP = 3600.0

logger = logging.getLogger("conduit_oauth")


class SqliteStore(Resident):
    """A `TokenStore` in the file at `path`; an operation waits `timeout` seconds for other processes at most."""

    # Nothing tells a process of another's commit: who waits looks again. A look is a read of some 20 µs.
    poll = 0.012

    def __init__(self, path: Path, timeout: float = 0.05) -> None:
        self.path = path
        self._timeout = timeout
        self._boot = current_boot()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._data_version = -1
        self._heard_until = time.time()
        self._closed = Flag()
        self._pepper: bytes | None = None
        enter(self, Rank.STORE)

    @classmethod
    def from_url(cls, url: str, timeout: float) -> SqliteStore:
        """The store of `sqlite:///path`, or of `sqlite:` in the platform's cache directory."""
        return cls(file_of(url), timeout)

    def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
        """See `TokenStore.claim`."""

        def look(connection: sqlite3.Connection) -> Entry | None:
            row, now = load(connection, key, self._boot), time.time()
            entry = row.look(known, now)
            is_all = entry.value is not None or lease <= 0
            return entry if is_all or (entry.generation and not row.is_free_for(owner, now)) else None

        # Most find a token or a leader: only who may lead takes the lock of the file, and looks again if it is taken.
        give_up_at = time.monotonic() + self._timeout
        late = False
        while (entry := self._run(look)) is None:
            if late:
                raise StoreError("busy")
            try:
                fresh = secrets.token_hex(8)
                return self._change(key, lambda row: row.claim(known, owner, lease, time.time(), fresh), _GLIMPSE)  # noqa: B023
            except StoreError:
                # Whoever had the lock may have taken the lease: a process that was slow looks once more.
                late = time.monotonic() > give_up_at
        return entry

    def write(self, key: str, value: bytes, fence: int, expires: float, generation: str) -> bool:
        """See `TokenStore.write`."""
        written = self._change(key, lambda row: row.write(value, fence, expires, generation, time.time()))
        said_last = time.time() - _KEEP
        self._run(lambda it: it.execute(_TIDY, (said_last,)))
        return written

    def renew(self, key: str, owner: str, lease: float) -> None:
        """See `TokenStore.renew`."""
        self._change(key, lambda row: row.renew(owner, lease, time.time()))

    def release(self, key: str, owner: str) -> None:
        """See `TokenStore.release`."""
        self._change(key, lambda row: row.release(owner))

    def forget(self, key: str, fence: int | None, generation: str, void: Mapping[str, float]) -> Entry:
        """See `TokenStore.forget`."""
        fresh = secrets.token_hex(8)
        return self._change(key, lambda row: row.forget(fence, generation, void, time.time(), fresh))

    @property
    def pepper(self) -> bytes:
        """What only who may read this folder knows, so that names in the file tell nothing of a secret."""
        if self._pepper is None:
            self._pepper = key_beside(self.path)
        return self._pepper

    def clocks(self) -> Mapping[str, float]:
        """See `TokenStore.clocks`."""
        self._run(lambda connection: connection.execute("PRAGMA schema_version").fetchone())
        return {"": time.time()}

    def listen(self, seconds: float) -> Sequence[News]:
        """See `TokenStore.listen`; looks once, after `seconds`."""
        self._closed.wait(seconds)

        def news(connection: sqlite3.Connection) -> Sequence[News]:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version == self._data_version:
                return []
            is_first, self._data_version = self._data_version < 0, version
            now = time.time()
            # A little of what was heard before is heard again: commits are not in the order of the clock.
            since, self._heard_until = min(self._heard_until, now) - 2.0, now
            changed = [
                (key, Entry(floor=floor, generation=generation, void=frozenset(read_void(void, now)), now=now))
                for key, floor, generation, void in connection.execute(_CHANGED, (since,))
                # Nobody of ours wrote anything else.
                if (type(key), type(floor), type(generation), type(void)) == (str, int, str, str)
            ]
            # A file that was opened anew may be another one: what came before was not heard.
            return [("", Entry()), *changed] if is_first else changed

        return self._run(news)

    def before_fork(self) -> None:
        """Close the connection: SQLite would take a parent's locks for the child's own, and neither could mend that."""
        self._lock.acquire()
        self._drop()

    def after_fork_in_parent(self) -> None:
        """Go on; the next operation opens the file again."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """See `TokenStore.after_fork_in_child`; the connection was closed before."""
        self._lock = threading.Lock()
        self._closed = Flag()

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        with self._lock:
            self._drop()

    def _change(self, key: str, change: Callable[[Row], T], patience: float | None = None) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            with _immediate(connection):
                row = load(connection, key, self._boot)
                result = change(row)
                self._save(connection, key, row)
                return result

        return self._run(transaction, patience)

    def _run(self, work: Callable[[sqlite3.Connection], T], patience: float | None = None) -> T:
        if not self._lock.acquire(timeout=self._timeout):
            raise StoreError("busy")
        try:
            if self._closed.is_set():
                raise StoreError("closed")
            try:
                connection = self._opened()
                if patience is not None:
                    connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
                result = work(connection)
            except sqlite3.DatabaseError as error:
                if not is_broken(error):
                    raise
                self._drop()
                self._set_aside(str(error))
                result = work(self._opened())
            return result
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                self._drop()
            raise StoreError(f"{self.path}: {error}") from None
        finally:
            if patience is not None and self._connection is not None:
                self._connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
            self._lock.release()

    def _save(self, connection: sqlite3.Connection, key: str, row: Row) -> None:
        until = elapsed() + row.expires - time.time()
        known = (row.value, row.fence, row.expires, row.owner, row.lease, row.lease_until, row.last, row.floor)
        connection.execute(_SAVE, (key, *known, row.generation, row.touched, json.dumps(row.void), until, self._boot))

    def _opened(self) -> sqlite3.Connection:
        """The connection, made anew where the file is not the one that was opened."""
        if self._connection is not None and self._identity() != self._file:
            self._drop()
        if self._connection is None:
            if not self.path.exists():
                create(self.path)
                if self._pepper is not None:
                    # Whoever removed the file may have removed its key.
                    key_beside(self.path, self._pepper)
            self._file = self._identity()
            connection = connect(self.path, self._timeout)
            try:
                prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _set_aside(self, problem: str) -> None:
        # Another process may have done so already, and what is there now is good. A device is not ours to move.
        if self._identity() != self._file or is_device(self.path):
            return
        aside = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
        with contextlib.suppress(OSError):
            self.path.rename(aside)
            for companion in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + companion).rename(aside.with_name(aside.name + companion))
            logger.warning("store_set_aside path=%s aside=%s: %s", self.path, aside.name, problem)

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
            self._data_version = -1


@contextlib.contextmanager
def _immediate(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
