"""What the agent's file says beside the providers themselves, which are in the form of `conduit_oauth.settings`.

    [agent]
    listen = ["unix:/run/conduit-oauth/agent.sock", "127.0.0.1:8901"]
    socket_mode = "0660"                    # of the Unix socket; 0600 where nothing is said
    socket_group = "billing"
    local_token_file = "agent.bearer"       # what programs must send that ask for tokens by TCP

    [[agent.outputs]]
    provider = "billing"                    # or a pattern: "*" is each of them
    file = "/run/conduit-oauth/{provider}"  # or directory = …, in the shape of a mounted Kubernetes Secret
    format = "token"
    mode = "0640"
    owner = "billing"
    group = "billing"
    run = ["systemctl", "reload", "billing"]  # after each change; it gets the token on stdin, if there is one

Invariant: Paths are relative to the file, and an error names the setting.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigurationError
from ..identity.sources import read_text
from ..places import path_in_file
from ..serving.formats import Format
from ..serving.listening import Address, access_of, host_name, parse_address
from ..serving.owners import group_of, mode_of, user_of
from ..settings import Settings, table_of

_AGENT = frozenset({"listen", "socket_mode", "socket_group", "local_token_file", "allow_host", "expose", "outputs"})
_OUTPUT = frozenset({"provider", "file", "directory", "format", "mode", "owner", "group", "run"})
PROVIDER = "{provider}"
# In bytes (unix(7)).
_LONGEST_SOCKET = 107


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

    @property
    def shape(self) -> tuple[object, ...]:
        """What a file is written anew for when it changes."""
        return self.format, self.mode, self.uid, self.gid

    @property
    def template(self) -> str | None:
        """The path that is written to, before a provider's name is put in."""
        place = self.file or self.directory
        return None if place is None else os.path.normpath(place)

    def overlaps(self, other: Output) -> bool:
        """Whether both may want one provider's tokens."""
        return fnmatchcase(self.provider, other.provider) or fnmatchcase(other.provider, self.provider)

    def slot(self, name: str) -> str:
        """What this output is for one provider, whatever else of it changes. Raises `ConfigurationError`."""
        place = self.place(name)
        return str(place) if place is not None else f"{name}: {shlex.join(self.command)}"

    def wants(self, name: str) -> bool:
        """Whether the provider's tokens go there."""
        return fnmatchcase(name, self.provider)

    def place(self, name: str) -> Path | None:
        """The file or directory of one provider; None where only a command is run. Raises `ConfigurationError`."""
        place = self.file or self.directory
        if place is None or PROVIDER not in str(place):
            return place
        if "/" in name or "\0" in name or name.startswith("."):
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

    def problems(self, names: Sequence[str]) -> list[str]:
        """What is wrong though the file can be read: with what it names, for providers of these names."""
        found: list[ConfigurationError] = []
        for index, output in enumerate(self.outputs, 1):
            wanted = [name for name in names if output.wants(name)]
            if not wanted:
                problem = f"{output.provider!r} is no provider of this file"
                found.append(ConfigurationError(f"agent.outputs[{index}].provider", problem, "Name one that is."))
            for name in wanted:
                try:
                    output.place(name)
                except ConfigurationError as error:
                    found.append(error)
        for address in self.listen:
            try:
                access_of(address, None, self.allow_host, expose=self.expose)
            except ConfigurationError as error:
                found.append(error.within("agent"))
            if address.path is not None and len(os.fsencode(address.path)) > _LONGEST_SOCKET:
                problem = f"{address.path} is longer than the {_LONGEST_SOCKET} bytes of a socket's path"
                found.append(ConfigurationError("agent.listen", problem, "Choose a shorter one."))
        if self.local_token_file is not None:
            try:
                read_text(self.local_token_file, "agent.local_token_file")
            except ConfigurationError as error:
                found.append(error)
        return [str(error) for error in found]


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
    mode = mode_of(_text(table, "socket_mode", "agent") or "0600", "agent.socket_mode")
    gid = group_of(_text(table, "socket_group", "agent"), "agent.socket_group")
    return AgentConfig(
        listen=tuple(
            Address(path=path_in_file(str(address.path), folder, "agent.listen"), mode=mode, gid=gid)
            if address.path
            else address
            for address in addresses
        ),
        local_token_file=None if bearer is None else path_in_file(bearer, folder, "agent.local_token_file"),
        allow_host=tuple(host_name(each, "agent.allow_host") for each in _list(table, "allow_host", "agent")),
        expose=expose,
        outputs=_apart([_output(each, index, folder) for index, each in enumerate(cast("list[object]", outputs), 1)]),
    )


def _apart(outputs: list[Output]) -> tuple[Output, ...]:
    """The outputs, none of which writes to the place of another. Raises `ConfigurationError`."""
    first: dict[str, int] = {}
    for index, output in enumerate(outputs, 1):
        place = output.template
        if place is None:
            continue
        other = first.setdefault(place, index)
        if other != index and (PROVIDER not in place or outputs[other - 1].overlaps(output)):
            raise _on_one_place(index, other)
    for index, output in enumerate(outputs, 1):
        before, pattern, after = (output.template or "").partition(PROVIDER)
        for place, other in first.items() if pattern else ():
            name = place[len(before) : len(place) - len(after)]
            if place == before + name + after and name and PROVIDER not in place and output.wants(name):
                raise _on_one_place(max(index, other), min(index, other))
    return tuple(outputs)


def _on_one_place(index: int, other: int) -> ConfigurationError:
    return ConfigurationError(
        f"agent.outputs[{index}]", f"would write to the place of agent.outputs[{other}]", "Give each its own."
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
    owner, shape = (_text(table, name, place) for name in ("owner", "format"))
    try:
        chosen = Format(shape or Format.TOKEN)
    except ValueError:
        raise ConfigurationError(f"{place}.format", "is unknown", f"There are {', '.join(Format)}.") from None
    return Output(
        provider=provider,
        file=None if file is None else path_in_file(file, folder, f"{place}.file"),
        directory=None if directory is None else path_in_file(directory, folder, f"{place}.directory"),
        format=chosen,
        mode=mode_of(_text(table, "mode", place) or "0600", f"{place}.mode"),
        uid=user_of(owner, f"{place}.owner"),
        gid=group_of(_text(table, "group", place), f"{place}.group"),
        command=_resolved(command, folder, f"{place}.run"),
    )


def _resolved(command: tuple[str, ...], folder: Path, place: str) -> tuple[str, ...]:
    """A program that is named by a path is found from the file, as every path is. Raises `ConfigurationError`."""
    if any("\0" in word for word in command):
        raise ConfigurationError(place, "has a NUL, which no argument can have", "Take it out.")
    if not command or "/" not in command[0]:
        return command
    return str(path_in_file(command[0], folder, place)), *command[1:]


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
