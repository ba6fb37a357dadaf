"""The commands of `conduit-oauth`, each imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from .._version import __version__
from ..errors import ConfigurationError, OAuthError
from .exits import EXIT_CODES, REFUSED
from .logs import LogFormat, LogLevel, log_to_stderr
from .output import err, plain, quieten
from .streams import prepare_streams

# Of each: its module, the function or the group in it, and its line in the list of commands.
_COMMANDS = {
    "token": ("tokens", "token", "Print an access token, alone or as other programs want it."),
    "exec": ("tokens", "execute", "Run a program with a token in its environment."),
    "revoke": ("tokens", "revoke", "Have the server revoke the cached token, and forget it."),
    "request": ("request", "request", "Send one HTTP request with a token."),
    "bridge": ("bridge", "bridge", "Give an MCP client access to a gateway."),
    "agent": ("agent", "agent", "Keep tokens fresh, and put them where programs read them."),
    "doctor": ("doctor", "doctor", "Try the set-up of a client, and tell what is wrong."),
    "discover": ("discover", "discover", "Show where the token endpoint of a URL is."),
    "inspect": ("inspect", "inspect", "Show what a token says and when it expires."),
    "dev-server": ("dev", "dev_server", "Serve a development authorization server."),
    "demo": ("dev", "demo", "Show the main job on real parts."),
    "profile": ("profiles", "profile", "Keep the settings of clients under names."),
    "cache": ("cache", "cache", "Clear the tokens that the commands keep."),
}


def _convert_late(command: Any) -> None:
    """Convert only the values of `command` that need it: typer has pydantic do that, which takes 0.1 s to import."""
    get_params = command.get_params

    def get_params_late(context: Any) -> list[Any]:
        parameters = get_params(context)
        for parameter in parameters:
            if not isinstance(parameter.process_value, partial):
                parameter.process_value = partial(_processed, parameter, parameter.process_value)
        return parameters

    command.get_params = get_params_late


def _processed(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """What `convert` makes of `value`: itself where it is a default, plain text, or left out."""
    annotation = parameter.type_descriptor.annotation
    if value is None and not parameter.required:
        value = () if parameter.multiple or parameter.nargs == -1 else None
    elif not isinstance(annotation, type) or not isinstance(value, annotation) or not _is_plain(value):
        return convert(context, value)
    return parameter.callback(context, parameter, value) if parameter.callback else value


def _is_plain(value: Any) -> bool:
    """Whether nothing can be wrong with it: text of the command line may be no Unicode."""
    return not isinstance(value, str) or value.isascii()


class _OnDemand(Mapping[str, Any]):
    """The commands by name. What one of them needs is slow to import, and the others do without."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module, attribute, _ = _COMMANDS[name]
            try:
                found = getattr(import_module(f".{module}", __package__), attribute)
            except ModuleNotFoundError as missing:
                raise ConfigurationError(
                    name, f"{missing.name} is not installed", "Install conduit-oauth[cli]."
                ) from None
            if not isinstance(found, typer.Typer):
                command, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
                found.command(name)(command)
            self._loaded[name] = made = typer.main.get_command(found)
            for each in (made, *getattr(made, "commands", {}).values()):
                _convert_late(each)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast("MutableMapping[str, Any]", _OnDemand())

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # The list needs none of the commands themselves.
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, _, summary) in _COMMANDS.items()}
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # its help takes as long to import as all the rest
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # a traceback with locals shows secrets
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by the server, 4 not reachable, "
    f"5 invalid answer or token, 6 discovery failed, {REFUSED} the resource answered 400 or above. "
    "Settings come from options, then CONDUIT_OAUTH_* variables, then the profile.",
)


def _show_version(asked: bool) -> None:
    if asked:
        plain(f"conduit-oauth {__version__}")
        raise typer.Exit


def _be_quiet(asked: bool) -> None:
    quieten(asked)


def _be_verbose(asked: bool) -> None:
    if asked:
        log_to_stderr(LogFormat.TEXT, LogLevel.DEBUG)


@app.callback()
def conduit_oauth(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors only.", callback=_be_quiet)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which requests went where.", callback=_be_verbose)
    ] = False,
) -> None:
    """OAuth 2.1 access tokens for machines (client credentials)."""


def _as_given(error: OAuthError) -> str:
    """The message of an error, with the setting as the user wrote it: as an option, or as a variable."""
    said = str(error)
    if not isinstance(error, ConfigurationError) or not said.startswith(f"{error.field}: "):
        return said
    option, variable = f"--{error.field.replace('_', '-')}", f"CONDUIT_OAUTH_{error.field.upper()}"
    words = {word.partition("=")[0] for word in sys.argv[1:]}
    # What is said of a secret may be of the file that holds it.
    given = [name for name in (option, f"{option}-file") if name in words]
    given += [name for name in (variable, f"{variable}_FILE") if os.environ.get(name)]
    return "".join((*given[:1], said.removeprefix(error.field))) if given else said


def complain(error: OAuthError) -> int:
    """Print what went wrong; the exit status that goes with it."""
    quieten(False)
    err.print(Text("error:", style="bold red"), end=" ")
    err.out(_as_given(error), highlight=False)
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def run() -> int:
    """Run the command line; the exit status."""
    status: int | str | None = 0
    try:
        prepare_streams()
        try:
            command = typer.main.get_command(app)
            _convert_late(command)
            command()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OAuthError as error:
        return complain(error)
    return status if isinstance(status, int) else 1
