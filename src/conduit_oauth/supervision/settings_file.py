"""A file of settings that is followed: read anew when it changed, and when nobody writes to it any more."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..places import version_of
from ..settings import Reader, Settings, from_file

# Seconds between two looks at the file.
WATCH = 1.0
# Seconds for which nobody has written to the file before it is read anew.
_QUIET = 0.1


class SettingsFile:
    """The file at `path`; `defaults` and `readers` are those of `TokenProviders`."""

    def __init__(self, path: Path, defaults: Mapping[str, Any], readers: Mapping[str, Reader]) -> None:
        self.path = path
        self._defaults = defaults
        self._readers = readers
        # What was read, and what was seen last.
        self._read = self._seen = version_of(self.path)
        # How often reading began, and which of these was the latest that was put to use.
        self._turns = itertools.count()
        self._used = -1

    def is_newest(self, turn: int) -> bool:
        """Whether what was read is to be put to use: what another thread began to read later may be in use already."""
        self._used = max(self._used, turn)
        return self._used == turn

    def read(self) -> tuple[int, dict[str, Settings], dict[str, Any]]:
        """Which reading this is, the settings of each provider, and what the readers made.

        Raises `ConfigurationError`.
        """
        turn, version = next(self._turns), version_of(self.path)
        settings, tables = from_file(self.path, self._defaults, self._readers)
        self._read = version
        return turn, settings, tables

    def wait_for_writer(self) -> None:
        """Let whoever writes the file in place come to an end."""
        give_up_at = time.monotonic() + WATCH
        while (version := version_of(self.path)) is not None and time.monotonic() < give_up_at:
            if not 0.0 <= (age := time.time() - version[0] / 1e9) < _QUIET:
                return
            time.sleep(_QUIET - age)

    def has_changed(self) -> bool:
        """Whether it is there, and another one than was read or passed over."""
        self._seen = version_of(self.path)
        return self._seen not in (None, self._read)

    def pass_over(self) -> None:
        """Take what was seen last for read."""
        self._read = self._seen
