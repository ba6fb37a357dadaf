"""Where a user's files are, and what is in them: containers run as users without a home, and a file may be a pipe."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from .errors import ConfigurationError

TYPE_CHECKING = False  # typing's is slow to import
if TYPE_CHECKING:
    from io import FileIO

# Seconds for what a pipe or a device gives.
_PATIENCE = 5.0
_CHUNK = 1 << 16
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expanded(path: Path) -> Path:
    """`path` with `~` put in; as it is where there is no home, for whoever opens it to say that it is not there."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_there(path: Path) -> bool:
    """Whether this user can come to something at `path`. `Path.exists` raises where it cannot be told."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Whether this user can come to a file at `path`. `Path.is_file` raises where it cannot be told."""
    return os.path.isfile(path)  # noqa: PTH113


def version_of(path: Path) -> tuple[int, int, int] | None:
    """Changes when a file does; None where there is none."""
    try:
        status = expanded(path).stat()
    except (OSError, ValueError):  # a path with a NUL
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def is_device(path: str | Path, folder: int | None = None) -> bool:
    """Whether a device such as /dev/null is at `path`, which starts in the open directory `folder`."""
    try:
        mode = os.stat(path, dir_fd=folder).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def read_bytes(path: Path, longest: int) -> bytes:
    """What is in a file, `longest` bytes at most. Raises `OSError`, also for a pipe that does not end within 5 s."""
    # Or a pipe without a writer would be waited for before it can be told from a file.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(expanded(path), "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as file:
        content = _read_until_end(file, longest + 1)
    if len(content) > longest:
        raise OSError(errno.EFBIG, f"has more than {longest} bytes", str(path))
    return content


def _read_until_end(file: FileIO, most: int) -> bytes:
    kind = os.fstat(file.fileno()).st_mode
    # A file ends, however slow its disk is.
    give_up_at = math.inf if stat.S_ISREG(kind) else time.monotonic() + _PATIENCE
    content = bytearray()
    while len(content) < most:
        chunk = file.read(min(most - len(content), _CHUNK))
        if chunk:
            content += chunk
        # A pipe whose writer has not come yet ends at once, too.
        elif chunk is not None and (content or not stat.S_ISFIFO(kind)):
            break
        elif time.monotonic() < give_up_at:
            time.sleep(0.01)
        if time.monotonic() >= give_up_at:
            raise OSError(errno.ETIMEDOUT, f"did not end within {_PATIENCE:g} s", str(file.name))
    return bytes(content)


def make_private(folder: Path) -> None:
    """Make `folder`, and what is missing on the way to it, for this user alone. Raises `OSError`."""
    for each in reversed((folder, *folder.parents)):
        if not is_there(each):
            with suppress(FileExistsError):
                each.mkdir(0o700)


def is_planted(path: Path) -> bool:
    """Whether another user may have put there what is at `path`, or on the way to it: into a folder such as /tmp."""
    trusted = (os.geteuid(), 0) if hasattr(os, "geteuid") else (0,)  # Windows calls each owner 0
    way = path.absolute()
    for place, folder in zip((way, *way.parents), way.parents, strict=False):
        with suppress(OSError):  # not there yet
            if folder.stat().st_mode & stat.S_IWOTH and place.lstat().st_uid not in trusted:
                return True
    return False


def path_in_file(text: str, folder: Path, field: str) -> Path:
    """The path that a file of settings in `folder` names, with `${NAME}` and `~` put in.

    Raises `ConfigurationError` for a variable that is not set (systemd sets CREDENTIALS_DIRECTORY).
    """

    def value(found: re.Match[str]) -> str:
        if (said := os.environ.get(found[1])) is None:
            raise ConfigurationError(field, f"names the variable {found[1]}, which is not set", "Set it.")
        return said

    if "\0" in text:
        raise ConfigurationError(field, "has a NUL, which no path can have", "Take it out.")
    return folder / expanded(Path(_VARIABLE.sub(value, text)))


def cache_folder(field: str, advice: str) -> Path:
    """Where the platform keeps what can be made anew, for us. Raises `ConfigurationError` naming `field`."""
    return _folder("cache", "XDG_CACHE_HOME", ".cache", field, advice)


def config_folder(field: str, advice: str) -> Path:
    """Where the platform keeps settings, for us. Raises `ConfigurationError` naming `field`."""
    return _folder("config", "XDG_CONFIG_HOME", ".config", field, advice)


def state_folder(field: str, advice: str) -> Path:
    """Where the platform keeps what programs remember, for us. Raises `ConfigurationError` naming `field`."""
    return _folder("state", "XDG_STATE_HOME", ".local/state", field, advice)


def _folder(kind: str, variable: str, in_home: str, field: str, advice: str) -> Path:
    folder = _platform_folder(kind, variable, in_home)
    if folder is None:
        problem = "has no default place: HOME is not set, and this user has no home directory"
        raise ConfigurationError(field, problem, advice)
    if is_planted(folder):
        problem = f"{folder} may be another user's: everybody can write to a folder above it"
        raise ConfigurationError(field, problem, advice)
    return folder


def _platform_folder(kind: str, variable: str, in_home: str) -> Path | None:
    if sys.platform == "linux":
        # What platformdirs does there, which takes half as long to import as Python takes to start.
        base = os.environ.get(variable, "").strip() or (f"{home}/{in_home}" if (home := os.environ.get("HOME")) else "")
        if base.startswith("/"):
            return Path(base, "conduit-oauth")
    import platformdirs

    with suppress(RuntimeError):
        folder: Path = getattr(platformdirs, f"user_{kind}_path")("conduit-oauth")
        # Before 4.12, platformdirs names a folder `~` in the working directory instead.
        if folder.parts[0] != "~":
            return folder
    return None


def default_store() -> str:
    """The store of commands that were not told of one; none where there is no home."""
    try:
        cache_folder("store", "")
    except ConfigurationError:
        return "memory:"
    return "sqlite:"
