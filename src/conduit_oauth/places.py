"""Where a user's files are: containers run as users without a home."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import ConfigurationError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expanded(path: Path) -> Path:
    """`path` with `~` put in; as it is where there is no home, for whoever opens it to say that it is not there."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def path_in_file(text: str, folder: Path, field: str) -> Path:
    """The path that a file of settings in `folder` names, with `${NAME}` and `~` put in.

    Raises `ConfigurationError` for a variable that is not set (systemd sets CREDENTIALS_DIRECTORY).
    """

    def value(found: re.Match[str]) -> str:
        if (said := os.environ.get(found[1])) is None:
            raise ConfigurationError(field, f"names the variable {found[1]}, which is not set", "Set it.")
        return said

    return folder / expanded(Path(_VARIABLE.sub(value, text)))


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
