"""What an agent writes, kept in the user's cache: the next one removes what the file names no more, a second is told.

Invariant: It contains places and commands, and no token. Without a cache the agent works, and forgets them when it
ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigurationError
from ..identity.sources import read_file
from ..places import cache_folder, make_private
from .config import Output
from .outputs import write

logger = logging.getLogger("conduit_oauth.agent")

# Outputs by their slots, each with its provider.
Entries = dict[str, tuple[Output, str]]
# In characters: a hundred thousand outputs.
_LONGEST = 1 << 26


class Ledger:
    """The outputs of the agent whose configuration is at `config`."""

    def __init__(self, config: Path) -> None:
        folder = _folder()
        digest = hashlib.sha256(os.fsencode(config.absolute())).hexdigest()[:16]
        self._file = None if folder is None else folder / f"agent-{digest}.json"
        self._kept: str | None = None

    def read(self) -> Entries:
        """What the agent before had written; nothing where that cannot be told."""
        try:
            said: dict[str, Any] = json.loads(read_file(self._file, _LONGEST)) if self._file is not None else {}
            return {slot: (_output(facts), str(facts["name"])) for slot, facts in said.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def keep(self, entries: Entries) -> None:
        """Remember these, and no others."""
        text = json.dumps({slot: {"name": name, **_facts(output)} for slot, (output, name) in entries.items()})
        if self._file is None or text == self._kept:
            return
        try:
            write(self._file, text.encode(), Output("*", file=self._file))
            self._kept = text
        except OSError as error:
            logger.warning("ledger_failed file=%s: %s", self._file, error)


class Claims:
    """Which outputs this agent writes: a second agent of the user is told. A byte of a file stands for each output."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._descriptor: int | None = None

    def hold(self, slot: str) -> None:
        """Claim an output. Raises `OSError` where another agent has it."""
        if slot in self._held or (folder := _folder()) is None:
            return
        if self._descriptor is None:
            make_private(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._descriptor = os.open(folder / "agent.lock", flags, 0o600)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place_of(slot))
        except (BlockingIOError, PermissionError):
            raise OSError(errno.EBUSY, "another agent has this output", slot) from None
        self._held.add(slot)

    def let_go(self, slot: str) -> None:
        """Leave an output to others."""
        if slot in self._held and self._descriptor is not None:
            self._held.remove(slot)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _place_of(slot))

    def close(self) -> None:
        """Leave all of them."""
        self._held.clear()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _place_of(slot: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(slot)).digest()[:7])


def _folder() -> Path | None:
    try:
        return cache_folder("cache", "")
    except ConfigurationError:
        return None


def _facts(output: Output) -> dict[str, object]:
    return {
        "file": output.file and str(output.file),
        "directory": output.directory and str(output.directory),
        "mode": output.mode,
        "uid": output.uid,
        "gid": output.gid,
        "command": output.command,
    }


def _output(facts: Mapping[str, Any]) -> Output:
    file, directory = (Path(facts[kind]) if facts[kind] else None for kind in ("file", "directory"))
    mode, uid, gid = (int(facts[name]) for name in ("mode", "uid", "gid"))
    command = tuple(str(each) for each in cast("list[object]", facts["command"]))
    return Output("*", file=file, directory=directory, mode=mode, uid=uid, gid=gid, command=command)
