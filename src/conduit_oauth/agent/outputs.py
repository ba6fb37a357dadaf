"""Puts a token where others read it.

Law: a reader finds the whole of one token, or nothing: what it can see is renamed into its place, never written there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
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
        place.unlink(missing_ok=True)
    elif place.is_dir():
        _write_directory(place, {}, output)


def _write(place: Path, content: bytes, output: Output) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what an agent that was killed left there is replaced, and not joined by another.
    draft = place.with_name(f".{place.name}.new")
    draft.unlink(missing_ok=True)
    # Not followed, not shared, and nobody else's before it has the owner and the mode that were asked for.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            _hand_over(file.fileno(), output, output.mode)
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _write_directory(place: Path, files: dict[str, bytes], output: Output) -> None:
    """As kubelet writes a Secret: `token` leads through the link `..data` to a folder that is whole when it appears."""
    place.mkdir(parents=True, exist_ok=True)
    folder = place / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        _write(folder / name, content, output)
    # Whoever may read a file may enter the folder.
    readers = (output.mode & 0o444) >> 2
    for directory in (folder, place):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _hand_over(descriptor, output, 0o700 | output.mode | readers)
        finally:
            os.close(descriptor)
    data = place / _DATA
    before = data.readlink().name if data.is_symlink() else None
    _point(data, folder.name)
    for name in files:
        if not (place / name).is_symlink():
            _point(place / name, f"{_DATA}/{name}")
    # What earlier changes, or an agent that was killed, left behind. The one before stays until the next change: a
    # reader may be on its way through it.
    for other in place.glob("..[0-9]*"):
        if other.name not in (folder.name, before):
            shutil.rmtree(other, ignore_errors=True)


def _point(link: Path, target: str) -> None:
    draft = link.with_name("..draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def _hand_over(descriptor: int, output: Output, mode: int) -> None:
    if (output.uid, output.gid) != (-1, -1):
        os.fchown(descriptor, output.uid, output.gid)
    os.fchmod(descriptor, mode)
