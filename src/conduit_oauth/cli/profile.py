"""Where a command's settings come from: options, then the environment, then a profile of the TOML file.

Law: a secret comes from the environment, a file, standard input or a prompt; never from the command line, where every
user of the machine reads it, and never from the profile, which people put under version control.
"""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any, cast

import platformdirs

from ..errors import ConfigurationError
from ..provider import TokenProvider

_SETTINGS = ("client_id", "token_endpoint", "mcp_url", "issuer", "scope", "resource", "audience", "store")
_PROFILE_KEYS = frozenset({*_SETTINGS, "client_secret_file", "token_endpoint_auth_method", "timeout"})
_WHERE = frozenset({"token_endpoint", "mcp_url", "issuer"})
_PREFIX = "CONDUIT_OAUTH_"


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line; None where an option was left out."""

    settings: dict[str, str | None]
    client_secret_file: Path | None = None
    token_endpoint_auth_method: str | None = None
    timeout: float | None = None
    profile: str | None = None
    config: Path | None = None

    def provider(self) -> TokenProvider:
        """The provider that the settings describe. Raises `ConfigurationError`."""
        merged = self._merged()
        file = merged.pop("client_secret_file", None)
        from_environment = os.environ.get(_PREFIX + "CLIENT_SECRET")
        secret = _secret(file) if self.client_secret_file or not from_environment else from_environment
        return TokenProvider(merged.pop("client_id", ""), secret, name="cli", **merged)

    def _merged(self) -> dict[str, Any]:
        given = {
            **self.settings,
            "client_secret_file": self.client_secret_file,
            "token_endpoint_auth_method": self.token_endpoint_auth_method,
            "timeout": self.timeout,
        }
        environment = {name: os.environ.get(_PREFIX + name.upper()) for name in _PROFILE_KEYS}
        merged: dict[str, Any] = {"store": "sqlite:"}
        for layer in (self._from_file(), environment, given):
            said = {name: value for name, value in layer.items() if value not in (None, "")}
            if said.keys() & _WHERE:
                # What is said later must not lose to what was said earlier by another name.
                merged = {name: value for name, value in merged.items() if name not in _WHERE}
            merged |= said
        if "timeout" in merged:
            merged["timeout"] = _number(merged["timeout"])
        return merged

    def _from_file(self) -> dict[str, Any]:
        named = self.profile or os.environ.get(_PREFIX + "PROFILE")
        path = self.config or Path(os.environ.get(_PREFIX + "CONFIG") or default_config_path())
        if not path.exists() and self.config is None:
            if named:
                raise ConfigurationError(
                    "profile", f"{named!r} is not there: {path} does not exist", "Create the file."
                )
            return {}
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError("config", f"{path}: {error}", "Mend the file, or name another.") from None
        profiles = _table(document.get("profiles", {}), "profiles", path)
        if named and named not in profiles:
            known = ", ".join(profiles) or "none"
            raise ConfigurationError("profile", f"{named!r} is not in {path}", f"It has {known}.")
        found = _table(profiles.get(named or "default", {}), named or "default", path)
        if "client_secret" in found:
            raise ConfigurationError(
                "client_secret",
                f"stands in {path}",
                "Move it to a file of mode 0600 and name that as client_secret_file.",
            )
        if unknown := ", ".join(sorted(found.keys() - _PROFILE_KEYS)):
            raise ConfigurationError(
                unknown, f"no setting, in {path}", f"There are {', '.join(sorted(_PROFILE_KEYS))}."
            )
        return found


def _table(value: object, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(name, f"is not a table, in {path}", "Write [profiles.NAME].")
    return cast("dict[str, Any]", value)


def default_config_path() -> Path:
    """The profile file, where the platform keeps such files."""
    return platformdirs.user_config_path("conduit-oauth") / "config.toml"


def _secret(file: str | Path | None) -> str:
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError("client_secret_file", str(error), "Name a readable text file, or -.") from None
        return text.rstrip("\r\n")
    if sys.stdin.isatty():
        return getpass("Client secret: ")
    raise ConfigurationError(
        "client_secret",
        "is missing",
        f"Set {_PREFIX}CLIENT_SECRET, or pass --client-secret-file FILE (- reads standard input).",
    )


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigurationError("timeout", "is not a number", "Give seconds.") from None
