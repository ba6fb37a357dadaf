"""The command line `conduit-oauth`, for people and shell scripts. Needs the extra `cli`."""

from __future__ import annotations

import os
import sys

_HELP = frozenset({"-h", "--help"})


def main() -> None:
    """Run the command line and exit with its status."""
    # A descriptor that was closed would become that of a connection, and what is printed would go there.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # There is nothing to be read, and nobody to be told. What has no stdout is told so (`prepare_streams`).
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # The HTTP client imports it where it is installed, in 40 ms and 5 MiB, for event loops that no command has.
    sys.modules.setdefault("trio", None)  # pyright: ignore[reportArgumentType]
    status = _without_framework(sys.argv[1:])
    sys.exit(_run() if status is None else status)


def _without_framework(words: list[str]) -> int | None:
    """The exit status of a command that need not wait for the framework of the commands; None where it has to."""
    if words[:1] not in (["token"], ["bridge"]) or not _HELP.isdisjoint(words):
        return None
    try:
        from ..errors import OAuthError
        from .arguments import Unusual

        try:
            if words[0] == "token":
                from .quick import print_token as command
            else:
                from .stdio import bridge_stdio as command
            command(words[1:])
        except Unusual:
            return None
        except OAuthError as error:
            from .app import complain

            return complain(error)
    except ModuleNotFoundError:
        return None
    except KeyboardInterrupt:
        return 130
    return 0


def _run() -> int:
    import signal

    interrupts: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            from .app import run
        except ModuleNotFoundError as missing:
            sys.exit(f"conduit-oauth: {missing.name} is not installed. Install conduit-oauth[cli].")
        return run()
    except (Exception, KeyboardInterrupt):
        # A module that is imported when it comes may make another error of it.
        if not interrupts:
            raise
        return 130
