"""A device that is named in place of a file keeps its place: root could take /dev/null from the whole machine."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from conduit_oauth.agent.config import Output
from conduit_oauth.agent.outputs import put, withdraw
from tests.conftest import COMMAND, MakeProvider

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device, and take it away")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """One that does as /dev/null."""
    path = tmp_path / "null"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


def test_as_a_store(device: Path, make_provider: MakeProvider) -> None:
    assert make_provider(store=f"sqlite://{device}").get_token()
    assert [*device.parent.iterdir()] == [device]
    assert device.is_char_device()


@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "by a link, as /dev/stdout"])
def test_as_an_output(is_link: bool, device: Path, tmp_path: Path, make_provider: MakeProvider) -> None:
    place = device
    if is_link:
        place = tmp_path / "stdout"
        place.symlink_to(device)
    output = Output("*", file=place)
    with pytest.raises(OSError, match="is a device"):
        put(output, "any", make_provider(), "token")
    assert not withdraw(output, "any")
    assert place.is_char_device()


def test_as_a_file_of_profiles(device: Path, client_environment: dict[str, str]) -> None:
    options = ["--token-endpoint", "https://a.example/token", "--client-id", "a", "--client-secret-file", "-"]
    done = subprocess.run(
        [COMMAND, "profile", "add", "default", *options, "--config", device],
        env=client_environment,
        input="secret",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "is a device" in done.stderr) == (2, True), done.stderr
    assert device.is_char_device()
