"""The command line `conduit-oauth`, for people and shell scripts. Needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from .app import run
    except ModuleNotFoundError as missing:
        sys.exit(f"conduit-oauth: {missing.name} is not installed. Install conduit-oauth[cli].")
    sys.exit(run())
