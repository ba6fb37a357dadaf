"""Where a secret is, read anew at each use: what was changed on disk is in the next request.

A source is the text itself, a `Path` to a file that holds it, or a callable that returns it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import ConfigurationError, OAuthError
from ..places import read_bytes

TYPE_CHECKING = False  # typing's is slow to import
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

# In bytes: a key with its chain has some ten thousand.
_LONGEST_FILE = 1 << 20

Source = str | Path | Callable[[], str]
KeySource = str | Path | Mapping[str, "Any"] | Callable[[], "str | Mapping[str, Any]"]

# The settings that are secrets, and seal the tokens that a client shares.
SOURCES = ("private_key", "client_secret", "client_assertion", "assertion", "subject_token")

# The environment variables that hold a secret of ours, as far as this process was told of them.
_SECRET_VARIABLES = {"CONDUIT_OAUTH_CLIENT_SECRET"}
# The URL of a store, which may hold a password.
_STORE = "CONDUIT_OAUTH_STORE"


def public_environment() -> dict[str, str]:
    """The environment for a program of the user's: without the variables that hold a secret of ours."""
    from urllib.parse import unquote

    public = {name: text for name, text in os.environ.items() if name not in _SECRET_VARIABLES}
    store = unquote(public.get(_STORE, ""))
    if "@" in store or "password=" in store.lower():
        del public[_STORE]
    return public


class _Place:
    """Where a secret is. Two are equal that name the same place: a reload leaves their providers alone."""

    __slots__ = ("_names",)

    def __init__(self, *names: str) -> None:
        self._names = names

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._names == self._names

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"<{' '.join((type(self).__name__.strip('_'), *self._names))}>"


class _Environment(_Place):
    __slots__ = ()

    def __call__(self) -> str:
        (variable,) = self._names
        return read_text(os.environ.get(variable, "").rstrip("\r\n"), f"environment variable {variable}")


class _Keyring(_Place):
    __slots__ = ()

    def __call__(self) -> str:
        try:
            import keyring
        except ModuleNotFoundError:
            raise ConfigurationError(
                "keyring", "is not installed", "Install conduit-oauth[keyring], or take the secret from a file."
            ) from None
        service, username = self._names
        try:
            secret = keyring.get_password(service, username)
        except Exception as error:  # backends have errors of their own
            raise ConfigurationError(
                "keyring", f"cannot be read ({type(error).__name__})", "Unlock it, or take the secret from a file."
            ) from None
        return read_text(secret, f"keyring entry {service}/{username}")


def files_of(*sources: object) -> tuple[Path, ...]:
    """The files among these sources."""
    return tuple(source for source in sources if isinstance(source, Path))


def from_environment(name: str) -> Callable[[], str]:
    """A source that reads the environment variable `name` at each use; unset, it raises `ConfigurationError`."""
    _SECRET_VARIABLES.add(name)
    return _Environment(name)


def from_keyring(service: str, username: str) -> Callable[[], str]:
    """A source that asks the operating system's keyring at each use (extra `keyring`).

    Raises `ConfigurationError` at use where there is no such entry, or no keyring.
    """
    return _Keyring(service, username)


def read_text(source: Source | tuple[Source, Source] | None, name: str) -> str:
    """The text of a source. Raises `ConfigurationError` naming `name` where there is none."""
    value: object = source
    if callable(source):
        value = _called(source, name)
    elif isinstance(source, Path):
        value = _read_source(source, name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(name, "is missing or empty", f"Pass it as text, a Path or a callable as {name}.")
    check_encodable(value, name)
    return value


def check_encodable(text: str, name: str) -> None:
    """Raise `ConfigurationError` naming `name` for half a surrogate pair: Python has it for bytes that are no UTF-8."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigurationError(name, "is not UTF-8", "Give it in UTF-8.")


def header_value(source: Source, name: str) -> str:
    """The text of a source that goes into the header `name`. Raises `ConfigurationError` for what cannot."""
    field = f"token_request_headers.{name}"
    value = read_text(source, field).strip()
    if not value.isascii() or not value.isprintable():
        raise ConfigurationError(field, "has a character that no header can have", "Use printable ASCII.")
    return value


def read_key(source: KeySource | None, name: str = "private_key") -> str | Mapping[str, Any]:
    """The text (PEM or JSON) or the JWK of a key source. Raises `ConfigurationError` naming `name`."""
    value = _called(source, name) if callable(source) else source
    if isinstance(value, Mapping):
        return value
    return read_text(value, name)


def read_material(source_of: Callable[[str], Any]) -> bytes:
    """Everything secret that a client proves itself with, or exchanges, as it is now: what seals its tokens.

    `source_of` gives the source of each setting, None where it is not set. Raises `ConfigurationError`.
    """
    parts: list[str] = []
    if (private_key := source_of("private_key")) is not None:
        key = read_key(private_key)
        parts.append(json.dumps(dict(key), sort_keys=True) if isinstance(key, Mapping) else key)
    for name in SOURCES[1:]:
        if (source := source_of(name)) is not None:
            parts.append(read_text(source, name))
    if (certificate := source_of("client_certificate")) is not None:
        parts.append(read_text(certificate.key, "client_certificate"))
    return json.dumps(parts).encode()


def read_file(path: Path, longest: int = _LONGEST_FILE) -> str:
    """The text of a file of `longest` bytes at most. Raises `OSError`, and `ValueError` for what is not UTF-8."""
    # Without the mark that editors and shells of Windows begin a file with, and with Python's ends of lines.
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, longest)), encoding="utf-8-sig").read()


def _called(source: Callable[[], T], name: str) -> T:
    try:
        return source()
    except OAuthError:
        raise
    except Exception as error:  # its words may hold a secret
        raise ConfigurationError(name, f"its callable raised {type(error).__name__}", "Mend the callable.") from None


def _read_source(path: Path, name: str) -> str:
    try:
        # What an editor or `echo` leaves at the end of a line is not part of a secret.
        return read_file(path).rstrip("\r\n")
    except (OSError, ValueError) as error:  # not UTF-8; a path with a NUL
        raise ConfigurationError(name, f"cannot be read ({error})", "Name a readable text file.") from None
