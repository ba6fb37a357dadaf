"""Where a command's settings come from: options, then the environment, then a profile of the TOML file.

    [profiles.default]                 # each profile in the form of `conduit_oauth.settings`
    client_id = "billing-agent"
    client_secret = { file = "~/.secrets/billing-agent" }
    mcp_url = "https://gateway.example/servers/42/mcp"

Invariant: A secret comes from the environment, a file, the keyring, standard input or a prompt. It never comes from
the command line, which every user of the machine can read. It never comes from the profile, which people put under
version control.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..errors import ConfigurationError
from ..places import config_folder, default_store, expanded, is_file, is_there
from ..provider import TokenProvider
from ..settings import CREDENTIALS, Settings, read_table, read_toml, table_of

# What may come from the environment, and from the options of every command that acts as a client.
SETTINGS = (
    "client_id",
    "token_endpoint",
    "mcp_url",
    "issuer",
    "introspection_endpoint",
    "scope",
    "resource",
    "audience",
    "store",
    "token_endpoint_auth_method",
    "dpop",
    "ca_file",
    "timeout",
)
_WHERE = frozenset({"token_endpoint", "mcp_url", "issuer"})
_SAID_OF_A_CLIENT = CREDENTIALS.union(SETTINGS)
_CLIENT_CREDENTIALS = frozenset({"client_secret", "private_key", "client_assertion"})
PREFIX = "CONDUIT_OAUTH_"
_LONGEST_SECRET = 65_536
# Seconds that a command waits for a token, where a person looks on and no setting says otherwise.
PATIENCE_AT_A_TERMINAL = 10.0


class Options(NamedTuple):
    """What was given on the command line; None where an option was left out."""

    settings: Mapping[str, Any]
    client_secret_file: Path | None = None
    profile: str | None = None
    config: Path | None = None

    def provider(self, patience: float | None = None, **defaults: Any) -> TokenProvider:
        """The provider that the settings describe. Its calls wait for `patience` seconds, unless they say otherwise.

        `defaults` are further settings, for those that nothing else says. Raises `ConfigurationError`.
        """
        merged = {**defaults, **self.merged()}
        if patience is None and sys.stderr.isatty():
            patience = PATIENCE_AT_A_TERMINAL
        if patience is not None:
            merged.setdefault("timeout", patience)
        if not merged.keys() & CREDENTIALS and merged.get("token_endpoint_auth_method") != "none":
            # A person is asked last, when everything else is sound.
            rest: Settings = {**merged, "client_secret": "unknown", "store": "memory:"}
            TokenProvider(rest.pop("client_id", ""), **rest).close()
            merged["client_secret"] = _prompt()
        shareable = merged.get("dpop") is not True and merged.keys() & CREDENTIALS
        merged.setdefault("store", default_store() if shareable else "memory:")
        return TokenProvider(merged.pop("client_id", ""), name=self.named or "cli", **merged)

    @property
    def named(self) -> str | None:
        """The profile that was asked for by name."""
        return self.profile or os.environ.get(PREFIX + "PROFILE")

    @property
    def named_config(self) -> Path | None:
        """The file of profiles that was asked for."""
        return self.config or _path_in_environment("CONFIG")

    @property
    def path(self) -> Path:
        """The file that holds the profiles."""
        return self.named_config or default_config_path()

    @property
    def named_secret_file(self) -> Path | None:
        """The file of the secret that counts, where no variable has the secret itself."""
        in_environment = None if _secret_in_environment() else _path_in_environment("CLIENT_SECRET_FILE")
        return self.client_secret_file or in_environment

    def leave_stdin(self, use: str) -> None:
        """See that the secret is not read from standard input, which has another `use`. Raises `ConfigurationError`."""
        file = self.named_secret_file
        if str(self.client_secret_file) == "-" or (file is not None and _is_stdin(expanded(file))):
            raise ConfigurationError("client_secret_file", f"{file} reads standard input, which {use}", "Name a file.")

    def stated(self) -> Settings:
        """What the options say, and for what none of them says the environment. Raises `ConfigurationError`."""
        return _laid_over(_laid_over({}, _environment()), self.settings)

    def merged(self) -> Settings:
        """The settings of all places, as arguments of a provider. Raises `ConfigurationError`."""
        secret: str | Path | None = _secret_in_environment()
        if secret is None and (file := _path_in_environment("CLIENT_SECRET_FILE")) is not None:
            secret = _secret_in(expanded(file))
        given = self.settings if self.client_secret_file is None else {**self.settings, "client_secret": self._secret()}
        merged: Settings = {}
        for layer in (self._from_file(), {**_environment(), "client_secret": secret}, given):
            merged = _laid_over(merged, layer)
        if "timeout" in merged:
            merged["timeout"] = _number(merged["timeout"])
        return merged

    def _secret(self) -> str | Path | None:
        if self.client_secret_file is not None and str(self.client_secret_file) != "-":
            return _secret_in(expanded(self.client_secret_file))
        return read_secret(None)

    def _from_file(self) -> Settings:
        try:
            path = self.path
        except ConfigurationError:
            if self.named:
                raise
            return {}
        if not is_there(path) and self.config is None:
            if self.named:
                raise ConfigurationError(
                    "profile",
                    f"{self.named!r} is not there: {path} does not exist",
                    f"Make it by: conduit-oauth profile add {self.named}",
                )
            return {}
        profiles = profiles_in(path)
        if self.named and self.named not in profiles:
            known = ", ".join(profiles) or "none"
            raise ConfigurationError("profile", f"{self.named!r} is not in {path}", f"It has {known}.")
        name = self.named or "default"
        place = f"profiles.{name}"
        return read_table(place, table_of(profiles.get(name, {}), place), path.parent)


def _environment() -> Settings:
    said: Settings = {name: os.environ.get(PREFIX + name.upper()) or None for name in SETTINGS}
    if said["dpop"] is not None:
        said["dpop"] = _switch(said["dpop"])
    if said["resource"] == "false":
        said["resource"] = False
    elif said["resource"] is not None and len(several := said["resource"].split()) > 1:
        said["resource"] = several
    said["ca_file"] = _path_in_environment("CA_FILE")
    return said


def _secret_in_environment() -> str | None:
    return os.environ.get(PREFIX + "CLIENT_SECRET", "").rstrip("\r\n") or None


def _path_in_environment(name: str) -> Path | None:
    said = os.environ.get(PREFIX + name)
    return Path(said) if said else None


def _laid_over(below: Settings, layer: Mapping[str, Any]) -> Settings:
    """The settings of `layer`, and of those `below` what it leaves open."""
    said = {name: value for name, value in layer.items() if value not in (None, "")}
    # What is said later must not lose to what was said earlier by another name.
    for alternatives in (_WHERE, _CLIENT_CREDENTIALS):
        if said.keys() & alternatives:
            below = {name: value for name, value in below.items() if name not in alternatives}
    # The option asks for bound tokens; the profile may name the key that they are bound to.
    if said.get("dpop") is True and below.get("dpop"):
        del said["dpop"]
    return below | said


def profiles_in(path: Path) -> Mapping[str, Any]:
    """The tables of a file of profiles, unread. Raises `ConfigurationError` where it is none."""
    document = read_toml(path, "config")
    for name, value in document.items():
        said = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if name != "profiles" and not _SAID_OF_A_CLIENT.isdisjoint(said):
            raise ConfigurationError("config", f"{path}: [{name}] is no profile", f"Write [profiles.{name}].")
    return table_of(document.get("profiles", {}), "profiles")


def names_of_profiles(config: Path | None) -> list[str]:
    """The names of the profiles, for the completion of a shell: none where the file cannot be read."""
    try:
        path = Options({}, config=config).path
        return list(profiles_in(path)) if is_file(path) else []
    except ConfigurationError:
        return []


def default_config_path() -> Path:
    """The profile file, where the platform keeps such files. Raises `ConfigurationError` where there is no home."""

    advice = "Set HOME, or CONDUIT_OAUTH_CONFIG."
    return config_folder("config", advice) / "config.toml"


def _prompt() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("Client secret: ")
    raise ConfigurationError(
        "client_secret",
        "is missing",
        f"Set {PREFIX}CLIENT_SECRET, or pass --client-secret-file FILE (- reads standard input).",
    )


def _is_stdin(path: Path) -> bool:
    """Whether what is read from `path` is no longer in standard input: `/dev/stdin`, where that is no regular file."""
    try:
        return not is_file(path) and os.path.samestat(path.stat(), os.fstat(0))
    except OSError:
        return False


def _secret_in(path: Path) -> str | Path:
    """A file, to be read anew for each request; what is in a pipe (`<(…)`), which can be read once only."""
    return path if is_file(path) or not is_there(path) else read_secret(path)


def read_secret(path: Path | None) -> str:
    """The secret in a file or a pipe, None for standard input. Raises `ConfigurationError`."""
    from contextlib import nullcontext

    try:
        with nullcontext(sys.stdin) if path is None else path.open(encoding="utf-8-sig") as pipe:
            text = pipe.read(_LONGEST_SECRET + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("client_secret", str(error), "Name a readable file, or -.") from None
    if len(text) > _LONGEST_SECRET:
        raise ConfigurationError("client_secret", f"is longer than {_LONGEST_SECRET} characters", "Name another file.")
    return text.rstrip("\r\n")


def _switch(value: str) -> bool:
    try:
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
    except KeyError:
        raise ConfigurationError("dpop", f"{PREFIX}DPOP is not true or false", "Write true or false.") from None


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigurationError("timeout", "is not a number", "Give seconds.") from None
