"""What another user put where our files are expected is not used: in /tmp, or where HOME is such a folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from conduit_oauth.stores.sqlite_rows import KEY_LENGTH, key_file
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND, MakeProvider
from tests.resource_server import ResourceServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a file to another user")
MALLORY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One for everybody, in which another user made the folders first."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o1777)
    for kind in (".config", ".cache", ".local/state"):
        (home / kind / "conduit-oauth").mkdir(parents=True)
        os.chown(home / kind.partition("/")[0], MALLORY, MALLORY)
    return home


def run(home: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_profile(home: Path, client_environment: dict[str, str], resource_server: ResourceServer) -> None:
    """Or it would lead a secret that the environment holds to a server of that user."""
    profile = f'[profiles.default]\ntoken_endpoint = "{resource_server.url}/token"\n'
    (home / ".config" / "conduit-oauth" / "config.toml").write_text(profile)
    assert run(home, client_environment, "token").returncode == 2
    assert resource_server.requests == []
    named = run(home, client_environment, "token", "--profile", "default")
    assert (named.returncode, "may be another user's" in named.stderr) == (2, True)


def test_a_token_of_the_bridge(home: Path, client_environment: dict[str, str]) -> None:
    (home / ".local" / "state" / "conduit-oauth" / "bridge.token").write_text("known-to-mallory\n")
    options = "--print-config", "cursor", "--listen", "127.0.0.1:8900", "--mcp-url", "https://a.example/mcp"
    done = run(home, client_environment, "bridge", *options)
    assert (done.returncode, "may be another user's" in done.stderr) == (2, True)
    assert "known-to-mallory" not in done.stdout


def test_what_an_agent_before_had_written(
    home: Path, client_environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    """Or the agent would remove a file that this user names, and run a command."""
    config, victim, token = tmp_path / "agent.toml", tmp_path / "victim", tmp_path / "token"
    config.write_text(
        f"""
        [providers.billing]
        client_id = "{authorization_server.client_id}"
        client_secret = {{ environment = "CONDUIT_OAUTH_CLIENT_SECRET" }}
        token_endpoint = "{authorization_server.token_endpoint()}"
        [[agent.outputs]]
        provider = "billing"
        file = "{token}"
        """
    )
    victim.write_text("precious")
    place = {"file": str(victim), "directory": None, "mode": 0o600, "uid": -1, "gid": -1}
    planted = {str(victim): {"name": "gone", **place, "command": ["touch", str(tmp_path / "ran")]}}
    ledger = hashlib.sha256(os.fsencode(config)).hexdigest()[:16]
    (home / ".cache" / "conduit-oauth" / f"agent-{ledger}.json").write_text(json.dumps(planted))
    assert run(home, client_environment, "agent", "--config", str(config), "--once").returncode == 0
    assert token.exists()
    assert (victim.exists(), (tmp_path / "ran").exists()) == (True, False)


@pytest.mark.parametrize(
    ("mode", "how", "is_used"),
    [
        (0o1777, "a file", False),
        (0o1777, "a link", False),
        # What only we can put there is ours, whoever it belongs to: a volume of Kubernetes.
        (0o0770, "a file", True),
    ],
)
def test_the_key_of_a_store(
    mode: int,
    how: str,
    is_used: bool,
    make_provider: MakeProvider,
    authorization_server: AuthorizationServer,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    store = folder / "tokens.db"
    planted = key_file(store) if how == "a file" else folder / "known"
    planted.write_bytes(b"k" * KEY_LENGTH)
    os.chown(planted, MALLORY, MALLORY)
    if how == "a link":
        key_file(store).symlink_to(planted)
        os.chown(key_file(store), MALLORY, MALLORY, follow_symlinks=False)
    for _ in range(2):
        with make_provider(store=f"sqlite:{store}", store_timeout=5.0) as provider:
            assert provider.get_token()
    assert len(authorization_server.token_requests) == (1 if is_used else 2)
