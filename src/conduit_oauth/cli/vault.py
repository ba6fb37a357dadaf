"""Where `profile add` keeps a secret: in the operating system's keyring where there is one, else in a file of its own.

Invariant: It removes only what it stored itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..places import make_private

SERVICE = "conduit-oauth"
_FOLDER = "secrets"


def keep_secret(name: str, secret: str, config: Path) -> tuple[dict[str, str], str]:
    """Keep the secret of a profile; the setting that leads to it, and where it is, in words.

    Raises `ConfigurationError` where it can be kept nowhere.
    """
    # The whole path: two files may have a profile of the same name.
    username = f"{name} in {config.absolute()}"
    if (keyring := _keyring_with(username, secret)) is not None:
        return {"keyring": SERVICE, "username": username}, keyring
    place = config.parent / _FOLDER / name
    try:
        make_private(place.parent)
        place.unlink(missing_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secret)
    except OSError as error:
        raise ConfigurationError("client_secret", f"{place}: {error.strerror}", "Choose another --config.") from None
    return {"file": f"{_FOLDER}/{name}"}, f"in {place} (0600): there is no keyring that can be used"


def forget_secret(name: str, source: Any, config: Path) -> None:
    """Take away what `keep_secret` kept; leave any other place of a secret alone."""
    match source:
        case {"keyring": str(service), "username": str(username)} if service == SERVICE:
            _forget_in_keyring(username)
        case {"file": str(file)} if file == f"{_FOLDER}/{name}":
            place = config.parent / file
            try:
                place.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigurationError("client_secret", f"{place}: {error.strerror}", "Remove it by hand.") from None
        case _:
            pass


def _keyring_with(username: str, secret: str) -> str | None:
    """Put it into the keyring; which one, in words. None where there is none: some take everything and keep nothing."""
    try:
        import keyring
    except ModuleNotFoundError:
        return None
    try:
        keyring.set_password(SERVICE, username, secret)
        if keyring.get_password(SERVICE, username) != secret:
            return None
    except Exception:  # backends have errors of their own; the name of the folder is no UTF-8
        return None
    kind = _taker(keyring.get_keyring(), username, secret).__class__
    named = f"{kind.__module__}.{kind.__qualname__}"
    if "plaintext" in kind.__qualname__.lower():
        return f"in a file that is not encrypted, by the keyring {named}"
    return f"in the keyring {named}"


def _taker(keyring: Any, username: str, secret: str) -> object:
    """The keyring that has it, of those that one may stand for."""
    for each in getattr(keyring, "backends", ()):
        if each.get_password(SERVICE, username) == secret:
            return each
    return keyring


def _forget_in_keyring(username: str) -> None:
    try:
        import keyring
    except ModuleNotFoundError:
        return
    try:
        keyring.delete_password(SERVICE, username)
    except Exception as error:  # backends have errors of their own
        raise ConfigurationError(
            "keyring", f"did not give up {username!r} ({type(error).__name__})", "Remove the entry by hand."
        ) from None
