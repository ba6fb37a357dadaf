"""The options that every command shares which acts as a client, said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .profile import Options, names_of_profiles


def complete_profile(context: typer.Context, incomplete: str) -> list[str]:
    """The profiles whose names begin with `incomplete`."""
    config = context.params.get("config")
    return [name for name in names_of_profiles(config and Path(config)) if name.startswith(incomplete)]


Profile = Annotated[
    str | None,
    typer.Option(
        help="Profile of the configuration file ('default' if there is one).", autocompletion=complete_profile
    ),
]
Config = Annotated[Path | None, typer.Option(help="Configuration file (TOML).")]
CaFile = Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust in place of the platform's.")]


def _signature(
    client_id: Annotated[str | None, typer.Option(help="Client identifier.", metavar="ID")] = None,
    client_secret_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the client secret; - reads standard input. Else CONDUIT_OAUTH_CLIENT_SECRET, the profile, "
            "or a prompt."
        ),
    ] = None,
    token_endpoint: Annotated[str | None, typer.Option(help="Token endpoint.", metavar="URL")] = None,
    mcp_url: Annotated[
        str | None, typer.Option(help="MCP endpoint; the token endpoint is found from it.", metavar="URL")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(help="Issuer; its metadata names the token endpoint.", metavar="URL")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Scope to ask for, space-separated.")] = None,
    introspection_endpoint: Annotated[
        str | None, typer.Option(help="Introspection endpoint, where no metadata names it.", metavar="URL")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="Resource indicator (RFC 8707); may be repeated.", metavar="URI")
    ] = None,
    no_resource: Annotated[
        bool, typer.Option("--no-resource", help="Send no resource, though the MCP endpoint is known.")
    ] = False,
    audience: Annotated[
        str | None, typer.Option(help="Audience, where a server wants it instead of a resource.")
    ] = None,
    token_endpoint_auth_method: Annotated[
        str | None, typer.Option(help="client_secret_post, client_secret_basic, private_key_jwt, …", metavar="METHOD")
    ] = None,
    dpop: Annotated[bool, typer.Option("--dpop", help="Ask for tokens that are bound to a key (RFC 9449).")] = False,
    ca_file: CaFile = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the token at most.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Where tokens are kept: sqlite: by default, memory: for nowhere.")
    ] = None,
    profile: Profile = None,
    config: Config = None,
) -> None: ...


_SHARED = [
    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint)
    for parameter, hint in zip(
        inspect.signature(_signature).parameters.values(),
        get_type_hints(_signature, include_extras=True).values(),
        strict=False,
    )
]


def _given(value: Any) -> Any:
    """None for an option that was left out: a switch that is off, a list that is empty."""
    return None if value is False or value == [] else value


def as_client(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the shared options; it gets them as one `Options`, its argument `options`."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "options"
    ]

    def run(**given: Any) -> None:
        # What was not given is None, whatever the command-line framework makes of it.
        shared = {parameter.name: _given(given.pop(parameter.name)) for parameter in _SHARED}
        if shared["resource"] is not None and len(shared["resource"]) == 1:
            (shared["resource"],) = shared["resource"]
        if shared.pop("no_resource"):
            shared["resource"] = False
        where = {name: shared.pop(name) for name in ("client_secret_file", "profile", "config")}
        command(options=Options(shared, **where), **given)

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__signature__ = inspect.Signature([*own, *_SHARED])  # type: ignore[attr-defined] - how inspect has it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *_SHARED)}
    return run
