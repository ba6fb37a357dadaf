"""An agent that runs as root and hands tokens to another user, who tries to make it write elsewhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conduit_oauth.agent.config import Output
from conduit_oauth.agent.outputs import put, withdraw
from tests.conftest import MakeProvider
from tests.lifecycle.test_concurrency import in_child

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a file to another user")
MALLORY = 65534


class Machine:
    """A folder of root's, and the home of another user beside it."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o711)
        self.roots = folder / "roots"
        self.roots.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, MALLORY, MALLORY)

    def as_mallory(self, code: str) -> None:
        rights = f"import os; os.setgroups([]); os.setgid({MALLORY}); os.setuid({MALLORY})"
        subprocess.run([sys._base_executable, "-I", "-S", "-c", f"{rights}\n{code}"], check=True, cwd=self.home)

    def is_untouched(self) -> bool:
        status = self.roots.stat()
        return (status.st_uid, stat.S_IMODE(status.st_mode), list(self.roots.iterdir())) == (0, 0o755, [])


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Others do not come to what pytest makes for root.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Machine(Path(folder))


Aim = Callable[[Machine], dict[str, Path]]
AIMS: dict[str, tuple[str, Aim]] = {
    "a link in the place of the directory": ("os.symlink('../roots', 'out')", lambda m: {"directory": m.home / "out"}),
    "a file below a link": ("os.symlink('../roots', 'sub')", lambda m: {"file": m.home / "sub" / "token"}),
    "a file in a folder of another user": ("os.mkdir('own')", lambda m: {"file": m.home / "own" / "token"}),
    "a folder that is not there yet": ("", lambda m: {"directory": m.home / "new"}),
}


@pytest.mark.parametrize("name", AIMS)
def test_a_place_that_another_user_controls_is_refused(
    name: str, machine: Machine, make_provider: MakeProvider
) -> None:
    prepare, aim = AIMS[name]
    machine.as_mallory(prepare)
    output = Output("*", uid=MALLORY, **aim(machine))  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"other users can write|Not a directory"):
        put(output, "any", make_provider(), "token")
    assert machine.is_untouched()


def test_a_folder_that_everybody_can_write_to_is_refused(machine: Machine, make_provider: MakeProvider) -> None:
    machine.roots.chmod(0o1777)
    with pytest.raises(PermissionError, match="other users can write"):
        put(Output("*", uid=MALLORY, file=machine.roots / "token"), "any", make_provider(), "token")


def test_roots_file_is_not_written_through_a_link_of_another_user(
    machine: Machine, make_provider: MakeProvider
) -> None:
    machine.as_mallory("os.symlink('../roots', 'sub')")
    with pytest.raises(NotADirectoryError):
        put(Output("*", file=machine.home / "sub" / "token"), "any", make_provider(), "token")
    assert machine.is_untouched()


def test_the_directory_stays_the_agents_and_its_reader_reads(machine: Machine, make_provider: MakeProvider) -> None:
    output = Output("*", directory=machine.roots / "out", uid=MALLORY)
    machine.roots.chmod(0o711)
    for token in ("one", "two"):
        put(output, "any", make_provider(), token)
        machine.as_mallory(f"assert open({str(machine.roots / 'out' / 'token')!r}).read() == {token!r}")
        with pytest.raises(subprocess.CalledProcessError):
            machine.as_mallory(f"os.rename({str(machine.roots / 'out')!r}, 'mine')")
        with pytest.raises(subprocess.CalledProcessError):
            machine.as_mallory(f"os.unlink({str(machine.roots / 'out' / '..data')!r})")
    assert (machine.roots / "out").stat().st_uid == 0
    withdraw(output, "any")
    assert not (machine.roots / "out" / "token").exists()


def test_a_link_of_roots_own_is_followed(machine: Machine, make_provider: MakeProvider) -> None:
    (machine.roots.parent / "run").symlink_to(machine.roots)
    put(Output("*", file=machine.roots.parent / "run" / "token", uid=MALLORY), "any", make_provider(), "token")
    assert (machine.roots / "token").stat().st_uid == MALLORY


def test_the_bit_by_which_a_volume_belongs_to_a_group_stays(machine: Machine, make_provider: MakeProvider) -> None:
    output = Output("*", directory=machine.roots / "out", mode=0o640)
    put(output, "any", make_provider(), "one")
    out = machine.roots / "out"
    os.chown(out, -1, MALLORY)
    out.chmod(0o2750)
    for token in ("two", "three"):
        put(output, "any", make_provider(), token)
        assert out.stat().st_mode & stat.S_ISGID
        assert (out / "token").stat().st_gid == MALLORY


def test_a_sidecar_and_its_application_share_a_volume_of_their_group(
    machine: Machine, make_provider: MakeProvider
) -> None:
    """As the guide for Kubernetes has it: the volume is of the group `fsGroup`, each container has its own user."""
    volume, agent, application, group = machine.roots / "tokens", 65532, 65531, 10001
    machine.roots.chmod(0o711)
    volume.mkdir()
    os.chown(volume, 0, group)
    volume.chmod(0o2777)
    output, provider = Output("*", directory=volume / "gateway", mode=0o640), make_provider()
    provider.get_token()

    def become(user: int) -> None:
        os.umask(0o077)
        os.setgroups([group])
        os.setgid(user)
        os.setuid(user)

    for token in ("one", "two", "three"):

        def write(token: str = token) -> None:
            become(agent)
            put(output, "any", provider, token)

        def read() -> str:
            become(application)
            return (volume / "gateway" / "token").read_text()

        in_child(write)
        assert in_child(read) == token
