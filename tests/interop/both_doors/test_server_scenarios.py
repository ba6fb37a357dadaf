"""The server scenarios of the MCP conformance suite: through the bridge a server meets all that it meets directly."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import StartBridge
from tests.interop.both_doors.conftest import Serve
from tests.interop.conformance import NODE, SUITE


def verdict(url: str, folder: Path) -> dict[tuple[str, str], str]:
    """What the suite says of the server at `url`: by scenario and check, its status."""
    # On a busy machine a scenario takes long; none of them is about speed.
    command = [NODE, SUITE, "server", "--url", url, "-o", folder, "--timeout", "120000"]
    subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return {
        (scenario, check["id"]): check["status"]
        for file in folder.glob("*/checks.json")
        for scenario in [file.parent.name.rpartition("-2")[0].partition("-2")[0]]
        for check in json.loads(file.read_text())
    }


@pytest.mark.parametrize(
    "kind",
    ["", "everything", *(pytest.param(kind, marks=pytest.mark.whole) for kind in ("json_response", "stateless_http"))],
)
def test_a_server_meets_through_the_bridge_what_it_meets_directly(
    kind: str, serve: Serve, authorization_server: AuthorizationServer, start: StartBridge, tmp_path: Path
) -> None:
    directly = verdict(serve(kind, "-"), tmp_path / "direct")
    bridge = start(serve(kind, authorization_server.issuer()))
    through = verdict(bridge.url, tmp_path / "through")
    assert len({scenario for scenario, _ in directly}) == 31
    if not kind:
        assert {check: status for check, status in directly.items() if status == "FAILURE"} == {}
    assert through.keys() == directly.keys()
    # The bridge meets more: it refuses strange hosts before every server.
    assert [check for check, status in directly.items() if status == "SUCCESS" != through[check]] == []
