"""Files that end nowhere or are nested without end: an error that names the setting, in little memory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError, TokenProvider
from tests.certificates import issue
from tests.conftest import COMMAND

DEEP = "a = " + "[" * 100_000
IN_TWO_GIB = ["/bin/sh", "-c", 'ulimit -v 2097152; exec "$@"', "sh"]
COMMANDS = [
    ["token"],
    ["agent", "--check"],
    ["profile", "list"],
    ["profile", "show", "default"],
    ["profile", "add", "x"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("odd", ["deep", "endless"])
def test_a_configuration_that_ends_nowhere(odd: str, command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(DEEP)
    done = subprocess.run(
        [*IN_TWO_GIB, COMMAND, *command, "--config", config if odd == "deep" else "/dev/zero"],
        env={"HOME": str(tmp_path), "CONDUIT_OAUTH_CLIENT_ID": "a", "CONDUIT_OAUTH_CLIENT_SECRET": "b"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Mend the file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("field", ["client_secret", "private_key", "client_assertion"])
def test_a_credential_that_ends_nowhere(field: str) -> None:
    settings: dict[str, Path] = {field: Path("/dev/zero")}
    with (
        TokenProvider("a", token_endpoint="https://127.0.0.1:1/token", timeout=1, **settings) as provider,  # type: ignore[arg-type]
        pytest.raises(ConfigurationError, match="has more than 1048576 characters") as caught,
    ):
        provider.get_token()
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["client_certificate", "its key", "ca_file"])
def test_a_file_of_tls_that_ends_nowhere(field: str, tmp_path: Path) -> None:
    issue(tmp_path, "client")
    endless, good = Path("/dev/zero"), tmp_path / "client.pem"
    settings: dict[str, Any] = {"ca_file": endless}
    if field != "ca_file":
        settings = {"client_certificate": (endless, good) if field == "client_certificate" else (good, endless)}
    with pytest.raises(ConfigurationError, match="is no regular file") as caught:
        TokenProvider("a", token_endpoint="https://127.0.0.1:1/token", timeout=1, **settings).get_token()
    assert caught.value.field == ("ca_file" if field == "ca_file" else "client_certificate")


def test_a_body_that_ends_nowhere(tmp_path: Path) -> None:
    command = ["request", "POST", "https://127.0.0.1:1/", "--resource", "https://127.0.0.1:1/", "--data", "@/dev/zero"]
    done = subprocess.run(
        [*IN_TWO_GIB, COMMAND, *command],
        env={"HOME": str(tmp_path), "CONDUIT_OAUTH_CLIENT_ID": "a", "CONDUIT_OAUTH_CLIENT_SECRET": "b"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "data: has more than 268435456 bytes" in done.stderr
