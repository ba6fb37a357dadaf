"""Folders that a command makes for its files are this user's alone, whatever the umask."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

SETTINGS = ("--client-id", "demo", "--token-endpoint", "https://as.example/token")


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (["token"], ".cache/conduit-oauth/tokens.sqlite3"),
        (["profile", "add", "other", *SETTINGS, "--client-secret-file", "-"], ".config/conduit-oauth/config.toml"),
        (
            ["bridge", "--print-config", "cursor", "--listen", "127.0.0.1:8900", "--mcp-url", "https://a.example/mcp"],
            ".local/state/conduit-oauth/bridge.token",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_each_folder_on_the_way_is_private(
    command: list[str],
    made: str,
    client_environment: dict[str, str],
    authorization_server: AuthorizationServer,
    tmp_path: Path,
) -> None:
    home = tmp_path / "missing" / "home"
    environment = {name: value for name, value in client_environment.items() if not name.startswith("XDG_")}
    done = subprocess.run(
        [COMMAND, *command],
        env={
            **environment,
            "HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "CONDUIT_OAUTH_TOKEN_ENDPOINT": authorization_server.token_endpoint(),
        },
        input="a-secret",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        umask=0,
    )
    assert done.returncode == 0, done.stderr
    assert (home / made).is_file()
    folders = [each for each in (home / made).parents if each.is_relative_to(tmp_path / "missing")]
    assert {stat.S_IMODE(each.stat().st_mode) for each in folders} == {0o700}
