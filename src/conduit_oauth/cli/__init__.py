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
    try:
        from .app import run
    except ModuleNotFoundError as missing:
        sys.exit(f"conduit-oauth: {missing.name} is not installed. Install conduit-oauth[cli].")
    sys.exit(run())
