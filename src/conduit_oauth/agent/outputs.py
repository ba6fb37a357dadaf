"""Puts a token where others read it.

Law: a reader finds the whole of one token, or nothing: what it can see is renamed into its place, never written there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Generator
from pathlib import Path

from ..formats import Format, formatted, token_type
from ..provider import TokenProvider
from .config import Output

# Read as they are by programs that take every byte; the others are lines.
_UNENDED = frozenset({Format.TOKEN, Format.JSON, Format.EXEC_CREDENTIAL})
_DATA = "..data"


def put(output: Output, name: str, provider: TokenProvider, token: str) -> None:
    """Write `token` where `output` wants it. Raises `OSError`, `ConfigurationError`."""
    place = output.place(name)
    if place is None:
        return
    state = provider.state()
    if output.directory is None:
        end = "" if output.format in _UNENDED else "\n"
        _write(place, (formatted(output.format, token, state, provider) + end).encode(), output)
        return
    expires = state.expires_at.isoformat(timespec="seconds") if state.expires_at else ""
    facts = {"token": token, "token_type": token_type(provider), "expires_at": expires, "scope": state.granted_scope}
    _write_directory(place, {name: value.encode() for name, value in facts.items() if value}, output)


def withdraw(output: Output, name: str) -> None:
    """Take away a token that is over, so that nobody sends it. Raises `OSError`, `ConfigurationError`."""
    place = output.place(name)
    if place is None:
        return
    if output.directory is None:
        if place.parent.is_dir():
            with _folder_of(place.parent, output) as folder, contextlib.suppress(FileNotFoundError):
                os.unlink(place.name, dir_fd=folder)
    elif place.is_dir():
        _write_directory(place, {}, output)


def trace(output: Output, name: str) -> tuple[int, ...]:
    """What tells whether somebody took away or changed what was written; empty where nothing is there.

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


def _write(place: Path, content: bytes, output: Output) -> None:
    with _folder_of(place.parent, output) as folder:
        _write_in(folder, place.name, content, output)


def _write_in(folder: int, name: str, content: bytes, output: Output) -> None:
    # Always the same name: what an agent that was killed left there is replaced, and not joined by another.
    draft = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=folder)
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
        with _opened(name, directory) as folder:
            for fact, content in files.items():
                _write_in(folder, fact, content, output)
            for each in (folder, directory):
                _open_to_readers(each, output)
        before = _target(_DATA, directory)
        _point(_DATA, name, directory)
        for fact in files:
            if _target(fact, directory) is None:
                _point(fact, f"{_DATA}/{fact}", directory)
        # What earlier changes, or an agent that was killed, left behind. The one before stays until the next change: a
        # reader may be on its way through it.
        for other in os.listdir(directory):  # noqa: PTH208 - by its descriptor
            if other.startswith("..") and other[2:3].isdigit() and other not in (name, before):
                shutil.rmtree(other, ignore_errors=True, dir_fd=directory)


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
    if os.geteuid() != 0:
        path.mkdir(parents=True, exist_ok=True)
        with _opened(path) as folder:
            yield folder
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_opened(path.anchor))
        for index, part in enumerate(path.parts[1:], 2):
            try:
                folder = stack.enter_context(_opened(part, folder))
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=folder)
                folder = stack.enter_context(_opened(part, folder))
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
