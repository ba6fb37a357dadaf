"""The file of profiles as it is edited: what stands in it otherwise stays, and who may read it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ..errors import ConfigurationError
from ..places import is_device, is_there, make_private
from ..settings import read_toml, table_of


def read_document(path: Path) -> tomlkit.TOMLDocument:
    """The document of a file, an empty one where there is no file. Raises `ConfigurationError`."""
    document = read_toml(path, "config", _editable) if is_there(path) else tomlkit.document()
    profiles = table_of(cast("dict[str, Any]", document).get("profiles", {}), "profiles")
    for name, said in profiles.items():
        table_of(said, f"profiles.{name}")
    return document


def _editable(text: str) -> tomlkit.TOMLDocument:
    # It says better what is wrong, and always by a `ValueError`.
    tomllib.loads(text)
    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise ValueError(error) from None


def check_that_it_can_be_saved(path: Path) -> None:
    """Raise `ConfigurationError` where `save_document` would, as far as that can be told before."""
    folder = next(each for each in Path(os.path.realpath(path)).parents if is_there(each))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError("config", f"{path}: {folder} cannot be written", "Choose another --config.")


def save_document(path: Path, document: tomlkit.TOMLDocument) -> None:
    """Put it into the file in one step. Raises `ConfigurationError`."""
    try:
        # Where it is a link, the file that it leads to is the one that is edited.
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, "is a loop of links")
        if is_device(target):
            raise OSError(errno.EINVAL, "is a device")
        make_private(target.parent)
        before = target.stat() if is_there(target) else None
        # Made anew, under a name that nobody can guess and lay a link at.
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        draft = Path(name)
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                if before is not None:
                    # Who could read it goes on: its owner, where root edits it, and its group.
                    with contextlib.suppress(PermissionError):
                        os.fchown(number, before.st_uid, before.st_gid)
                    os.fchmod(number, stat.S_IMODE(before.st_mode))
                file.write(tomlkit.dumps(document))
            draft.replace(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError("config", f"{path}: {error.strerror}", "Choose another --config.") from None
