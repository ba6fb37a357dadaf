"""What the agent's file says beside the providers themselves, which are in the form of `conduit_oauth.settings`.

    [agent]
    listen = ["unix:/run/conduit-oauth/agent.sock", "127.0.0.1:8901"]
    local_token_file = "agent.bearer"       # what programs must send that ask for tokens by TCP

    [[agent.outputs]]
    provider = "billing"                    # or a pattern: "*" is each of them
    file = "/run/conduit-oauth/{provider}"  # or directory = …, in the shape of a mounted Kubernetes Secret
    format = "token"
    mode = "0640"
    owner = "billing"
    group = "billing"
    run = ["systemctl", "reload", "billing"]  # after each change; it gets the token on stdin, nothing once that is over

Law: paths are relative to the file, and a mistake names the setting.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigurationError
from ..formats import Format
from ..places import expanded
from ..serving import Address, parse_address
from ..settings import Settings, table_of

_AGENT = frozenset({"listen", "local_token_file", "allow_host", "expose", "outputs"})
_OUTPUT = frozenset({"provider", "file", "directory", "format", "mode", "owner", "group", "run"})
PROVIDER = "{provider}"


@dataclass(frozen=True, slots=True)
class Output:
    """One place for the tokens of the providers that `provider` matches. A `uid` or `gid` of -1 changes nothing."""

    provider: str
    file: Path | None = None
    directory: Path | None = None
    format: Format = Format.TOKEN
    mode: int = 0o600
    uid: int = -1
    gid: int = -1
    command: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the provider's tokens go there."""
        return fnmatchcase(name, self.provider)

    def place(self, name: str) -> Path | None:
        """The file or directory of one provider; None where only a command is run. Raises `ConfigurationError`."""
        place = self.file or self.directory
        if place is None or PROVIDER not in str(place):
            return place
        if "/" in name or name.startswith("."):
            raise ConfigurationError(f"providers.{name}", "is no file name", "Rename it, or give it its own output.")
        return Path(str(place).replace(PROVIDER, name))


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the table `[agent]` says."""

    listen: tuple[Address, ...] = ()
    local_token_file: Path | None = None
    allow_host: tuple[str, ...] = ()
    expose: bool = False
    outputs: tuple[Output, ...] = field(default=())


def read_agent(table: Settings, folder: Path) -> AgentConfig:
    """Read the table `[agent]` of a file in `folder`. Raises `ConfigurationError`."""
    _known(table, _AGENT, "agent")
    folder = folder.absolute()
    listen = table.get("listen", [])
    outputs = table.get("outputs", [])
    if not isinstance(outputs, list):
        raise ConfigurationError("agent.outputs", "is no list of tables", "Write [[agent.outputs]].")
    if not isinstance(expose := table.get("expose", False), bool):
        raise ConfigurationError("agent.expose", "is neither true nor false", "Write true or false.")
    bearer = _text(table, "local_token_file", "agent")
    try:
        addresses = tuple(parse_address(each) for each in _texts([listen] if isinstance(listen, str) else listen))
    except (TypeError, ConfigurationError) as error:
        raise ConfigurationError("agent.listen", str(error), "Write 127.0.0.1:PORT or unix:/path.") from None
    return AgentConfig(
        listen=tuple(
            Address(path=folder / expanded(address.path)) if address.path else address for address in addresses
        ),
        local_token_file=None if bearer is None else folder / expanded(Path(bearer)),
        allow_host=_list(table, "allow_host", "agent"),
        expose=expose,
        outputs=tuple(_output(each, index, folder) for index, each in enumerate(cast("list[object]", outputs), 1)),
    )


def _output(said: object, index: int, folder: Path) -> Output:
    place = f"agent.outputs[{index}]"
    table = table_of(said, place)
    _known(table, _OUTPUT, place)
    provider, file, directory = (_text(table, name, place) for name in ("provider", "file", "directory"))
    command = _list(table, "run", place)
    if provider is None:
        raise ConfigurationError(f"{place}.provider", "is missing", 'Name a provider, or write "*".')
    if (file is not None) + (directory is not None) > 1 or not (file or directory or command):
        raise ConfigurationError(place, "needs a file or a directory, or only a command to run", "Say one of them.")
    if (path := file or directory) and PROVIDER not in path and any(letter in provider for letter in "*?["):
        raise ConfigurationError(place, "would write several tokens to one place", f"Put {PROVIDER} into its path.")
    if directory is not None and "format" in table:
        raise ConfigurationError(
            f"{place}.format", "is for files", "Leave it out: in a directory each fact has a file."
        )
    owner, group, shape = (_text(table, name, place) for name in ("owner", "group", "format"))
    try:
        chosen = Format(shape or Format.TOKEN)
    except ValueError:
        raise ConfigurationError(f"{place}.format", "is unknown", f"There are {', '.join(Format)}.") from None
    return Output(
        provider=provider,
        file=None if file is None else folder / expanded(Path(file)),
        directory=None if directory is None else folder / expanded(Path(directory)),
        format=chosen,
        mode=_mode(_text(table, "mode", place) or "0600", place),
        uid=_identity(owner, lambda name: pwd.getpwnam(name).pw_uid, f"{place}.owner"),
        gid=_identity(group, lambda name: grp.getgrnam(name).gr_gid, f"{place}.group"),
        command=command,
    )


def _mode(said: str, place: str) -> int:
    try:
        mode = int(said, 8)
    except ValueError:
        mode = -1
    if not 0 < mode <= 0o777 or mode & 0o007:
        raise ConfigurationError(f"{place}.mode", f"{said!r} will not do", 'Write it like "0640"; others get nothing.')
    return mode


def _identity(name: str | None, lookup: Callable[[str], int], place: str) -> int:
    if name is None:
        return -1
    try:
        return int(name) if name.isdecimal() else lookup(name)
    except KeyError:
        raise ConfigurationError(place, f"{name!r} is not known on this machine", "Name one that is.") from None


def _known(table: dict[str, Any], names: frozenset[str], place: str) -> None:
    for name in table.keys() - names:
        raise ConfigurationError(f"{place}.{name}", "is no setting", f"There are {', '.join(sorted(names))}.")


def _text(table: dict[str, Any], name: str, place: str) -> str | None:
    value = table.get(name)
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(f"{place}.{name}", "is no text", "Write a string.")
    return value


def _list(table: dict[str, Any], name: str, place: str) -> tuple[str, ...]:
    try:
        return _texts(table.get(name, []))
    except TypeError:
        raise ConfigurationError(f"{place}.{name}", "is no list of strings", 'Write ["…", "…"].') from None


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(each, str) for each in cast("list[object]", value)):
        return tuple(cast("list[str]", value))
    raise TypeError("is no list of strings")
