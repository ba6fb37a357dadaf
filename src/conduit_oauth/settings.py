"""What a mapping or a TOML file says of many providers, as arguments of `TokenProvider`.

    [defaults]                       # what every provider gets unless it says otherwise
    store = "redis://cache:6379/0"

    [providers.billing]
    client_id = "billing"
    client_secret = { file = "secrets/billing" }  # or { environment = "NAME" }, { keyring = "service", username = "u" }
    mcp_url = "https://gateway.example/mcp"

Tables beside these are for whoever has them read in the same go (the agent has `[agent]`).

Invariant: A file contains no secret. It says where the secret is. Paths in it are relative to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import ConfigurationError
from .identity.sources import from_environment, from_keyring, read_file
from .places import path_in_file
from .provider import TokenProvider

T = TypeVar("T")
Settings = dict[str, Any]
# In bytes: a hundred thousand providers.
_LONGEST_TOML = 1 << 26
# What makes something of a table, in a file of that folder; it raises `ConfigurationError`.
Reader = Callable[[Settings, Path], Any]

# By name, the type of each setting in words.
_TYPES: Mapping[str, str] = TokenProvider.__init__.__annotations__
_KNOWN = frozenset(_TYPES) - {"name", "return"}
_NOT_IN_A_FILE = frozenset({"http_client", "transport", "clock", "observer"})
# What a client proves itself with, or exchanges.
CREDENTIALS = frozenset(
    {"client_secret", "private_key", "client_assertion", "client_certificate", "assertion", "subject_token"}
)
SECRETS = CREDENTIALS - {"client_certificate"} | {"private_key_password"}
_TOML = {bool: "true or false", str: "a string", dict: "a table of strings"}
_PLACES = "{ file = … }, { environment = … } or { keyring = …, username = … }"


def from_mapping(providers: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> dict[str, Settings]:
    """The arguments of each provider. Raises `ConfigurationError` for one that there is not."""
    common = _checked("defaults", defaults, _KNOWN)
    return {
        name: {**common, **_checked(f"providers.{name}", table_of(table, f"providers.{name}"), _KNOWN)}
        for name, table in providers.items()
    }


def from_file(
    path: Path, defaults: Mapping[str, Any], readers: Mapping[str, Reader]
) -> tuple[dict[str, Settings], dict[str, Any]]:
    """The arguments of each provider of a TOML file, and what `readers` made of its further tables, by name.

    Raises `ConfigurationError` for an invalid file.
    """
    document = read_toml(path, "providers")
    if unknown := document.keys() - {"defaults", "providers", *readers}:
        raise ConfigurationError(
            ", ".join(sorted(unknown)), f"is no table of {path}", "There are [defaults] and [providers.NAME]."
        )
    ours = _checked("defaults", defaults, _KNOWN)
    common = {**ours, **read_table("defaults", table_of(document.get("defaults", {}), "defaults"), path.parent)}
    tables = table_of(document.get("providers", {}), "providers")
    providers = {
        name: {**common, **read_table(f"providers.{name}", table_of(table, f"providers.{name}"), path.parent)}
        for name, table in tables.items()
    }
    further = {name: read(table_of(document.get(name, {}), name), path.parent) for name, read in readers.items()}
    if not providers:
        # An editor may be writing it just now: no provider is removed for that.
        raise ConfigurationError("providers", f"{path} names none", "Add a table [providers.NAME].")
    return providers, further


def files_in(settings: object) -> Iterator[Path]:
    """The files that settings lead to."""
    if isinstance(settings, Path):
        yield settings
    elif isinstance(settings, Mapping):
        yield from files_in([*cast("Mapping[object, object]", settings).values()])
    elif isinstance(settings, list | tuple):
        for each in cast("Sequence[object]", settings):
            yield from files_in(each)


def read_toml(path: Path, field: str, parse: Callable[[str], T] = tomllib.loads) -> T:
    """The document in a file, as `parse` reads it. Raises `ConfigurationError` naming `field`."""
    try:
        return parse(read_file(path, _LONGEST_TOML))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(field, f"{path}: {error}", "Mend the file, or name another.") from None


def read_table(place: str, table: Settings, folder: Path) -> Settings:
    """The arguments that a table of a file in `folder` says. Raises `ConfigurationError` naming `place`."""
    settings = _checked(place, table, _KNOWN - _NOT_IN_A_FILE)
    for name in settings:
        try:
            if name in SECRETS or (name == "dpop" and not isinstance(settings[name], bool)):
                settings[name] = _source(name, settings[name], folder)
            elif name == "client_certificate":
                settings[name] = _certificate(settings[name], folder)
            elif name == "token_request_headers":
                headers = table_of(settings[name], name)
                settings[name] = {header: _source(f"{name}.{header}", said, folder) for header, said in headers.items()}
            elif name == "ca_file" and isinstance(settings[name], str):
                settings[name] = path_in_file(settings[name], folder, name)
            else:
                _check_type(name, settings[name])
        except ConfigurationError as error:
            raise error.within(place) from None
    return settings


def _certificate(said: object, folder: Path) -> tuple[Path, ...]:
    match said:
        case [str(certificate), str(key)]:
            return tuple(path_in_file(each, folder, "client_certificate") for each in (certificate, key))
        case _:
            raise ConfigurationError("client_certificate", "is not two files", 'Write ["certificate.pem", "key.pem"].')


def _check_type(name: str, value: object) -> None:
    """What Python's callers have their type checkers for. Numbers are checked by whoever takes them."""
    for word, kind in (("bool", bool), ("str", str), ("Mapping", dict)):
        special = name == "resource" and (isinstance(value, list) or value is False)
        special = special or (name == "step_up" and isinstance(value, str))
        if _TYPES[name].startswith(word) and not isinstance(value, kind) and not special:
            raise ConfigurationError(name, "is of the wrong type", f"Write {_TOML[kind]}.")


def _source(name: str, said: object, folder: Path) -> Any:
    """Where a secret is: one place, or for `client_secret` two."""
    if name == "client_secret" and isinstance(said, list):
        return tuple(_source(name, each, folder) for each in cast("list[object]", said))
    place = cast("dict[str, object]", said) if isinstance(said, dict) else {}
    match place:
        case {"file": str(file)} if len(place) == 1:
            return path_in_file(file, folder, name)
        case {"environment": str(variable)} if len(place) == 1:
            return from_environment(variable)
        case {"keyring": str(service), "username": str(username)} if len(place) == 2:
            return from_keyring(service, username)
        case _:
            # What stands there may be the secret itself: it is not repeated.
            raise ConfigurationError(name, "is not the place of a secret", f"Write {_PLACES}.")


def _checked(place: str, table: Mapping[str, Any], known: frozenset[str]) -> Settings:
    for name in table.keys() - known:
        raise ConfigurationError(f"{place}.{name}", "is no setting", f"There are {', '.join(sorted(known))}.")
    return dict(table)


def table_of(value: object, place: str) -> Settings:
    """A copy of the table at `place`. Raises `ConfigurationError` for anything else."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(place, "is not a table", "Give the settings of a provider by name.")
    return dict(cast("Mapping[str, Any]", value))
