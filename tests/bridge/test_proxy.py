"""The HTTP bridge as its clients, and those who should not be, meet it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import tomllib
from pathlib import Path

import httpx2
import pytest

from conduit_oauth.cli.arguments import read_arguments
from conduit_oauth.cli.profile import Options
from conduit_oauth.testing import AuthorizationServer
from tests.bridge.conftest import Bridge, StartBridge
from tests.conftest import COMMAND
from tests.resource_server import ResourceServer
from tests.scripted_server import Asked, ScriptedServer

PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}


@pytest.fixture
def bridge(start: StartBridge, resource_server: ResourceServer) -> Bridge:
    return start(f"{resource_server.url}/echo")


def test_a_request_passes_with_our_token_and_without_what_is_the_clients_own(
    bridge: Bridge, resource_server: ResourceServer
) -> None:
    headers = {"Authorization": "Bearer the-clients", "Cookie": "a=b", "Mcp-Session-Id": "s-1", "Last-Event-ID": "e-9"}
    headers |= {"Origin": bridge.url.removesuffix("/mcp"), "X-Other": "kept"}
    headers |= {"Expect": "100-continue", "Connection": "keep-alive, X-Hop", "X-Hop": "of this connection"}
    answer = httpx2.post(f"{bridge.url}?a=b", json=PING, headers=headers)
    assert answer.status_code == 200
    assert "www-authenticate" not in answer.headers
    (request,) = resource_server.requests
    assert json.loads(request["body"]) == PING
    assert request["query"] == "a=b"
    sent = request["headers"]
    assert sent["authorization"] != "Bearer the-clients"
    assert len(sent["authorization"].split(".")) == 3
    assert (sent["mcp-session-id"], sent["last-event-id"], sent["x-other"]) == ("s-1", "e-9", "kept")
    assert sent["host"] == resource_server.url.removeprefix("http://")
    assert not sent.keys() & {"cookie", "origin", "expect", "x-hop"}


def test_query_and_headers_pass_byte_for_byte(
    start_bridge: StartBridge, authorization_server: AuthorizationServer
) -> None:
    query, name, other_name = "a=%2F&b=%7e&c=[1]&d=a%20b+c&e=%e9", "Zoë".encode(), "Zoë".encode("latin-1")

    def answer(asked: Asked) -> None:
        name = other_name.decode("latin-1")
        asked.answer({}, X_Name=name, Mcp_Session_Id=name, Connection="X-Hop", X_Hop="of this connection")

    with ScriptedServer(answer) as gateway:
        server = "--token-endpoint", authorization_server.token_endpoint()
        bridge = start_bridge("--mcp-url", f"{gateway.url}/mcp", *server)
        for _ in range(2):
            answered = httpx2.post(f"{bridge.url}?{query}", json=PING, headers={b"X-Name": name})
            assert answered.status_code == 200
            assert "x-hop" not in answered.headers
            for header in ("X-Name", "Mcp-Session-Id"):
                assert (header.encode().lower(), other_name) in [(k.lower(), v) for k, v in answered.headers.raw]
    for path, headers, _ in gateway.seen:
        assert path == f"/mcp?{query}"
        assert headers["x-name"].encode("latin-1") == name


@pytest.mark.parametrize("status", [600, 999, 101])
def test_a_status_that_is_none_is_an_error(
    status: int, start_bridge: StartBridge, authorization_server: AuthorizationServer
) -> None:
    with ScriptedServer(lambda asked: asked.answer({}, status)) as gateway:
        server = "--token-endpoint", authorization_server.token_endpoint()
        answer = httpx2.post(start_bridge("--mcp-url", f"{gateway.url}/mcp", *server).url, json=PING)
    assert answer.status_code == 502
    assert (answer.json()["id"], str(status) in answer.json()["error"]["message"]) == (7, True)


def test_control_characters_in_a_header_become_blanks(
    start_bridge: StartBridge, authorization_server: AuthorizationServer
) -> None:
    with ScriptedServer(lambda asked: asked.answer({}, X_Odd="\x01a\x7fb\tc")) as gateway:
        server = "--token-endpoint", authorization_server.token_endpoint()
        answer = httpx2.post(start_bridge("--mcp-url", f"{gateway.url}/mcp", *server).url, json=PING)
    assert (answer.status_code, answer.headers["x-odd"]) == (200, "a b\tc")


def test_a_refused_token_is_replaced_and_the_client_knows_nothing(
    bridge: Bridge, resource_server: ResourceServer
) -> None:
    httpx2.post(bridge.url, json=PING)
    resource_server.refused.add(str(resource_server.tokens[0]).partition(" ")[2])
    assert httpx2.post(bridge.url, json=PING).status_code == 200
    assert len(resource_server.requests) == 3


def test_a_gateway_that_refuses_every_token_does_not_ask_the_client_to_log_in(
    bridge: Bridge, resource_server: ResourceServer
) -> None:
    resource_server.refuse_all = True
    answer = httpx2.post(bridge.url, json=PING)
    assert answer.status_code == 502
    assert "www-authenticate" not in answer.headers
    assert answer.json()["id"] == 7
    assert "refuses" in answer.json()["error"]["message"]


def test_without_a_token_the_client_is_told_why(
    start: StartBridge, bridge_environment: dict[str, str], resource_server: ResourceServer
) -> None:
    bridge_environment["CONDUIT_OAUTH_CLIENT_SECRET"] = "wrong-one"
    bridge = start(f"{resource_server.url}/echo")
    answer = httpx2.post(bridge.url, json=PING)
    assert answer.status_code == 502
    assert "invalid_client" in answer.json()["error"]["message"]
    assert resource_server.requests == []
    _, said = bridge.stop(signal.SIGTERM)
    assert "wrong-one" not in said + answer.text


def test_events_pass_one_by_one_and_end_with_the_client(start: StartBridge, resource_server: ResourceServer) -> None:
    bridge = start(f"{resource_server.url}/stream")
    with httpx2.stream("GET", bridge.url, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "set-cookie" not in answer.headers
        chunks = answer.iter_text()
        for number in (1, 2, 3):
            # The next one is not even made before this one is here.
            assert next(chunks) == f"id: {number}\ndata: event {number}\n\n"
            resource_server.go_on()
    assert resource_server.stream_left.wait(10)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8080"}, 421),
        ({"Host": "localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:5173"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
    ],
)
def test_a_page_in_a_browser_cannot_use_the_bridge(
    headers: dict[str, str], status: int, bridge: Bridge, resource_server: ResourceServer
) -> None:
    assert httpx2.post(bridge.url, json=PING, headers=headers).status_code == status
    assert len(resource_server.requests) == (status == 200)


def test_other_paths_are_not_served(bridge: Bridge, resource_server: ResourceServer) -> None:
    base = bridge.url.removesuffix("/mcp")
    assert httpx2.get(f"{base}/.well-known/oauth-protected-resource/mcp").status_code == 404
    assert httpx2.get(f"{base}/echo").status_code == 200
    assert len(resource_server.requests) == 1


def test_the_name_that_it_listens_on_is_taken_in_any_case(start: StartBridge, resource_server: ResourceServer) -> None:
    bridge = start(f"{resource_server.url}/echo", listen="LocalHost:0")
    assert httpx2.post(bridge.url, json=PING).status_code == 200


def test_a_bearer_of_its_own(start: StartBridge, resource_server: ResourceServer, tmp_path: Path) -> None:
    file = tmp_path / "local-token"
    file.write_text("a-local-token\n")
    bridge = start(f"{resource_server.url}/echo", "--local-token-file", str(file))
    for authorization in ("", "Bearer wrong", "Basic a-local-token"):
        answer = httpx2.post(bridge.url, json=PING, headers={"Authorization": authorization})
        assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert httpx2.post(bridge.url, json=PING, headers={"Authorization": "Bearer a-local-token"}).status_code == 200
    assert "a-local-token" not in str(resource_server.requests)


def test_a_unix_socket_is_the_users_own_and_goes_with_the_bridge(
    start: StartBridge, resource_server: ResourceServer, tmp_path: Path
) -> None:
    path = tmp_path / "bridge.sock"
    first = start(f"{resource_server.url}/echo", listen=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
        assert client.post("http://bridge/mcp", json=PING).status_code == 200
    assert start(f"{resource_server.url}/echo", listen=f"unix:{path}").first_line[:6] == "error:"
    first.stop(signal.SIGKILL)
    again = start(f"{resource_server.url}/echo", listen=f"unix:{path}")
    assert again.first_line.startswith("Listening")
    assert again.stop(signal.SIGTERM) == (0, "")
    assert not path.exists()


def test_a_unix_socket_has_the_mode_and_the_group_that_were_said(start: StartBridge, tmp_path: Path) -> None:
    path, group = tmp_path / "bridge.sock", 65534 if os.geteuid() == 0 else os.getegid()
    start("https://gateway.example/mcp", "--socket-mode", "0660", "--socket-group", str(group), listen=f"unix:{path}")
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group)


def test_a_unix_socket_whose_server_is_stuck_is_not_waited_for(start: StartBridge, tmp_path: Path) -> None:
    path = tmp_path / "bridge.sock"
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waits:
        stuck.bind(str(path))
        stuck.listen(0)
        waits.connect(str(path))
        assert start("https://gateway.example/mcp", listen=f"unix:{path}").first_line[:6] == "error:"
        assert path.is_socket()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(bridge: Bridge, number: int, status: int) -> None:
    assert bridge.stop(number) == (status, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "0.0.0.0:0"], "--expose"),
        (["--listen", "0.0.0.0:0", "--expose", "--no-local-token"], "--no-local-token: "),
        (["--listen", "127.0.0.1:0", "--local-token-file", "/absent", "--no-local-token"], "--no-local-token: "),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--listen", "unix:"], "path"),
        (["--listen", "unix:/absent/socket", "--socket-mode", "0666"], "--socket-mode: '0666' is no mode"),
        (["--listen", "unix:/absent/socket", "--socket-group", "no-such-group"], "--socket-group: 'no-such-group'"),
        (["--listen", "127.0.0.1:0", "--socket-mode", "0660"], "--socket-mode: is for a Unix socket"),
        (["--socket-group", "0"], "--socket-group: is for a bridge that serves HTTP"),
        (["--expose"], "--expose: is for a bridge that serves HTTP"),
        (["--listen", "127.0.0.1:0", "--local-token-file", "/absent"], "/absent"),
    ],
)
def test_a_careless_set_up_is_refused(
    arguments: list[str], said: str, bridge_environment: dict[str, str], resource_server: ResourceServer
) -> None:
    command = [COMMAND, "bridge", "--mcp-url", f"{resource_server.url}/echo", *arguments]
    done = subprocess.run(command, env=bridge_environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bridge_needs_to_know_the_gateway(bridge_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [COMMAND, "bridge"], env=bridge_environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "mcp_url" in done.stderr


def test_stdio_ends_with_its_input_after_the_last_answer(
    bridge_environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    parameters = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": "one", "method": "initialize", "params": parameters}
    done = subprocess.run(
        [COMMAND, "bridge", "--mcp-url", authorization_server.mcp_url()],
        env=bridge_environment,
        input="no JSON\n" + json.dumps(message) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    fault, answer = map(json.loads, done.stdout.splitlines())
    assert (fault["id"], fault["error"]["code"]) == (None, -32700)
    assert answer["id"] == "one"
    assert answer["result"]["protocolVersion"] == "2025-06-18"
    assert done.returncode == 0


@pytest.mark.parametrize(
    "given",
    [
        ["--resource", "https://a.example", "--resource", "https://b.example", "--dpop", "--timeout", "7.5"],
        ["--no-resource", "--scope", "a b", "--patience", "5.5", "--largest-message", "64", "--ca-file", "/ca.pem"],
    ],
)
def test_the_configuration_it_prints_has_each_option(given: list[str], tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [COMMAND, "bridge", "--print-config", "cursor", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    read = json.loads(done.stdout)["mcpServers"]["gateway"]["args"][1:]
    own = "patience", "largest_message"
    assert read_arguments(read, own) == read_arguments(given, own)


def test_the_configuration_it_prints_has_what_the_environment_says(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "CONDUIT_OAUTH_CLIENT_ID": "billing",
        "CONDUIT_OAUTH_TOKEN_ENDPOINT": "https://as.example/token",
        "CONDUIT_OAUTH_RESOURCE": "https://a.example https://b.example",
        "CONDUIT_OAUTH_PROFILE": "agents",
        "CONDUIT_OAUTH_CA_FILE": "ca.pem",
    }

    def printed(**more: str) -> tuple[list[str], str]:
        command = [COMMAND, "bridge", "--print-config", "cursor", "--mcp-url", "https://gateway.example/mcp"]
        done = subprocess.run(
            command, env=environment | more, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
        )
        return json.loads(done.stdout)["mcpServers"]["gateway"]["args"], done.stdout + done.stderr

    (tmp_path / "secret").write_text("very-secret")
    arguments, said = printed(CONDUIT_OAUTH_CLIENT_SECRET_FILE="secret")
    # What an option says in another way is not said again.
    assert read_arguments(arguments[1:], ())[0] == Options(
        {
            "client_id": "billing",
            "mcp_url": "https://gateway.example/mcp",
            "resource": ["https://a.example", "https://b.example"],
            "ca_file": str(tmp_path / "ca.pem"),
        },
        client_secret_file=tmp_path / "secret",
        profile="agents",
    )
    assert "CONDUIT_OAUTH" not in said
    arguments, said = printed(CONDUIT_OAUTH_CLIENT_SECRET="very-secret")
    assert "--client-secret-file" not in arguments
    assert "Start the client with CONDUIT_OAUTH_CLIENT_SECRET in its environment" in said
    assert "very-secret" not in said


@pytest.mark.parametrize(
    "client", ["claude-code", "claude-desktop", "codex", "cursor", "gemini", "vscode", "windsurf", "zed"]
)
def test_the_configuration_it_prints_starts_the_bridge(client: str, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    name = "billing \N{RECEIPT}"
    arguments = ["--mcp-url", "https://gateway.example/mcp", "--profile", "billing"]
    command = [COMMAND, "bridge", "--print-config", client, "--server-name", name, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    said = tomllib.loads(done.stdout) if client == "codex" else json.loads(done.stdout)
    ((servers),) = said.values()
    server = servers[name]
    assert Path(server["command"]).is_absolute()
    assert server["args"] == ["bridge", "--mcp-url", "https://gateway.example/mcp", "--profile", "billing"]
    # The bridge is what it starts: with these settings it gets as far as missing the profile.
    started = subprocess.run(
        [server["command"], *server["args"]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert started.returncode == 2
    assert "billing" in started.stderr
