"""`conduit-oauth profile add|list|show|remove`: profiles without an editor, and secrets without a file of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, cast

import tomlkit
import typer
from rich.table import Table
from rich.text import Text
from tomlkit.items import InlineTable

from ..errors import ConfigurationError
from ..identity.sources import check_encodable
from ..masking import clean
from ..places import expanded, is_there
from ..provider import TokenProvider
from ..settings import CREDENTIALS, SECRETS, read_table, table_of
from ..stores import hide_password
from .options import Config, as_client, complete_profile
from .output import err, out, plain
from .profile import Options, profiles_in, read_secret
from .profile_file import check_that_it_can_be_saved, read_document, save_document
from .vault import forget_secret, keep_secret

profile = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Keep what commands need to know of a client under a name."
)

Name = Annotated[str, typer.Argument(help="Name of the profile.", autocompletion=complete_profile)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
_SECRET = SECRETS | {"dpop", "token_request_headers"}
_WHERE = (
    ("mcp_url", "MCP endpoint (URL; empty if there is none)"),
    ("issuer", "Issuer (URL; empty if it publishes no metadata)"),
    ("token_endpoint", "Token endpoint (URL)"),
)
_PLACES = {setting for setting, _ in _WHERE}
# Stands for the one that was not asked for yet; nobody asks it.
_ANY_ENDPOINT = "https://as.example/token"


@profile.command("add", short_help="Make a profile, and keep its secret.")
@as_client
def add(
    options: Options,
    name: Name = "default",
    private_key: Annotated[
        Path | None, typer.Option(help="File with the key that signs the client's assertions, not a secret.", **_FILE)
    ] = None,
    client_certificate: Annotated[
        Path | None, typer.Option(help="File with the certificate the client proves itself with (RFC 8705).", **_FILE)
    ] = None,
    client_certificate_key: Annotated[Path | None, typer.Option(help="File with its key.", **_FILE)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a profile of that name.")] = False,
) -> None:
    """Make a profile: asks for what no option says, and puts the secret into the keyring, or a file of mode 0600.

    \b
    conduit-oauth profile add
    conduit-oauth profile add billing --client-id billing --mcp-url https://gateway.example/mcp < secret.txt
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigurationError("name", f"{name!r} is no name", "Use letters, digits, '.', '_' and '-'.")
    path = options.path
    document = read_document(path)
    profiles = document.setdefault("profiles", tomlkit.table(is_super_table=True))
    if name in profiles and not replace:
        raise ConfigurationError("name", f"{name!r} is in {path} already", "Choose another, or pass --replace.")
    if isinstance(profiles, InlineTable):
        raise ConfigurationError(
            "config", f"{path}: profiles is an inline table", "Write a table [profiles.NAME] each."
        )
    said = {setting: value for setting, value in options.settings.items() if value is not None}
    said |= _keys(private_key, client_certificate, client_certificate_key)
    proves_itself = said.keys() & CREDENTIALS or said.get("token_endpoint_auth_method") == "none"
    file, secret = options.client_secret_file, None
    if not proves_itself and (file is not None or not sys.stdin.isatty()):
        secret = read_secret(None if file is None or str(file) == "-" else expanded(file))
    if sys.stdin.isatty():
        # What a person answers must not be lost to what was wrong before.
        rest = {} if said.keys() & _PLACES else {"token_endpoint": _ANY_ENDPOINT}
        _check(name, {"client_id": "-", **rest, **said}, None if proves_itself else "-", path.parent)
        check_that_it_can_be_saved(path)
        said = _asked(said)
        if not proves_itself and secret is None:
            secret = _answer("client_secret", "Client secret", ask=getpass)
    _check(name, said, secret, path.parent)
    # Where it cannot be written, the secret that a replaced profile has must stay.
    save_document(path, document)
    before = cast("Mapping[str, Any]", profiles.get(name, {})).get("client_secret")
    where = ""
    if secret is not None:
        source, kept = keep_secret(name, secret, path)
        where = f", its secret {kept}"
        said["client_secret"] = tomlkit.inline_table()
        for key, value in source.items():
            said["client_secret"][key] = value
    profiles[name] = tomlkit.item(said)
    save_document(path, document)
    if before != said.get("client_secret"):
        forget_secret(name, before, path)
    err.print(f"Profile {name} is in {path}{where}.", soft_wrap=True)
    err.print(f"See whether it works: conduit-oauth doctor --profile {name}", soft_wrap=True)


@profile.command("list")
def list_profiles(config: Config = None, as_json: AsJson = False) -> None:
    """List the profiles.

    \b
    conduit-oauth profile list
    """
    path = Options({}, config=config).path
    rows: list[dict[str, Any]] = []
    for name, said in profiles_in(path).items() if is_there(path) else ():
        settings = table_of(said, f"profiles.{name}")
        where = next((settings[key] for key, _ in _WHERE if key in settings), "")
        rows.append(
            {
                "profile": name,
                "client_id": settings.get("client_id", ""),
                "url": where,
                "scope": settings.get("scope", ""),
            }
        )
    if as_json:
        plain(json.dumps(rows, default=str))
        return
    table = Table("profile", "client", "where", "scope")
    for row in rows:
        table.add_row(*(Text(clean(str(cell))) for cell in row.values()))
    if table.row_count:
        out.print(table)
    else:
        err.print(f"There are none in {path}. Make one: conduit-oauth profile add", soft_wrap=True)


