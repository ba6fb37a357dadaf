"""A command whose standard input or standard error was closed, or cannot be read: as without a word on it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import COMMAND


def run(command: str, streams: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = f"exec {shlex.quote(str(COMMAND))} {command} {streams}"
    return subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_what_needs_neither_goes_on(streams: str, environment: dict[str, str]) -> None:
    done = run("token", streams, environment)
    assert len(done.stdout.split(".")) == 3
    assert (done.returncode, done.stderr) == (0, "")
    assert run("token --format json", streams, environment).returncode == 0
    assert run("doctor", streams, environment).returncode == 0
    assert run("exec -- true", streams, environment).returncode == 0
    assert run("bridge", streams, environment).returncode == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("token", "client_secret: is missing"),
        ("token --client-secret-file -", "--client-secret-file: is missing"),
        ("exec -- true", "client_secret: is missing"),
        ("inspect", "token: is empty"),
        ("profile add other --client-id a --token-endpoint http://127.0.0.1:1/token", "client_secret: is missing"),
    ],
)
def test_a_closed_input_is_an_empty_one(command: str, said: str, environment: dict[str, str]) -> None:
    del environment["CONDUIT_OAUTH_CLIENT_SECRET"]
    done = run(command, "<&-", environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert run(command, "<&- 2>&-", environment).returncode == 2


def test_a_bridge_whose_input_cannot_be_read_says_so_and_ends(environment: dict[str, str], tmp_path: Path) -> None:
    done = run("bridge", f"0>{shlex.quote(str(tmp_path / 'input'))}", environment)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1].endswith("standard input cannot be read (Bad file descriptor)")
