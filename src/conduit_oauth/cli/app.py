"""The commands of `conduit-oauth`, each imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperGroup

from ..errors import ConfigurationError, OAuthError
from .exits import EXIT_CODES, REFUSED
from .output import err, prepare_streams

# The module and the function, or the group, of each.
_COMMANDS = {
    "token": ("tokens", "token"),
    "exec": ("tokens", "execute"),
    "request": ("request", "request"),
    "bridge": ("bridge", "bridge"),
    "agent": ("agent", "agent"),
    "doctor": ("doctor", "doctor"),
    "discover": ("discover", "discover"),
    "inspect": ("inspect", "inspect"),
    "dev-server": ("dev", "dev_server"),
    "demo": ("dev", "demo"),
    "profile": ("profiles", "profile"),
}


class _OnDemand(Mapping[str, Any]):
    """The commands by name. What one of them needs is slow to import, and the others do without."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module, attribute = _COMMANDS[name]
            try:
                found = getattr(import_module(f".{module}", __package__), attribute)
            except ModuleNotFoundError as missing:
                raise ConfigurationError(
                    name, f"{missing.name} is not installed", "Install conduit-oauth[cli]."
                ) from None
            if not isinstance(found, typer.Typer):
                command, found = found, typer.Typer(add_completion=False)
                found.command(name)(command)
            self._loaded[name] = typer.main.get_command(found)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast("MutableMapping[str, Any]", _OnDemand())


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with locals shows secrets
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused by the server, 4 not reachable, "
    f"5 invalid answer or token, 6 discovery failed, {REFUSED} the resource answered 400 or above. "
    "Settings come from options, then CONDUIT_OAUTH_* variables, then the profile.",
)


@app.callback()
def conduit_oauth() -> None:
    """OAuth 2.1 access tokens for machines (client credentials)."""


def run() -> int:
    """Run the command line; the exit status."""
    status: int | str | None = 0
    try:
        prepare_streams()
        try:
            app()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OAuthError as error:
        err.print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
        err.out(str(error), highlight=False)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return status if isinstance(status, int) else 1
