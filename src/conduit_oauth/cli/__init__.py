"""The command line `conduit-oauth`, for people and shell scripts. Needs the extra `cli`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    # A descriptor that was closed would become that of a connection, and what is printed would go there.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.exit(0 if sys.argv[1:2] == ["token"] and _is_warm() else _run())


def _is_warm() -> bool:
    """Whether the token was in the cache, and is printed. Without the framework of the commands, it takes 50 ms."""
    try:
        from .warm import is_served

        return is_served(sys.argv[2:])
    except ModuleNotFoundError:
        return False
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> int:
    try:
        from .app import run
    except ModuleNotFoundError as missing:
        sys.exit(f"conduit-oauth: {missing.name} is not installed. Install conduit-oauth[cli].")
    return run()
