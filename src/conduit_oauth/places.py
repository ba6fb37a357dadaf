"""Where a user's files are: containers run as users without a home."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import ConfigurationError


def expanded(path: Path) -> Path:
    """`path` with `~` put in; as it is where there is no home, for whoever opens it to say that it is not there."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def platform_folder(find: Callable[[str], Path], field: str, advice: str) -> Path:
    """The folder of ours that `find`, of platformdirs, names. Raises `ConfigurationError` where there is no home."""
    with suppress(RuntimeError):
        # Before 4.12, platformdirs names a folder `~` in the working directory instead.
        if (folder := find("conduit-oauth")).parts[0] != "~":
            return folder
    problem = "has no default place: HOME is not set, and this user has no home directory"
    raise ConfigurationError(field, problem, advice)


def default_store() -> str:
    """The store of commands that were not told of one; none where there is no home."""
    import platformdirs

    try:
        platform_folder(platformdirs.user_cache_path, "store", "")
    except ConfigurationError:
        return "memory:"
    return "sqlite:"
