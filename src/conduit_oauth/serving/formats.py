"""A token as other programs want to read it: a header, a line of `.netrc`, an answer to kubectl."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..lifecycle.state import ProviderState
    from ..provider import TokenProvider

VARIABLE = "CONDUIT_OAUTH_TOKEN"
LOGIN = "oauth2accesstoken"
_EXEC_API = "client.authentication.k8s.io"


class Format(StrEnum):
    """How a token is written."""

    TOKEN = "token"  # noqa: S105
    JSON = "json"
    HEADER = "header"
    HEADERS_JSON = "headers-json"
    ENV = "env"
    NETRC = "netrc"
    CURL_CONFIG = "curl-config"
    EXEC_CREDENTIAL = "exec-credential"


class Issued(NamedTuple):
    """A token, and what other programs want to know of it."""

    value: str
    token_type: str
    scope: str | None
    refresh_at: datetime | None
    expires_at: datetime | None
    # The origins that it may be sent to.
    origins: tuple[str, ...]


def check_that_others_can_use(provider: TokenProvider) -> None:
    """Raise `ConfigurationError` where nobody but this process could use a token of `provider`."""
    if provider.dpop is not None and not provider.dpop.configured:
        raise ConfigurationError(
            "dpop", "binds the token to a key that this process alone has", "Name a key: dpop = { file = … }."
        )


def issued(provider: TokenProvider, value: str, state: ProviderState) -> Issued:
    """The token `value` of `provider`, whose state is `state`."""
    return Issued(
        value, token_type(provider), state.granted_scope, state.refresh_at, state.expires_at, provider.origins
    )


def formatted(shape: Format, token: Issued, *, variable: str = VARIABLE, login: str = LOGIN) -> str:
    """`token` as `shape` has it, without a last line break.

    Raises `ConfigurationError` for a `netrc` entry of an unknown machine, a `variable` or a `login` that cannot be
    one, or a strange KUBERNETES_EXEC_INFO.
    """
    value, kind = token.value, token.token_type
    match shape:
        case Format.TOKEN:
            return value
        case Format.HEADER:
            return f"Authorization: {kind} {value}"
        case Format.HEADERS_JSON:
            return json.dumps({"Authorization": f"{kind} {value}"})
        case Format.CURL_CONFIG:
            return f'header = "Authorization: {kind} {_escaped(value)}"'
        case Format.ENV:
            from shlex import quote

            # A shell may read the line: what is special there is quoted. Most tokens hold nothing of that kind.
            if not (variable.isascii() and variable.isidentifier()):
                raise ConfigurationError("variable", f"{variable!r} is no variable of a shell", "Name another.")
            return f"{variable}={quote(value)}"
        case Format.NETRC:
            if not login or not all("!" <= letter <= "~" for letter in login) or set(login) & set('"\\#'):
                raise ConfigurationError("login", f"{login!r} cannot stand in a .netrc", "Use letters and digits.")
            return f"machine {_host(token.origins)} login {login} password {_netrc(value)}"
        case Format.JSON:
            expires = token.expires_at and token.expires_at.isoformat(timespec="seconds")
            said = {"access_token": value, "token_type": kind, "expires_at": expires, "scope": token.scope}
            return json.dumps(said)
        case Format.EXEC_CREDENTIAL:
            return json.dumps(_exec_credential(token))


def _escaped(value: str) -> str:
    """As it stands between double quotes in a configuration of curl, and in a `.netrc`."""
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _netrc(value: str) -> str:
    return f'"{_escaped(value)}"' if set(value) & set('"\\#') else value


def token_type(provider: TokenProvider) -> str:
    """How the tokens of `provider` are sent: as `Bearer` or as `DPoP`."""
    return "Bearer" if provider.dpop is None else "DPoP"


def _host(origins: tuple[str, ...]) -> str:
    from urllib.parse import urlsplit

    hosts = {urlsplit(origin).hostname or "" for origin in origins}
    if len(hosts) != 1:
        raise ConfigurationError(
            "resource",
            "is needed to name the machine" if not hosts else "names several machines",
            "Pass one --mcp-url or --resource, or set one mcp_url or resource.",
        )
    return hosts.pop()


def _exec_credential(token: Issued) -> dict[str, Any]:
    """An ExecCredential of the version that kubectl asks for."""
    try:
        asked = json.loads(os.environ.get("KUBERNETES_EXEC_INFO") or "{}").get("apiVersion")
    except (ValueError, AttributeError, RecursionError):
        raise ConfigurationError("KUBERNETES_EXEC_INFO", "is not a JSON object", "kubectl sets it.") from None
    version = asked if asked in (f"{_EXEC_API}/v1", f"{_EXEC_API}/v1beta1") else f"{_EXEC_API}/v1"
    # kubectl asks again after this moment. We would refresh then, too.
    until = token.refresh_at if token.refresh_at and token.refresh_at > datetime.now(UTC) else token.expires_at
    status = {"token": token.value}
    if until is not None:
        status["expirationTimestamp"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"apiVersion": version, "kind": "ExecCredential", "status": status}
