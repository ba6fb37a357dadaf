"""The systemd unit as it is written: with its user, its umask, its directories, a credential, and its signals."""

from __future__ import annotations

import grp
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs as another user")
UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "conduit-oauth-agent.service"
# Neither has an entry in the database of users.
AGENT, READER = 64998, 64997


def test_the_unit_serves_readers_of_a_group(authorization_server: AuthorizationServer) -> None:
    readers = grp.getgrnam("users").gr_gid
    # Others do not come to what pytest makes for root.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        root = Path(folder)
        root.chmod(0o755)
        # Below a folder of the test's in place of `/`.
        text = re.sub(r"(?<![\w.])/(etc|run|var)/", rf"{root}/\1/", UNIT.read_text(encoding="utf-8"))
        unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        for name, base in (("RuntimeDirectory", "run"), ("CacheDirectory", "var/cache")):
            made = root / base / unit[name]
            made.mkdir(parents=True)
            os.chown(made, AGENT, AGENT)
            made.chmod(int(unit[f"{name}Mode"], 8))
        # As LoadCredential= does.
        credentials = root / "credentials"
        credentials.mkdir()
        (credentials / "secret").write_text(authorization_server.client_secret + "\n")
        for each, mode in ((credentials / "secret", 0o400), (credentials, 0o500)):
            os.chown(each, AGENT, AGENT)
            each.chmod(mode)
        config = root / "etc" / "conduit-oauth" / "agent.toml"
        config.parent.mkdir(parents=True)
        config.write_text(
            f"""
            [providers.one]
            client_id = "{authorization_server.client_id}"
            client_secret = {{ file = "${{CREDENTIALS_DIRECTORY}}/secret" }}
            token_endpoint = "{authorization_server.token_endpoint()}"
            [[agent.outputs]]
            provider = "one"
            file = "{root}/run/conduit-oauth/for-readers/token"
            mode = "0640"
            group = "users"
            """
        )
        manager.bind(f"{root}/notify")
        os.chown(f"{root}/notify", AGENT, AGENT)
        manager.settimeout(20)

        def heard() -> str:
            while (said := manager.recv(4096).decode()) == "WATCHDOG=1":
                continue
            return said

        rights = ["setpriv", f"--reuid={AGENT}", f"--regid={AGENT}", f"--groups={readers}"]
        # The interpreter of this test may be where only root reads.
        reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        command = [each.replace("/usr/bin/conduit-oauth", str(COMMAND)) for each in shlex.split(unit["ExecStart"])]
        environment = {
            "PATH": os.environ["PATH"],
            "CREDENTIALS_DIRECTORY": str(credentials),
            "NOTIFY_SOCKET": f"{root}/notify",
            "WATCHDOG_USEC": str(int(unit["WatchdogSec"]) * 1_000_000),
            **dict([unit["Environment"].split("=", 1)]),
        }
        agent = subprocess.Popen(
            [*rights, *reads, *command], env=environment, umask=int(unit["UMask"], 8), stderr=subprocess.PIPE, text=True
        )
        with agent:
            try:
                assert heard() == "READY=1"
                token = root / "run" / "conduit-oauth" / "for-readers" / "token"
                before = read_by_reader(token, readers)
                config.write_text(config.read_text() + "\n[defaults]\ntimeout = 9\n")
                reload = unit["ExecReload"].replace("$MAINPID", str(agent.pid))
                subprocess.run(shlex.split(reload), check=True)
                assert heard().startswith("RELOADING=1")
                assert read_by_reader(token, readers) == before
                agent.send_signal(signal.SIGTERM)
                while heard() != "STOPPING=1":
                    continue
                assert agent.wait(20) == 0
            finally:
                agent.kill()
        assert [path.stat().st_uid for path in (root / "var" / "cache" / "conduit-oauth").iterdir()]


def read_by_reader(token: Path, readers: int) -> str:
    """What a user reads who is nothing but one of the group; the directory of the unit is the group's to pass."""
    code = f"import os; os.setgroups([{readers}, {AGENT}]); os.setgid({READER}); os.setuid({READER})"
    code += f"; print(open({str(token)!r}).read())"
    return subprocess.check_output([sys._base_executable, "-I", "-S", "-c", code], text=True, cwd="/").strip()
