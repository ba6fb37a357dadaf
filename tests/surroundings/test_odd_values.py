"""Settings that nothing can be made of: an error that names the setting, never a traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError, TokenProvider, TokenProviders
from conduit_oauth.agent.config import read_agent
from conduit_oauth.stores import open_store
from tests.conftest import COMMAND

# What Python makes of a byte that is no UTF-8, in arguments and in the environment.
NO_UTF8 = "very-secret-\udcff"
TOO_LONG = "x" * 300
NUL = "a\0b"
ENDPOINT = {"token_endpoint": "https://127.0.0.1:1/token"}


def broken() -> str:
    raise LookupError("very-secret")


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("client_id", {"client_id": NO_UTF8, "client_secret": "b"}),
        ("audience", {"client_secret": "b", "audience": NO_UTF8}),
        ("extra_parameters", {"client_secret": "b", "extra_parameters": {"a": NO_UTF8}}),
        ("extra_parameters", {"client_secret": "b", "extra_parameters": {NO_UTF8: "a"}}),
        ("insecure_hosts", {"client_secret": "b", "insecure_hosts": 5}),
        ("client_secret", {"client_secret": NO_UTF8}),
        ("client_secret", {"client_secret": lambda: NO_UTF8}),
        ("client_secret", {"client_secret": Path(NUL)}),
        ("client_secret", {"client_secret": Path(TOO_LONG)}),
        ("client_secret", {"client_secret": broken}),
        ("private_key", {"private_key": broken}),
        ("client_certificate", {"client_certificate": "client.pem"}),
        ("client_certificate", {"client_certificate": ("client.pem",)}),
        ("client_certificate", {"client_certificate": (5, 5)}),
        ("ca_file", {"client_secret": "b", "ca_file": 5}),
        ("ca_file", {"client_secret": "b", "ca_file": NUL}),
        ("ca_file", {"client_secret": "b", "ca_file": "\ud800"}),
        ("token_endpoint_auth_method", {"client_secret": "b", "token_endpoint_auth_method": ["none"]}),
        ("extra_parameters", {"client_secret": "b", "extra_parameters": 5}),
        ("extra_parameters", {"client_secret": "b", "extra_parameters": {1: "a"}}),
        ("token_request_headers", {"client_secret": "b", "token_request_headers": ["a"]}),
        ("token_request_headers", {"client_secret": "b", "token_request_headers": {1: "a"}}),
        ("timeout", {"client_secret": "b", "timeout": 10**400}),
        ("timeout", {"client_secret": "b", "timeout": 1e10}),
        ("refresh_ahead", {"client_secret": "b", "refresh_ahead": float("nan")}),
        ("clock", {"client_secret": "b", "clock": 5}),
        ("clock", {"client_secret": "b", "clock": None}),
        ("observer", {"client_secret": "b", "observer": 5}),
    ],
)
def test_a_provider_names_the_setting(field: str, settings: dict[str, Any]) -> None:
    with (
        pytest.raises(ConfigurationError) as caught,
        TokenProvider(**{"client_id": "a", **ENDPOINT, **settings}) as made,
    ):
        made.get_token()
    assert caught.value.field == field
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://user:very-secret@[::1", "sqlite://[", "sqlite:///a%00b", "very-secret@["])
def test_a_store_names_itself(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^store: ") as caught:
        open_store(url, 1.0)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"file": NUL}, "file"),
        ({"directory": NUL}, "directory"),
        ({"run": ["true", NUL]}, "run"),
        ({"run": ["true"], "owner": NUL}, "owner"),
        ({"run": ["true"], "owner": "4294967295"}, "owner"),
        ({"run": ["true"], "group": "99999999999999999999"}, "group"),
    ],
)
def test_an_agent_names_the_setting(table: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_agent({"outputs": [{"provider": "a", **table}]}, tmp_path)
    assert caught.value.field == f"agent.outputs[1].{field}"


@pytest.mark.parametrize("setting", ["ca_file", "private_key_password.file"])
def test_a_file_of_settings_names_the_path_that_is_none(setting: str, tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(f'[providers.a]\nclient_id = "a"\n{setting} = "a\\u0000b"\n')
    with pytest.raises(ConfigurationError) as caught:
        TokenProviders(file)
    assert caught.value.field == f"providers.a.{setting.partition('.')[0]}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["token", "--config", TOO_LONG], "--config: "),
        (["token", "--client-secret-file", TOO_LONG], "--client-secret-file: "),
        (["token", "--client-id", NO_UTF8], "--client-id: "),
        (["token", "--store", "redis://[::1"], "--store: "),
        (["exec", "--", ""], "command: "),
        (["exec", "--variable", "a=b", "--", "true"], "--variable: "),
        (["dev-server", "--host", NO_UTF8], "--host: "),
    ],
    ids=lambda value: " ".join(value)[:30].encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_a_command_names_the_option(arguments: list[str], said: str, tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "CONDUIT_OAUTH_CLIENT_ID": "a",
        "CONDUIT_OAUTH_TOKEN_ENDPOINT": ENDPOINT["token_endpoint"],
        "CONDUIT_OAUTH_CLIENT_SECRET": "b",
    }
    done = subprocess.run(
        [COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {said}" in done.stderr
    assert "Traceback" not in done.stderr
