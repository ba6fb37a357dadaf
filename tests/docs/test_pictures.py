"""Pictures of the terminal for the documentation, each of a real run. `make pictures` puts them into docs/pictures/."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND

# What is shown only while somebody waits: lines of a spinner, and the movements of the cursor.
PROGRESS = re.compile(r"^.*[\u2800-\u28ff].*\n|\x1b\[(?:\?25[lh]|1A|2K)", re.MULTILINE)


def picture(lines: list[tuple[str, str]], title: str) -> str:
    """The terminal after some commands, as an SVG that loads no font from elsewhere."""
    console = Console(record=True, width=110, file=io.StringIO())
    for command, said in lines:
        console.print(Text(f"$ {command}", "bold"))
        console.print(Text.from_ansi(said))
    svg = console.export_svg(title=title, unique_id="terminal")
    return re.sub(r"<!--.*?-->|@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("name", "commands", "words"),
    [
        ("doctor", ["doctor --scope mcp:admin", "doctor --scope mcp:read"], ["✗", "scopes", "It works."]),
        ("demo", ["demo"], ["yes", "token request", "conduit-oauth demo"]),
        ("discover", ["discover {mcp_url}"], ["challenge of the resource", "token endpoint"]),
    ],
)
def test_a_picture_of_the_terminal(
    name: str,
    commands: list[str],
    words: list[str],
    client_environment: dict[str, str],
    authorization_server: AuthorizationServer,
    tmp_path: Path,
) -> None:
    environment = {
        **client_environment,
        "CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url(),
        "FORCE_COLOR": "1",
        "COLUMNS": "110",
    }
    lines: list[tuple[str, str]] = []
    for command in commands:
        arguments = command.format(mcp_url=authorization_server.mcp_url()).split()
        run = subprocess.run(
            [COMMAND, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines.append((f"conduit-oauth {' '.join(arguments)}", PROGRESS.sub("", run.stdout)))
    svg = picture(lines, "conduit-oauth")
    shown = svg.replace("&#160;", " ")
    for word in words:
        assert word in shown
    assert "http" not in re.sub(r"http://(www\.w3\.org|127\.0\.0\.1)", "", shown)
    assert authorization_server.client_secret not in shown
    folder = Path(os.environ.get("CONDUIT_OAUTH_PICTURES", tmp_path))
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
