"""What the README shows is run as it stands, and what it links to exists; so do the files of settings in the guides."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conduit_oauth.cli.exits import EXIT_CODES, REFUSED
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
GUIDES = ROOT / "docs" / "guides"


def block_of(guide: str, title: str) -> str:
    found = re.search(rf'```toml title="{title}"\n(.*?)```', (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("program", BLOCKS)
def test_each_program_runs(program: str, authorization_server: AuthorizationServer, tmp_path: Path) -> None:
    program = program.replace("http://127.0.0.1:8080", authorization_server.url)
    command, environment = [sys.executable, "-c", program], {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert authorization_server.token_requests


def test_the_profile_of_a_guide_is_one(tmp_path: Path) -> None:
    profile = block_of("command-line.md", "config.toml")
    config = tmp_path / "config.toml"
    config.write_text(profile)
    assert tomllib.loads(profile)["profiles"]["default"]["client_secret"]["file"]
    here = ["--mcp-url", "https://127.0.0.1:1/mcp", "--timeout", "1"]
    command = [COMMAND, "token", "--config", config, *here]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    # Every setting was understood; only the gateway is not on this machine.
    assert "https://127.0.0.1:1/mcp: Connection refused" in run.stderr


def test_the_outputs_of_a_guide_are_some(tmp_path: Path) -> None:
    agent = block_of("agent.md", "outputs.toml")
    config = tmp_path / "agent.toml"
    config.write_text(agent.replace('group = "billing"', f'group = "{os.getgid()}"'))
    command = [COMMAND, "agent", "--config", config, "--check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "1 providers, 1 outputs" in run.stderr


def test_the_exit_codes_are_those_of_the_program() -> None:
    guide = (GUIDES / "command-line.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d) \|", guide, re.MULTILINE)}
    assert documented == {0, REFUSED, *(code for _, code in EXIT_CODES)}


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
