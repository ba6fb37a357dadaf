"""`conduit-oauth request`, as a script and as a person at a terminal sees it."""

from __future__ import annotations

import json
import os
import pty
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.cli.conftest import Run
from tests.conftest import COMMAND
from tests.resource_server import ResourceServer
from tests.threaded import serving


@pytest.fixture(autouse=True)
def _token_for_any_origin(environment: dict[str, str], authorization_server: AuthorizationServer) -> None:
    del environment["CONDUIT_OAUTH_MCP_URL"]
    environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"] = authorization_server.token_endpoint()


def test_a_script_gets_the_body_alone(run: Run, resource_server: ResourceServer) -> None:
    done = run("request", "post", f"{resource_server.url}/echo", "-d", "a=b", "-H", "X-Note: hello")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["method"], answer["body"]) == ("POST", "a=b")
    assert answer["authorization"] == f"Bearer {run('token').stdout.strip()}"


def test_verbose_says_which_requests_went_where(run: Run, resource_server: ResourceServer) -> None:
    token = run("token").stdout.strip()
    resource_server.refused.add(token)
    url = f"{resource_server.url}/echo"
    said = run("-v", "request", "GET", f"{url}?q=secret").stderr
    assert [line.partition(" in ")[0].rpartition(" GET ")[2] for line in said.splitlines() if " GET " in line] == [
        f"{url}: 401",
        f"{url}: 200",
    ]
    assert token not in said
    assert "q=secret" not in said


def test_the_body_from_a_file_and_from_standard_input(
    run: Run, resource_server: ResourceServer, tmp_path: Path
) -> None:
    file = tmp_path / "body"
    file.write_text("from a file")
    url = f"{resource_server.url}/echo"
    assert json.loads(run("request", "POST", url, "-d", f"@{file}").stdout)["body"] == "from a file"
    assert json.loads(run("request", "POST", url, "--json", "@-", stdin="{}").stdout)["body"] == "{}"
    assert run("request", "POST", url, "-d", "@/absent").returncode == 2


def test_a_token_that_is_refused_is_replaced(run: Run, resource_server: ResourceServer) -> None:
    resource_server.refused.add(run("token").stdout.strip())
    done = run("request", "GET", f"{resource_server.url}/echo")
    assert done.returncode == 0, done.stderr
    assert len(resource_server.requests) == 2


def test_a_wider_scope_is_asked_for_where_it_is_needed(run: Run, resource_server: ResourceServer) -> None:
    resource_server.needs = "mcp:write"
    assert run("request", "GET", f"{resource_server.url}/echo", "--scope", "mcp:read").returncode == 0


def test_an_error_of_the_resource_is_shown_and_has_its_own_exit_code(run: Run, resource_server: ResourceServer) -> None:
    resource_server.refuse_all = True
    done = run("request", "-i", "GET", f"{resource_server.url}/echo")
    assert done.returncode == 7
    assert done.stdout.startswith("HTTP/1.1 401 Unauthorized\n")
    assert json.loads(done.stdout.partition("\n\n")[2]) == {"error": "invalid_token"}


@pytest.mark.parametrize("command", [["request", "POST"], ["doctor"]])
def test_a_url_alone_leads_the_credential_nowhere(
    command: list[str], run: Run, authorization_server: AuthorizationServer
) -> None:
    url = authorization_server.mcp_url("42")
    done = run(*command, url, CONDUIT_OAUTH_TOKEN_ENDPOINT=None)
    assert done.returncode == (1 if command == ["doctor"] else 2)
    assert "token_endpoint" in done.stdout + done.stderr
    assert authorization_server.token_requests == []


def test_the_gateway_that_the_settings_name_leads_to_the_token_endpoint(
    run: Run, authorization_server: AuthorizationServer
) -> None:
    ping = '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'
    url = authorization_server.mcp_url("42")
    done = run("request", "POST", url, "--mcp-url", url, "--json", ping)
    assert authorization_server.token_requests[0]["gateway"] == "42"
    assert "jsonrpc" in done.stdout


