"""The agent as a service: its endpoints, its signals, and what it tells systemd."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import threading
from datetime import datetime
from pathlib import Path
from unittest.mock import AsyncMock

import httpx2
import pytest
import yaml

from conduit_oauth.agent.web import Guard
from conduit_oauth.serving.access import Access
from conduit_oauth.serving.listening import Message, Receive, Send
from conduit_oauth.testing import AuthorizationServer
from tests.agent.conftest import Bell, Serve, Write
from tests.conftest import COMMAND
from tests.stores.line import until

PACKAGING = Path(__file__).parent.parent.parent / "packaging"

TWO = """
[providers.billing]
scope = "mcp:read"
[providers.broken]
client_id = "nobody"

[agent]
listen = ["unix:agent.sock", "127.0.0.1:0"]
"""
ONE = TWO.replace('[providers.broken]\nclient_id = "nobody"\n', "")


def test_programs_of_this_machine_have_tokens_by_the_unix_socket(
    serve: Serve, authorization_server: AuthorizationServer
) -> None:
    agent = serve(TWO).socket
    answer = agent.get("/tokens/billing")
    said = answer.json()
    assert (said["token_type"], said["scope"]) == ("Bearer", "mcp:read")
    assert 3500 < said["expires_in"] <= 3600
    assert answer.headers["cache-control"] == "no-store"
    assert agent.get("/tokens/billing?format=header").text == f"Authorization: Bearer {said['access_token']}"
    assert agent.get("/tokens/billing?format=xml").status_code == 400
    assert agent.get("/tokens/nobody").status_code == 404
    refused = agent.get("/tokens/broken")
    assert refused.status_code == 503
    assert "invalid_client" in refused.json()["error"]
    # What was refused to whoever asks is replaced; what is not the token any more replaces nothing.
    fresh = agent.request("DELETE", "/tokens/billing", content=said["access_token"]).json()["access_token"]
    assert fresh != said["access_token"]
    assert agent.request("DELETE", "/tokens/billing", content="another").json()["access_token"] == fresh


def test_who_sends_more_than_a_token_is_refused(serve: Serve) -> None:
    service = serve(ONE)
    refused = service.socket.request("DELETE", "/tokens/billing", content=b"a" * (1 << 21))
    assert refused.status_code == 413


def test_a_bearer_that_is_slow_to_read_holds_up_nobody_else() -> None:
    reads, go_on = threading.Event(), threading.Event()
    served: list[str] = []

    def tcp() -> Access:
        reads.set()
        assert go_on.wait(10)
        return Access(None, "local-token")

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        served.append(scope["server"][0])

    async def main() -> None:
        guard, nothing = Guard(app, tcp), AsyncMock()
        headers = [(b"authorization", b"Bearer local-token")]
        request = {"type": "http", "path": "/tokens/billing", "headers": headers}
        slow = asyncio.create_task(guard({**request, "server": ("tcp", 8901)}, nothing, nothing))
        await asyncio.to_thread(reads.wait, 10)
        await guard({**request, "server": ("socket", None)}, nothing, nothing)
        go_on.set()
        await slow

    asyncio.run(main())
    assert served == ["socket", "tcp"]


def test_by_tcp_a_token_takes_the_agents_own_bearer(serve: Serve, tmp_path: Path) -> None:
    service = serve(ONE)
    assert httpx2.get(f"{service.url}/tokens/billing").status_code == 403
    service.stop()
    (tmp_path / "bearer").write_text("local-token\n")
    url = serve(ONE + 'local_token_file = "bearer"').url
    refused = httpx2.get(f"{url}/tokens/billing")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    headers = {"Authorization": "Bearer local-token"}
    assert httpx2.get(f"{url}/tokens/billing", headers=headers).json()["token_type"] == "Bearer"
    assert httpx2.get(f"{url}/tokens/billing", headers={**headers, "Host": "evil.example"}).status_code == 421
    assert httpx2.get(f"{url}/status.json", headers={"Host": "evil.example"}).status_code == 421
    assert httpx2.get(f"{url}/healthz").json() == {"status": "ok", "failing": []}


def test_health_metrics_and_status_tell_how_each_provider_is_and_no_secret(
    serve: Serve, authorization_server: AuthorizationServer
) -> None:
    service = serve(TWO)
    health = httpx2.get(f"{service.url}/healthz")
    assert (health.status_code, health.json()["failing"]) == (503, ["broken"])
    ready = httpx2.get(f"{service.url}/readyz")
    assert (ready.status_code, ready.text) == (200, "ready\nfailing: broken\n")
    metrics = httpx2.get(f"{service.url}/metrics").text
    for line in (
        'conduit_oauth_token_valid{provider="billing"} 1.0',
        'conduit_oauth_token_valid{provider="broken"} 0.0',
        'conduit_oauth_tokens_total{provider="billing",source="server"} 1.0',
        'conduit_oauth_token_request_failures_total{error="TokenRequestError",provider="broken"} 1.0',
        'conduit_oauth_output_failing{provider="billing"} 0.0',
        "conduit_oauth_token_request_duration_seconds_count 2.0",
    ):
        assert line in metrics.splitlines()
    assert re.search(r'^conduit_oauth_token_expiry_timestamp_seconds\{provider="billing"} \d', metrics, re.MULTILINE)
    status = httpx2.get(f"{service.url}/status.json")
    billing, broken = status.json()["providers"]
    assert (billing["state"], billing["valid"], broken["state"], broken["valid"]) == ("fresh", True, "failing", False)
    assert billing["issued"] < status.json()["now"] < billing["refresh"] < billing["expires"]
    assert "invalid_client" in broken["error"]
    token = service.socket.get("/tokens/billing").json()["access_token"]
    pages = [httpx2.get(f"{service.url}{path}").text for path in ("/", "/status.js", "/status.css", "/healthz")]
    assert service.stop() == 0
    for text in (metrics, status.text, service.said, *pages):
        assert authorization_server.client_secret not in text
        assert token not in text


def test_it_stops_by_sigterm_and_leaves_what_is_written(serve: Serve, tmp_path: Path) -> None:
    service = serve(ONE + '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"')
    # Ready is who has written each token.
    assert (tmp_path / "tokens" / "billing").exists()
    assert (tmp_path / "agent.sock").exists()
    assert service.stop() == 0
    assert (tmp_path / "tokens" / "billing").exists()
    assert not (tmp_path / "agent.sock").exists()


def test_sighup_reads_the_file_anew_and_a_broken_one_changes_nothing(serve: Serve, write: Write, bell: Bell) -> None:
    service = serve(ONE)
    write(ONE + '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\nrun = BELL\n[providers.crm]')
    service.send(signal.SIGHUP)
    bell.wait_for("crm")
    assert service.socket.get("/tokens/crm").status_code == 200
    write("[agent]\ncolour = 1")
    service.send(signal.SIGHUP)
    service.wait_for("providers_not_reloaded: agent.colour")
    assert service.socket.get("/tokens/crm").status_code == 200


def test_systemd_is_told_when_the_tokens_are_there_that_it_lives_and_that_it_stops(
    serve: Serve, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)

        def heard() -> str:
            # Between the others, and as often as it likes.
            while (said := manager.recv(4096).decode()) == "WATCHDOG=1":
                lived.append(said)
            return said

        lived: list[str] = []
        service = serve(ONE, NOTIFY_SOCKET=path, WATCHDOG_USEC="100000")
        assert heard() == "READY=1"
        assert len(authorization_server.token_requests) == 1
        manager.recv(4096)
        service.send(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+\nSTATUS=", heard())
        assert heard() == "READY=1"
        assert service.stop() == 0
        assert heard() == "STOPPING=1"


def run(config: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "agent", "--config", config, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_once_writes_each_token_and_ends(
    write: Write, client_environment: dict[str, str], tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    outputs = '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\n'
    # As patient as any caller.
    authorization_server.fail(503)
    assert run(write(ONE + outputs), client_environment, "--once").returncode == 0
    assert (tmp_path / "tokens" / "billing").exists()
    done = run(write(TWO + outputs), client_environment, "--once")
    assert done.returncode == 1
    assert "broken: " in done.stderr
    assert "invalid_client" in done.stderr
    assert authorization_server.client_secret not in done.stderr


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (ONE, 0, "1 providers, 0 outputs"),
        ("[providers.billing]\ncolour = 1", 2, "providers.billing.colour"),
        ('[providers.billing]\nmcp_url = "https://x.example/"\ndiscovery = false', 0, "1 providers"),
        ('[providers.billing]\nscope = ""', 2, "providers.billing.scope"),
        ("", 2, "providers: "),
    ],
)
def test_check_only_looks(
    text: str,
    status: int,
    said: str,
    write: Write,
    client_environment: dict[str, str],
    authorization_server: AuthorizationServer,
) -> None:
    done = run(write(text), client_environment, "--check")
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert authorization_server.token_requests == []


def test_an_address_that_others_reach_is_refused(write: Write, client_environment: dict[str, str]) -> None:
    done = run(write('[providers.billing]\n[agent]\nlisten = "0.0.0.0:0"'), client_environment)
    assert done.returncode == 2
    assert "expose" in done.stderr


def test_it_stops_though_a_server_that_does_not_answer_keeps_it_from_being_ready(
    write: Write, client_environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    authorization_server.hold()
    command = [COMMAND, "agent", "--config", write(ONE)]
    with subprocess.Popen(command, env=client_environment, stderr=subprocess.PIPE, text=True) as agent:
        authorization_server.wait_for_token_requests(1)
        agent.terminate()
        assert agent.wait(20) == 0


def test_the_log_is_for_programs_too(serve: Serve) -> None:
    service = serve(ONE, "--log-format", "json")
    service.send(signal.SIGHUP)
    service.wait_for("providers_reloaded")
    line = json.loads(service.said.splitlines()[-1])
    assert (line["level"], line["logger"]) == ("info", "conduit_oauth")
    datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ")


def test_the_dashboard_and_the_alerts_use_metrics_that_the_agent_serves(serve: Serve, bell: Bell) -> None:
    service = serve(TWO + '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\nrun = BELL\n')
    bell.wait_for("billing")
    served = set[str]()
    # The first failure is counted when its request has ended.
    until(lambda: "conduit_oauth_token_request_failures_total{" in httpx2.get(f"{service.url}/metrics").text)
    for line in httpx2.get(f"{service.url}/metrics").text.splitlines():
        if found := re.match(r"([a-z_]+)", line):
            served.add(found[1])
    dashboard = json.loads((PACKAGING / "grafana" / "conduit-oauth-agent.json").read_text())
    used = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((PACKAGING / "prometheus" / "conduit-oauth.rules.yml").read_text())
    used += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(used) > 10
    for expression in used:
        for name in re.findall(r"(?:conduit_oauth|process)_[a-z_]+", expression):
            assert name in served, (name, expression)
