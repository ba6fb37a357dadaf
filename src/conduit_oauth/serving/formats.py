"""A token as other programs want to read it: a header, a line of `.netrc`, an answer to kubectl."""

from __future__ import annotations

import json
import os
import shlex
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError
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


def formatted(
    shape: Format,
    value: str,
    state: ProviderState,
    provider: TokenProvider,
    *,
    variable: str = VARIABLE,
    login: str = LOGIN,
) -> str:
    """The token `value` of `provider`, without a last line break.

    Raises `ConfigurationError` for a `netrc` entry of an unknown machine, or a strange KUBERNETES_EXEC_INFO.
    """
    kind = token_type(provider)
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
            # A shell may read the line: what is special there is quoted. Most tokens hold nothing of that kind.
            return f"{variable}={shlex.quote(value)}"
        case Format.NETRC:
            return f"machine {_host(provider)} login {login} password {_netrc(value)}"
        case Format.JSON:
            expires = state.expires_at and state.expires_at.isoformat(timespec="seconds")
            said = {"access_token": value, "token_type": kind, "expires_at": expires, "scope": state.granted_scope}
            return json.dumps(said)
        case Format.EXEC_CREDENTIAL:
            return json.dumps(_exec_credential(value, state))


def _escaped(value: str) -> str:
    """As it stands between double quotes in a configuration of curl, and in a `.netrc`."""
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _netrc(value: str) -> str:
    return f'"{_escaped(value)}"' if set(value) & set('"\\#') else value


def token_type(provider: TokenProvider) -> str:
    """How the tokens of `provider` are sent: as `Bearer` or as `DPoP`."""
    return "Bearer" if provider.dpop is None else "DPoP"


def _host(provider: TokenProvider) -> str:
    hosts = {urlsplit(origin).hostname or "" for origin in provider.origins}
    if len(hosts) != 1:
        raise ConfigurationError(
            "resource",
            "is needed to name the machine" if not hosts else "names several machines",
            "Pass one --mcp-url or --resource, or set one mcp_url or resource.",
        )
    return hosts.pop()


def _exec_credential(value: str, state: ProviderState) -> dict[str, Any]:
    """An ExecCredential of the version that kubectl asks for."""
    try:
        asked = json.loads(os.environ.get("KUBERNETES_EXEC_INFO") or "{}").get("apiVersion")
    except (ValueError, AttributeError, RecursionError):
        raise ConfigurationError("KUBERNETES_EXEC_INFO", "is not a JSON object", "kubectl sets it.") from None
    version = asked if asked in (f"{_EXEC_API}/v1", f"{_EXEC_API}/v1beta1") else f"{_EXEC_API}/v1"
    # kubectl asks again after this moment. We would refresh then, too.
    until = state.refresh_at if state.refresh_at and state.refresh_at > datetime.now(UTC) else state.expires_at
    status = {"token": value}
    if until is not None:
        status["expirationTimestamp"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"apiVersion": version, "kind": "ExecCredential", "status": status}
