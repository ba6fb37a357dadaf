"""What a client proves itself with, read anew at each use: what was changed on disk is in the next request.

A source is the text itself, a `Path` to a file that holds it, or a callable that returns it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigurationError
from ..places import expanded
from ..token_types import ACCESS_TOKEN_TYPE
from .tls import ClientCertificate

# In characters: a key with its chain has some ten thousand.
_LONGEST_FILE = 1 << 20

Source = str | Path | Callable[[], str]
KeySource = str | Path | Mapping[str, Any] | Callable[[], str | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The sources that were configured: at most one for the client, at most one for the grant. Never in a repr."""

    client_secret: Source | tuple[Source, Source] | None = field(default=None, repr=False)
    private_key: KeySource | None = field(default=None, repr=False)
    client_assertion: Source | None = field(default=None, repr=False)
    client_certificate: ClientCertificate | None = None
    # What is exchanged for the token, in the grants that exchange something.
    assertion: Source | None = field(default=None, repr=False)
    subject_token: Source | None = field(default=None, repr=False)
    subject_token_type: str = ACCESS_TOKEN_TYPE
    key_password: Source | None = field(default=None, repr=False)
    key_id: str | None = None
    algorithm: str | None = None

    @property
    def secrets(self) -> tuple[Source, ...]:
        """The client secrets that were configured: none, one, or two to try in turn."""
        given = self.client_secret
        if isinstance(given, tuple):
            return cast("tuple[Source, ...]", given)
        return () if given is None else (given,)

    def files(self) -> tuple[Path, ...]:
        """The files that the sources are in."""
        certificate = self.client_certificate
        own = (self.private_key, self.key_password, self.client_assertion, self.assertion, self.subject_token)
        named = (*self.secrets, *own, *((certificate.certificate, certificate.key) if certificate else ()))
        return tuple(expanded(source) for source in named if isinstance(source, Path))


# The environment variables that hold a secret of ours, as far as this process was told of them.
_SECRET_VARIABLES = {"CONDUIT_OAUTH_CLIENT_SECRET"}


def public_environment() -> dict[str, str]:
    """The environment for a program of the user's: without the variables that hold a secret of ours."""
    return {name: text for name, text in os.environ.items() if name not in _SECRET_VARIABLES}


@dataclass(frozen=True, slots=True)
class _Environment:
    variable: str

    def __post_init__(self) -> None:
        _SECRET_VARIABLES.add(self.variable)

    def __call__(self) -> str:
        return read_text(os.environ.get(self.variable, "").rstrip("\r\n"), f"environment variable {self.variable}")


@dataclass(frozen=True, slots=True)
class _Keyring:
    service: str
    username: str

    def __call__(self) -> str:
        try:
            import keyring
            from keyring.errors import KeyringError
        except ModuleNotFoundError:
            raise ConfigurationError(
                "keyring", "is not installed", "Install conduit-oauth[keyring], or take the secret from a file."
            ) from None
        try:
            secret = keyring.get_password(self.service, self.username)
        except KeyringError as error:
            raise ConfigurationError(
                "keyring", f"cannot be read ({type(error).__name__})", "Unlock it, or take the secret from a file."
            ) from None
        return read_text(secret, f"keyring entry {self.service}/{self.username}")


def from_environment(name: str) -> Callable[[], str]:
    """A source that reads the environment variable `name` at each use; unset, it raises `ConfigurationError`."""
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
        value = source()
    elif isinstance(source, Path):
        value = _read_source(source, name)
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(name, "is missing or empty", f"Pass it as text, a Path or a callable as {name}.")
    return value


def header_value(source: Source, name: str) -> str:
    """The text of a source that goes into the header `name`. Raises `ConfigurationError` for what cannot."""
    value = read_text(source, name).strip()
    if not value.isascii() or not value.isprintable():
        raise ConfigurationError(
            f"token_request_headers.{name}", "has a character that no header can have", "Use printable ASCII."
        )
    return value


def read_key(source: KeySource | None, name: str = "private_key") -> str | Mapping[str, Any]:
    """The text (PEM or JSON) or the JWK of a key source. Raises `ConfigurationError` naming `name`."""
    value = source() if callable(source) else source
    if isinstance(value, Mapping):
        return value
    return read_text(value, name)


def read_file(path: Path, longest: int = _LONGEST_FILE) -> str:
    """The text of a file of `longest` characters at most. Raises `OSError` and `UnicodeDecodeError`."""
    # Without the mark that editors and shells of Windows begin a file with.
    with expanded(path).open(encoding="utf-8-sig") as file:
        text = file.read(longest + 1)
    if len(text) > longest:
        raise OSError(errno.EFBIG, f"has more than {longest} characters", str(path))
    return text


def _read_source(path: Path, name: str) -> str:
    try:
        # What an editor or `echo` leaves at the end of a line is not part of a secret.
        return read_file(path).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(name, f"cannot be read ({error})", "Name a readable text file.") from None
