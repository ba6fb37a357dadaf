"""The status page in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from conduit_oauth.testing import AuthorizationServer
from tests.agent.conftest import Serve, Write
from tests.interop.conformance import NODE

SCRIPT = Path(__file__).parent.parent / "interop" / "status_page.mjs"
# Where `make pictures` wants them.
PICTURES = os.environ.get("CONDUIT_OAUTH_PICTURES")

PROVIDERS = """
[providers.billing]
scope = "mcp:read"
[providers."orders <eu>"]
scope = "mcp:write"
[providers.crm]
client_id = "crm"
[providers.reports]
client_id = "nobody"
[agent]
listen = "127.0.0.1:0"
"""


def test_the_page_is_live_safe_and_fit_for_a_phone_in_light_and_dark(
    serve: Serve, write: Write, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "make test installs it"
    authorization_server.set(lifetime=600)
    service = serve(PROVIDERS)
    folder = Path(PICTURES) if PICTURES else tmp_path
    command = [NODE, SCRIPT, chromium, f"{service.url}/", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as browser:
        assert browser.stdout is not None
        assert browser.stdout.readline() == "ready\n"
        write(PROVIDERS.replace('client_id = "crm"', ""))
        service.send(signal.SIGHUP)
        seen = json.loads(browser.stdout.readline())
    assert seen["problems"] == []
    assert seen["elsewhere"] == []
    assert seen["filtered"] == ["crm", "reports"]
    assert seen["looks"]["light"]["ground"] != seen["looks"]["dark"]["ground"]
    for look in seen["looks"].values():
        assert not look["overflows"]
        assert all(row["markup"] == 0 for row in look["rows"])
    assert seen["looks"]["light"]["summary"] == "4 providers, 2 in trouble"
    assert seen["looks"]["phone"]["summary"] == "4 providers, 1 in trouble"
    broken, *fine = sorted(seen["looks"]["dark"]["rows"], key=lambda row: row["state"])
    assert (broken["name"], broken["state"], broken["life"]) == ("reports", "failing", None)
    assert "invalid_client" in broken["text"]
    assert {row["name"] for row in fine} == {"billing", "crm", "orders <eu>"}
    for row in fine:
        assert 90 <= int(row["life"]) <= 100
        assert row["width"] > 100
    assert authorization_server.client_secret not in json.dumps(seen)
