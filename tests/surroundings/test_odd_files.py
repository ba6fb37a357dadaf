"""Files that end nowhere or are nested without end: an error that names the setting, in little memory."""

from __future__ import annotations

import logging
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError, TokenProvider, places
from conduit_oauth.identity.sources import read_text
from conduit_oauth.stores.sqlite_rows import key_file
from tests.certificates import issue
from tests.conftest import COMMAND, MakeProvider

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
        pytest.raises(ConfigurationError, match="has more than 1048576 bytes") as caught,
    ):
        provider.get_token()
    assert caught.value.field == field


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_credential_in_a_pipe_without_a_writer(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_PATIENCE", 0.5)
    with (
        TokenProvider("a", pipe, token_endpoint="https://127.0.0.1:1/token", timeout=20) as provider,
        pytest.raises(ConfigurationError, match="did not end within") as caught,
    ):
        provider.get_token()
    assert caught.value.field == "client_secret"


def test_a_pipe_whose_writer_comes_later_and_writes_in_pieces(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_PATIENCE", 60.0)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for piece in (b"\xef\xbb", b"\xbfsec", b"ret\r\n"):
                file.write(piece)

    with ThreadPoolExecutor() as threads:
        secret = threads.submit(read_text, pipe, "client_secret")
        threads.submit(write).result(60)
        assert secret.result(60) == "secret"


def test_a_file_of_a_slow_disk_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_PATIENCE", -1.0)
    (tmp_path / "secret").write_text("s3cret\n")
    assert read_text(tmp_path / "secret", "client_secret") == "s3cret"


def test_a_key_of_the_store_that_is_a_pipe(
    make_provider: MakeProvider, pipe: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(places, "_PATIENCE", 0.0)
    caplog.set_level(logging.INFO, "conduit_oauth")
    store = pipe.with_name("tokens.db")
    pipe.rename(key_file(store))
    with make_provider(store=f"sqlite:{store}", store_timeout=5.0) as provider:
        assert provider.get_token()
    assert "store_failed" in caplog.text
    assert "did not end within" in caplog.text


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