def test_a_body_is_sent_as_the_bytes_that_were_typed(run: Run, resource_server: ResourceServer) -> None:
    # No UTF-8, as a terminal of another code page has it.
    done = run("request", "POST", f"{resource_server.url}/echo", "-d", "a\udcffb")
    assert json.loads(done.stdout)["body"] == r"a\xffb"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["GET", "ftp://gateway.example"], "URL"),
        (["GET", "http://gateway.example"], "https"),
        (["GET", "http://127.0.0.1:1/", "-H", "no-colon"], "header: has no name before a colon"),
        (["GET", "http://127.0.0.1:1/", "-H", "X: a\nb"], "header: 'X' has a character"),
        (["GET", "http://127.0.0.1:1/", "-H", "X: \u00e9"], "header: 'X' has a character"),
        (["GET", "http://127.0.0.1:1/", "-H", "X Y: a"], "header: 'X Y' has a character"),
        (["GET", "http://127.0.0.1:1/", "-H", "Content-Length: 5"], "header: Content-Length"),
        (["GE T", "http://127.0.0.1:1/"], "method: 'GE T'"),
        (["GET", "http://[::1"], "url: 'http://[::1'"),
        (["GET", "http://127.0.0.1:1/", "--output", "x" * 300], "output: "),
        (["GET", "http://127.0.0.1:1/", "-H", "Authorization: Basic x"], "Authorization"),
    ],
)
def test_what_cannot_be_sent_is_a_clear_error(run: Run, arguments: list[str], said: str) -> None:
    done = run("request", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_resource_that_is_not_there_has_the_exit_code_of_that(run: Run) -> None:
    done = run("request", "--retries", "0", "GET", "http://127.0.0.1:1/")
    assert done.returncode == 4
    assert "127.0.0.1:1" in done.stderr


class Busy(BaseHTTPRequestHandler):
    """Answers 503 once, then with text that would drive a terminal."""

    answers: list[int]
    kind = "text/plain"

    def do_GET(self) -> None:
        status = self.answers.pop(0)
        body = b"plain \x1b[31mred\n  indented"
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Nothing: stderr is the test's."""


@pytest.fixture
def busy_url() -> Iterator[str]:
    Busy.answers = [503, 200]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}/"


def test_a_busy_resource_is_asked_again_unless_that_could_do_the_thing_twice(run: Run, busy_url: str) -> None:
    assert run("request", "POST", busy_url).returncode == 7
    Busy.answers.insert(0, 503)
    done = run("request", "GET", busy_url)
    assert done.returncode == 0
    assert "503" in done.stderr


def on_a_terminal(environment: dict[str, str], *arguments: str) -> str:
    """What a command shows on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(COMMAND, [str(COMMAND), *arguments], {**environment, "TERM": "xterm-256color"})  # noqa: S606
    seen = b""
    try:
        while piece := os.read(terminal, 4096):
            seen += piece
    except OSError:  # how Linux says that the other side of a terminal has closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return seen.decode()


def test_a_person_sees_the_status_and_json_spread_out_in_colour(
    environment: dict[str, str], resource_server: ResourceServer
) -> None:
    url = f"{resource_server.url}/echo"
    shown = on_a_terminal(environment, "request", "GET", url)
    assert "HTTP/1.1 200 OK" in shown
    assert "\x1b[" in shown
    assert re.search(r'\n\s+.*"method"', shown)
    plain = on_a_terminal({**environment, "NO_COLOR": "1"}, "request", "GET", url)
    assert not re.search(r"\x1b\[3\d", plain)


def test_an_answer_cannot_drive_the_terminal(environment: dict[str, str], busy_url: str) -> None:
    Busy.answers = [200]
    shown = on_a_terminal(environment, "request", "GET", busy_url)
    assert "\x1b[31mred" not in shown
    assert "plain" in shown
    assert "\n  indented" in shown


def test_the_type_of_an_answer_cannot_drive_the_terminal_either(
    environment: dict[str, str], busy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Busy, "kind", "image/[/x]:bug:")
    Busy.answers = [200]
    assert "bytes of image/[/x]:bug:: take them" in on_a_terminal(environment, "request", "GET", busy_url)


def test_output_goes_to_a_file(run: Run, resource_server: ResourceServer, tmp_path: Path) -> None:
    target = tmp_path / "answer.json"
    done = run("request", "GET", f"{resource_server.url}/echo", "-o", target)
    assert done.stdout == ""
    assert json.loads(target.read_text())["method"] == "GET"


def test_a_person_is_told_what_takes_more_than_a_second(
    environment: dict[str, str], run: Run, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(latency=1.5)
    assert "Waiting for a token" in on_a_terminal(environment, "token", "--fresh")
    assert run("token", "--fresh").stderr == ""


def test_a_body_is_given_once(run: Run) -> None:
    done = run("request", "POST", "https://api.example/", "-d", "a", "--json", "{}")
    assert done.returncode == 2
    assert "--json: cannot be used together with --data" in done.stderr