@profile.command("show")
def show(name: Name = "default", config: Config = None, as_json: AsJson = False) -> None:
    """Show a profile, and where its secret is; never the secret.

    \b
    conduit-oauth profile show billing
    """
    path = Options({}, config=config).path
    settings: dict[str, Any] = {}
    for setting, value in table_of(_existing(profiles_in(path), name, path), f"profiles.{name}").items():
        shown = hide_password(value) if setting == "store" and isinstance(value, str) else value
        settings[setting] = _without_secrets(shown) if setting in _SECRET else shown
    if as_json:
        plain(json.dumps(settings, default=str))
        return
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for setting, value in settings.items():
        table.add_row(setting, Text(clean(_words(value))))
    out.print(table)


@profile.command("remove", short_help="Remove a profile, and its secret.")
def remove(
    name: Name,
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a profile, and its secret from the keyring or the file that `profile add` put it into.

    \b
    conduit-oauth profile remove billing --yes
    """
    path = Options({}, config=config).path
    document = read_document(path)
    profiles = cast("dict[str, Any]", document).get("profiles", {})
    said = _existing(profiles, name, path)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigurationError("yes", "is missing, and there is nobody to ask", "Pass --yes.")
        typer.confirm(f"Remove the profile {name} of {path}?", abort=True, err=True)
    forget_secret(name, said.get("client_secret"), path)
    del profiles[name]
    save_document(path, document)


def _keys(private_key: Path | None, certificate: Path | None, certificate_key: Path | None) -> dict[str, Any]:
    """The settings that lead to the files of a key, or of a certificate and its key, from anywhere."""
    said: dict[str, Any] = {}
    if private_key is not None:
        said["private_key"] = {"file": _from_anywhere(private_key, "private_key")}
    if certificate is not None:
        if certificate_key is None:
            raise ConfigurationError("client_certificate_key", "is missing", "Pass --client-certificate-key FILE.")
        pair = (certificate, "client_certificate"), (certificate_key, "client_certificate_key")
        said["client_certificate"] = [_from_anywhere(file, option) for file, option in pair]
    return said


def _from_anywhere(file: Path, option: str) -> str:
    path = str(expanded(file).absolute())
    check_encodable(path, option)
    return path


def _asked(said: dict[str, Any]) -> dict[str, Any]:
    """What was said, and what a person adds to it."""
    if "client_id" not in said:
        said["client_id"] = _answer("client_id", "Client identifier")
    for setting, question in _WHERE:
        if not said.keys() & _PLACES:
            answer = _answer(setting, question, optional=setting != _WHERE[-1][0])
            said |= {setting: answer} if answer else {}
    if "scope" not in said and (scope := _answer("scope", "Scope (optional)", optional=True)):
        said["scope"] = scope
    return said


def _answer(setting: str, question: str, *, optional: bool = False, ask: Callable[..., str] | None = None) -> str:
    """The answer to a question, which is asked again until it will do as `setting`."""
    while True:
        answer = (ask or _prompt)(f"{question}: ")
        if not answer.strip() and optional:
            return ""
        try:
            if not answer.strip():
                raise ConfigurationError(setting, "is empty", "Enter it, or press Ctrl-C.")
            settings: dict[str, Any] = {"client_id": "-", "client_secret": "-", "store": "memory:", setting: answer}
            if setting not in _PLACES:
                settings["token_endpoint"] = _ANY_ENDPOINT
            TokenProvider(**settings).close()
        except ConfigurationError as error:
            err.out(f"This {error.problem}. {error.advice}", highlight=False)
        else:
            return answer


def _prompt(question: str) -> str:
    return typer.prompt(question, default="", show_default=False, prompt_suffix="", err=True)


def _check(name: str, said: dict[str, Any], secret: str | None, folder: Path) -> None:
    """Raise `ConfigurationError` for what could not be used later."""
    settings: dict[str, Any] = {**read_table(f"profiles.{name}", said, folder), "store": "memory:"}
    if secret is not None:
        settings["client_secret"] = secret
    TokenProvider(settings.pop("client_id", ""), **settings).close()


def _existing(profiles: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    if name not in profiles:
        raise ConfigurationError("name", f"{name!r} is not in {path}", f"It has {', '.join(profiles) or 'none'}.")
    return profiles[name]


def _without_secrets(value: object) -> object:
    """The places of secrets. A text in their stead is a secret, which must not be in the file: it is not shown."""
    match value:
        case {"file": str()} | {"environment": str()} | {"keyring": str()}:
            return value
        case list():
            return [_without_secrets(each) for each in cast("list[object]", value)]
        case dict():
            return {name: _without_secrets(each) for name, each in cast("dict[str, object]", value).items()}
        case bool():
            return value
        case _:
            return "(a secret, which must not be in the file)"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {said}" for key, said in cast("dict[str, object]", value).items())
    return str(value)
