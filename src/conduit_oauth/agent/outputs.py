"""Puts a token where others read it.

Invariant: A reader finds one whole token, or nothing. A file is written under another name and renamed into its
place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator
from pathlib import Path

from ..places import is_device
from ..provider import TokenProvider
from ..serving.formats import Format, check_that_others_can_use, formatted, issued, token_type
from .config import Output

# Read as they are by programs that take every byte; the others are lines.
_UNENDED = frozenset({Format.TOKEN, Format.JSON, Format.EXEC_CREDENTIAL})
_DATA = "..data"
_DRAFT = re.compile(r"\..{1,255}\.[0-9a-f]{8}\.new")
# Seconds that nobody takes for one file.
_LONGEST_WRITE = 60.0


def put(output: Output, name: str, provider: TokenProvider, token: str) -> None:
    """Write `token` where `output` wants it. Raises `OSError`, `ConfigurationError`."""
    place = output.place(name)
    if place is None:
        return
    check_that_others_can_use(provider)
    state = provider.state()
    if output.directory is None:
        end = "" if output.format in _UNENDED else "\n"
        write(place, (formatted(output.format, issued(provider, token, state)) + end).encode(), output)
        return
    expires = state.expires_at.isoformat(timespec="seconds") if state.expires_at else ""
    facts = {"token": token, "token_type": token_type(provider), "expires_at": expires, "scope": state.granted_scope}
    _write_directory(place, {name: value.encode() for name, value in facts.items() if value}, output)


def withdraw(output: Output, name: str) -> bool:
    """Remove an expired token, so that nobody sends it; whether there was one. Needs no room on the disk.

    Raises `OSError`, `ConfigurationError`.
    """
    place = output.place(name)
    if place is None:
        return False
    if output.directory is not None:
        return place.is_dir() and _is_directory_emptied(place, output)
    if not place.parent.is_dir():
        return False
    with _folder_of(place.parent, output) as folder:
        return not is_device(place.name, folder) and _is_unlinked(place.name, folder)


def tidy(output: Output, name: str) -> None:
    """Take away the drafts that agents which were killed left beside a file. Raises as `withdraw`."""
    place = output.place(name)
    if place is None or output.directory is not None or not place.parent.is_dir():
        return
    with _folder_of(place.parent, output) as folder:
        for each in os.listdir(folder):  # noqa: PTH208 - by its descriptor
            if _DRAFT.fullmatch(each):
                age = time.time() - os.stat(each, dir_fd=folder, follow_symlinks=False).st_mtime
                if not 0 <= age < _LONGEST_WRITE:
                    _is_unlinked(each, folder)


def trace(output: Output, name: str) -> tuple[int, ...]:
    """What tells whether the output was removed or changed; empty where nothing is there.

    Owner and mode do not count: a command of the output may set them.
    """
    place = output.place(name)
    if place is None:
        return ()
    try:
        status = (place if output.directory is None else place / "token").stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def write(place: Path, content: bytes, output: Output) -> None:
    """Put `content` into the file `place` in one step, with the owner and mode of `output`. Raises `OSError`."""
    with _folder_of(place.parent, output) as folder:
        if is_device(place.name, folder):
            raise OSError(errno.EINVAL, "is a device", str(place))
        _write_in(folder, place.name, content, output)


def _write_in(folder: int, name: str, content: bytes, output: Output) -> None:
    # A name of its own: another agent may write the same file.
    draft = f".{name}.{secrets.token_hex(4)}.new"
    # Not followed, not shared, and nobody else's before it has the owner and the mode that were asked for.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if (output.uid, output.gid) != (-1, -1):
                os.fchown(file.fileno(), output.uid, output.gid)
            os.fchmod(file.fileno(), output.mode)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(draft, dir_fd=folder)
        raise


def _write_directory(place: Path, files: dict[str, bytes], output: Output) -> None:
    """As kubelet writes a Secret: `token` leads through the link `..data` to a folder that is whole when it appears."""
    with _folder_of(place, output) as directory:
        name = f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{secrets.token_hex(4)}"
        os.mkdir(name, 0o700, dir_fd=directory)
        try:
            with _opened(name, directory) as folder:
                for fact, content in files.items():
                    _write_in(folder, fact, content, output)
                for each in (folder, directory):
                    _open_to_readers(each, output)
            before = _target(_DATA, directory)
            _point(_DATA, name, directory)
        except BaseException:
            shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
            raise
        for fact in files:
            if _target(fact, directory) is None:
                _point(fact, f"{_DATA}/{fact}", directory)
        # What earlier changes, or an agent that was killed, left behind. The one before stays until the next change: a
        # reader may be on its way through it.
        _remove_all_but((name, before), directory)


def _is_directory_emptied(place: Path, output: Output) -> bool:
    with _folder_of(place, output) as directory:
        was_there = _is_unlinked(_DATA, directory)
        _remove_all_but((), directory)
    return was_there


def _remove_all_but(kept: tuple[str | None, ...], directory: int) -> None:
    for each in os.listdir(directory):
        if each.startswith("..") and each[2:3].isdigit() and each not in kept:
            shutil.rmtree(each, ignore_errors=True, dir_fd=directory)


def _is_unlinked(name: str, folder: int) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _point(link: str, target: str, folder: int) -> None:
    draft = "..draft"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=folder)
    os.symlink(target, draft, dir_fd=folder)
    os.rename(draft, link, src_dir_fd=folder, dst_dir_fd=folder)


def _target(link: str, folder: int) -> str | None:
    """Where a link in `folder` leads to, None where there is no link."""
    try:
        return os.readlink(link, dir_fd=folder)
    except OSError:
        return None


def _open_to_readers(descriptor: int, output: Output) -> None:
    """Let whoever may read a file come to it. The directory stays ours: its owner could put a link in its place."""
    if output.gid != -1:
        os.fchown(descriptor, -1, output.gid)
    readers = output.mode & 0o444
    others = 0o001 if output.uid not in (-1, os.geteuid()) else 0
    # A setgid bit is how Kubernetes hands a volume to a group.
    kept = os.fstat(descriptor).st_mode & stat.S_ISGID
    os.fchmod(descriptor, kept | 0o700 | readers | readers >> 2 | others)


@contextlib.contextmanager
def _folder_of(path: Path, output: Output) -> Generator[int]:
    """A descriptor of a directory, which is made where it is missing. Raises `OSError`.

    Root may write where others may: each step of the way is opened in the one before, and a link of another user's
    leads nowhere. What is handed over is written only where nobody else could put something in its place.
    """
    # Whatever the umask is, those who may read a file come to it.
    way = 0o711 if output.mode & 0o077 or (output.uid, output.gid) != (-1, -1) else 0o700
    if os.geteuid() != 0:
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for each in made:
            each.chmod(each.stat().st_mode & stat.S_ISGID | way)
        with _opened(path) as folder:
            yield folder
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_opened(path.anchor))
        for index, part in enumerate(path.parts[1:], 2):
            try:
                folder = stack.enter_context(_opened(part, folder))
            except FileNotFoundError:
                os.mkdir(part, 0o700, dir_fd=folder)
                folder = stack.enter_context(_opened(part, folder))
                os.fchmod(folder, os.fstat(folder).st_mode & stat.S_ISGID | way)
            except OSError as error:
                # What a link is called here differs between systems.
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                link = os.stat(part, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISLNK(link.st_mode) or link.st_uid != 0:
                    raise
                # Root's own, such as /var/run.
                folder = stack.enter_context(_opened(part, folder, follow=True))
            if (output.uid, output.gid) != (-1, -1):
                _check_ours(folder, path, last=index == len(path.parts))
        yield folder


def _check_ours(folder: int, path: Path, *, last: bool) -> None:
    """Raise `PermissionError` for a directory whose entries others can exchange; in a sticky one (/tmp) they cannot."""
    status = os.fstat(folder)
    shared = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if status.st_uid != 0 or (shared and (last or not status.st_mode & stat.S_ISVTX)):
        raise PermissionError(errno.EPERM, "other users can write to it or to a folder above it", str(path))


@contextlib.contextmanager
def _opened(path: str | Path, within: int | None = None, *, follow: bool = False) -> Generator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
