"""`conduit-oauth cache clear`: removes the tokens that the commands keep."""

from __future__ import annotations

import typer

from ..errors import ConfigurationError
from ..places import cache_folder
from .output import err

cache = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The tokens that the commands keep in the platform's cache folder.",
)


@cache.callback()
def _group() -> None:
    """Keep `clear` a command of a group."""


@cache.command("clear")
def clear() -> None:
    """Remove every token from the cache of this user. The next command gets a new one.

    The agent and other programs that use the cache go on with the tokens that they hold.

    \b
    conduit-oauth cache clear
    """
    folder = cache_folder("cache", "Set HOME.")
    try:
        for file in folder.iterdir():
            # The key beside them is no token, and other processes hold what it seals.
            if file.name.startswith("tokens.sqlite3") and file.suffix != ".key":
                file.unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        pass  # nothing was ever kept there
    except OSError as error:
        raise ConfigurationError("cache", f"{folder}: {error.strerror}", "Run it as the user of the cache.") from None
    err.print(f"The cache in {folder} is empty.", soft_wrap=True)
