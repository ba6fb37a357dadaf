"""Output that cannot be written, and Ctrl-C: one line, the right status, and no request for nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.conftest import COMMAND
from tests.scripted_server import Asked, ScriptedServer

COMMANDS = [["token"], ["doctor"], ["inspect", "--json"], ["request", "GET", "URL"], ["--help"]]


def complete(command: list[str], url: str) -> list[str]:
    return [str(COMMAND), *(url if each == "URL" else each for each in command)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_full_disk_is_one_line(
    command: list[str], environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            complete(command, authorization_server.mcp_url()),
            env=environment,
            input="eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.c2ln",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"
    assert "Traceback" not in done.stderr


def test_a_pipe_that_nobody_reads_is_one_line(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [COMMAND, "token"], env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "error: standard output: Broken pipe\n")


def test_a_closed_output_is_said_before_anything_is_asked(
    environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {COMMAND} token >&-"], env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "error: standard output: is closed\n")
    assert authorization_server.token_requests == []


def test_a_file_in_no_folder_is_said_before_anything_is_asked(
    environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    command = [COMMAND, "request", "GET", authorization_server.mcp_url(), "-o", tmp_path / "absent" / "answer"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"error: output: {tmp_path}/absent/answer: No such file or directory. Name a file that can be written."
    ]
    assert authorization_server.token_requests == []


def test_an_answer_replaces_what_a_file_held_and_a_failure_does_not(
    environment: dict[str, str], authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("what it held before, at length" * 100)
    url = authorization_server.mcp_url()
    run = [COMMAND, "request", "GET", "--retries", "0"]
    for file in (old, new):
        refused = subprocess.run(
            [
                *run,
                "http://127.0.0.1:1/",
                "-o",
                file,
                "--mcp-url",
                "http://127.0.0.1:1/mcp",
                "--token-endpoint",
                authorization_server.token_endpoint(),
                "--resource",
                "http://127.0.0.1:1",
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert refused.returncode != 0
    assert old.read_text().startswith("what it held before")
    assert not new.exists()
    subprocess.run([*run, url, "-o", old], env=environment, capture_output=True, check=False, timeout=60)
    assert "what it held" not in old.read_text()


@pytest.mark.parametrize("command", [["token"], ["doctor"], ["request", "GET", "URL"]], ids=lambda each: each[0])
def test_ctrl_c_ends_a_command_that_waits(
    command: list[str], environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    authorization_server.hold()
    try:
        with subprocess.Popen(
            complete(command, authorization_server.mcp_url()),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            authorization_server.wait_for_token_requests(1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        assert (process.returncode, "Traceback" in said) == (130, False)
    finally:
        authorization_server.release()


def test_ctrl_c_ends_a_command_whose_output_nobody_reads(
    environment: dict[str, str], authorization_server: AuthorizationServer
) -> None:
    def page(asked: Asked) -> None:
        # Less than the command's buffer holds, and more than the pipe does.
        asked.answer(b"x" * 8000)

    with ScriptedServer(page) as server:
        command = [COMMAND, "request", "--no-resource", "GET", server.url]
        environment["CONDUIT_OAUTH_MCP_URL"] = server.url
        environment["CONDUIT_OAUTH_TOKEN_ENDPOINT"] = authorization_server.token_endpoint()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, pipesize=4096) as process:
            assert process.stdout is not None
            assert os.read(process.stdout.fileno(), 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


def test_ctrl_c_ends_the_agent(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        '[providers.billing]\nclient_id = "a"\nclient_secret = { file = "absent" }\n'
        'token_endpoint = "http://127.0.0.1:1/token"\n[agent]\nlisten = "unix:agent.sock"\n'
    )
    command = [COMMAND, "agent", "--config", tmp_path / "agent.toml"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("Listening" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")
