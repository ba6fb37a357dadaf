"""What operators do to an agent: they write its file in place, rotate, remove, restart and run two of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conduit_oauth import ConfigurationError
from conduit_oauth.agent.config import Output
from conduit_oauth.agent.making import Making
from conduit_oauth.agent.outputs import put, withdraw
from conduit_oauth.serving.listening import Address
from conduit_oauth.testing import AuthorizationServer
from tests.agent.conftest import Bell, Keep, Serve, Write
from tests.agent.test_keeper import BILLING, looked_at
from tests.agent.test_service import ONE, run
from tests.certificates import issue
from tests.conftest import COMMAND, MakeProvider, Said
from tests.stores.line import until

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_once_runs_every_command_and_tells_those_that_failed(
    write: Write, client_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ran").mkdir()
    names = [f"p{number}" for number in range(30)]
    providers = "".join(f"[providers.{name}]\n" for name in names)
    command = f'["/bin/sh", "-c", "sleep 0.2; touch {tmp_path}/ran/$CONDUIT_OAUTH_PROVIDER"]'
    config = write(f'{providers}[[agent.outputs]]\nprovider = "*"\nrun = {command}\n')
    done = run(config, client_environment, "--once")
    assert done.returncode == 0, done.stderr
    assert {each.name for each in (tmp_path / "ran").iterdir()} == {*names}
    config = write('[providers.billing]\n[[agent.outputs]]\nprovider = "*"\nrun = ["/bin/sh", "-c", "exit 9"]\n')
    done = run(config, client_environment, "--once")
    assert done.returncode == 1
    assert "billing: /bin/sh ended with status 9" in done.stderr


def test_a_command_that_fails_is_told_though_the_agent_was_started_by_one_who_ignores_its_children(
    write: Write, client_environment: dict[str, str]
) -> None:
    config = write('[providers.billing]\n[[agent.outputs]]\nprovider = "*"\nrun = ["/bin/sh", "-c", "exit 9"]\n')
    starter = "import os, signal as s, sys; s.signal(s.SIGCHLD, s.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", starter, COMMAND, "agent", "--config", config, "--once"],
        env=client_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "billing: /bin/sh ended with status 9" in done.stderr


def test_ctrl_c_ends_once_while_the_server_is_mute(
    write: Write, client_environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}/token"
        names = "".join(f'[providers.p{number}]\ntoken_endpoint = "{endpoint}"\n' for number in range(20))
        config = write(f'{names}[[agent.outputs]]\nprovider = "*"\nfile = "{tmp_path}/{{provider}}"\n')
        command = [COMMAND, "agent", "--config", config, "--once"]
        with subprocess.Popen(command, env=client_environment, stderr=subprocess.PIPE, text=True) as process:
            mute.settimeout(30)
            connection, _ = mute.accept()
            process.send_signal(signal.SIGINT)
            # Less than its callers' patience of 30 s.
            _, said = process.communicate(timeout=15)
            connection.close()
    assert process.returncode == 130
    assert "Traceback" not in said


@pytest.mark.parametrize("written", ["", "[defaults]\n", "[providers.billing"])
def test_a_file_that_is_just_being_written_takes_nothing_away(
    written: str, keep: Keep, bell: Bell, tmp_path: Path
) -> None:
    agent = keep(BILLING)
    bell.wait()
    (tmp_path / "agent.toml").write_text(written)
    with pytest.raises(ConfigurationError, match="providers"):
        agent.providers.reload()
    looked_at(agent)
    assert (tmp_path / "tokens" / "billing").exists()
    assert bell.is_silent()


def test_what_the_file_names_no_more_is_gone_and_told(
    keep: Keep, write: Write, bell: Bell, tmp_path: Path, said: Said
) -> None:
    agent = keep(BILLING + '[providers.crm]\n[[agent.outputs]]\nprovider = "crm"\ndirectory = "crm"\nrun = BELL\n')
    assert {bell.wait()[0] for _ in range(2)} == {"billing", "crm"}
    write(BILLING)
    agent.providers.reload()
    assert bell.wait() == ("crm", 0)
    assert not (tmp_path / "crm" / "token").exists()
    # Nothing of the token is left, in no generation.
    assert [each for each in (tmp_path / "crm").iterdir() if not each.is_symlink()] == []
    said.wait_for("outputs_removed count=1")
    assert (tmp_path / "tokens" / "billing").exists()


def test_what_cannot_be_taken_away_is_tried_again(
    keep: Keep, write: Write, bell: Bell, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conduit_oauth.agent.keeper.RETRY", 0.05)
    agent = keep(BILLING + '[providers.crm]\n[[agent.outputs]]\nprovider = "crm"\nfile = "crm"\nrun = BELL\n')
    assert {bell.wait()[0] for _ in range(2)} == {"billing", "crm"}
    (tmp_path / "crm").unlink()
    (tmp_path / "crm").mkdir()
    (tmp_path / "crm" / "in-the-way").touch()
    write(BILLING)
    agent.providers.reload()
    said.wait_for("output_failed name=crm")
    (tmp_path / "crm" / "in-the-way").unlink()
    (tmp_path / "crm").rmdir()
    assert bell.wait() == ("crm", 0)


def test_what_was_removed_while_the_agent_was_stopped_is_gone_and_told(
    keep: Keep, write: Write, bell: Bell, tmp_path: Path
) -> None:
    first = keep(BILLING)
    bell.wait()
    first.close()
    assert (tmp_path / "tokens" / "billing").exists()
    again = keep("[providers.crm]")
    assert bell.wait() == ("billing", 0)
    assert not (tmp_path / "tokens" / "billing").exists()
    again.close()
    keep("[providers.crm]")
    assert bell.is_silent()


def test_another_mode_or_command_is_no_end_of_the_token(keep: Keep, write: Write, bell: Bell, tmp_path: Path) -> None:
    agent = keep(BILLING)
    told = bell.wait()
    file = tmp_path / "tokens" / "billing"
    missing: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if not file.exists():
                missing.append("missing")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    write(BILLING + 'mode = "0640"\n')
    agent.providers.reload()
    looked_at(agent)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    # Another command, which is told of what there is.
    (tmp_path / "second.sh").write_text(f"#!/bin/sh\n{bell.command[2]}\n")
    (tmp_path / "second.sh").chmod(0o700)
    write(BILLING.replace("BELL", '["./second.sh"]'))
    agent.providers.reload()
    assert bell.wait() == told
    over.set()
    watcher.join()
    assert missing == []


def test_a_directory_that_cannot_be_written_is_left_as_it_was(
    make_provider: MakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, provider = Output("*", directory=tmp_path / "out"), make_provider()
    put(output, "any", provider, "one")
    before = sorted(each.name for each in (tmp_path / "out").iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            put(output, "any", provider, "two")
        assert sorted(each.name for each in (tmp_path / "out").iterdir()) == before
    assert (tmp_path / "out" / "token").read_text() == "one"


@pytest.mark.parametrize("shape", ["file", "directory"])
def test_a_token_that_is_over_is_taken_away_from_a_full_disk(
    shape: str, make_provider: MakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output("*", **{shape: tmp_path / "out"})
    put(output, "any", make_provider(), "one")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    for name in ("open", "mkdir", "symlink"):
        original = getattr(os, name)

        def guarded(path: Any, *given: Any, original: Any = original, name: str = name, **how: Any) -> Any:
            makes = name != "open" or (given and given[0] & os.O_CREAT)
            return full() if makes else original(path, *given, **how)

        monkeypatch.setattr(os, name, guarded)
    withdraw(output, "any")
    assert not (tmp_path / "out" / "token" if shape == "directory" else tmp_path / "out").exists()


def test_a_group_comes_to_its_file_whatever_the_umask_is(make_provider: MakeProvider, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        put(Output("*", file=tmp_path / "a" / "b" / "token", mode=0o640), "any", make_provider(), "one")
        put(Output("*", file=tmp_path / "own" / "token"), "any", make_provider(), "one")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("a", "a/b", "a/b/token", "own")]
    assert modes == [0o711, 0o711, 0o640, 0o700]


def test_the_socket_has_the_mode_and_the_group_that_were_said(serve: Serve, tmp_path: Path) -> None:
    group = os.getgid()
    serve(ONE + f'socket_mode = "0660"\nsocket_group = "{group}"\n')
    status = (tmp_path / "agent.sock").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group)


def test_a_server_that_ends_leaves_the_socket_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def app(scope: object, receive: object, send: object) -> None: ...

    def ready(_: list[str]) -> None:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
        os.kill(os.getpid(), signal.SIGTERM)

    import asyncio

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(serve_there(app, path, ready))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert path.is_socket()


async def serve_there(app: Any, path: Path, ready: Callable[[list[str]], None]) -> None:
    from conduit_oauth.serving import listening as serving

    await serving.serve(app, [Address(path=path)], ready)


def test_probes_and_scrapers_come_by_any_name(serve: Serve) -> None:
    service = serve(ONE)
    elsewhere = {"Host": "10.1.2.3:8901"}
    for path, text in (("/livez", "alive"), ("/readyz", "ready"), ("/metrics", "conduit_oauth_token_valid")):
        answer = httpx2.get(service.url + path, headers=elsewhere)
        assert answer.status_code == 200
        assert text in answer.text
    assert httpx2.get(f"{service.url}/tokens/billing", headers=elsewhere).status_code in (403, 421)
    assert httpx2.get(f"{service.url}/status.json", headers=elsewhere).status_code == 421


def test_a_rotated_bearer_counts_and_another_address_takes_a_restart(
    serve: Serve, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "bearer").write_text("before\n")
    service = serve(ONE + 'local_token_file = "bearer"')

    def status(bearer: str) -> int:
        return httpx2.get(f"{service.url}/tokens/billing", headers={"Authorization": f"Bearer {bearer}"}).status_code

    assert (status("before"), status("after")) == (200, 401)
    (tmp_path / "bearer").write_text("after\n")
    assert (status("before"), status("after")) == (401, 200)
    write(ONE.replace('"127.0.0.1:0"', '"127.0.0.1:1"') + 'local_token_file = "bearer"')
    service.send(signal.SIGHUP)
    service.wait_for("listen_unchanged")
    assert status("after") == 200


def test_a_program_that_invalidates_in_a_loop_is_damped(
    serve: Serve, authorization_server: AuthorizationServer
) -> None:
    service = serve(ONE)
    for _ in range(100):
        assert service.socket.request("DELETE", "/tokens/billing").status_code == 200
    assert len(authorization_server.token_requests) < 10


def test_check_tells_all_that_is_wrong(
    write: Write, client_environment: dict[str, str], tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    config = write(
        f"""
        [providers.billing]
        client_secret = {{ file = "absent" }}
        token_request_headers = {{ X-Key = {{ file = "no-header" }} }}
        dpop = {{ file = "no-proof" }}
        [providers.".hidden"]
        [providers.certified]
        client_certificate = ["no-certificate", "no-key"]
        [agent]
        listen = "unix:{"x" * 120}"
        local_token_file = "no-bearer"
        [[agent.outputs]]
        provider = "nobody"
        file = "nobody"
        [[agent.outputs]]
        provider = "*"
        file = "tokens/{{provider}}"
        """
    )
    done = run(config, client_environment, "--check")
    assert done.returncode == 2
    for words in (
        "providers.billing.client_secret: cannot be read",
        "providers.billing.token_request_headers.X-Key: cannot be read",
        "providers.billing.dpop: cannot be read",
        "providers.certified.client_certificate: cannot be used",
        *("no-bearer", "107 bytes", "'nobody' is no provider", "providers..hidden: is no file name"),
    ):
        assert done.stderr.count(words) == 1
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()[:-1])
    assert authorization_server.token_requests == []


def test_check_tells_of_a_key_that_cannot_be_used(client_environment: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    settings = 'client_id = "me"\ntoken_endpoint = "https://as.example/token"\nprivate_key = { file = "key" }\n'
    config.write_text(f"[providers.signing]\n{settings}")
    (tmp_path / "key").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    done = run(config, client_environment, "--check")
    assert done.returncode == 2
    assert "error: providers.signing.private_key: is encrypted" in done.stderr


def test_a_signal_before_all_is_ready_ends_nothing_and_tells_nobody_so(
    write: Write, client_environment: dict[str, str], tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    authorization_server.hold()
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        command = [COMMAND, "agent", "--config", write(ONE)]
        environment = {**client_environment, "NOTIFY_SOCKET": path}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as agent:
            authorization_server.wait_for_token_requests(1)
            agent.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1")
            write("[agent]\ncolour = 1")
            agent.send_signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"STATUS=Not reloaded: agent.colour")
            authorization_server.release()
            assert manager.recv(4096) == b"READY=1"
            agent.terminate()
            assert agent.wait(20) == 0


def test_a_program_is_found_from_the_file(keep: Keep, tmp_path: Path) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/told\n")
    hook.chmod(0o700)
    agent = keep('[providers.billing]\n[[agent.outputs]]\nprovider = "*"\nrun = ["./hook.sh"]\n')
    assert agent.settled.wait(20)
    agent._hooks.wait()
    assert (tmp_path / "told").read_text() == agent.providers["billing"].get_token()


@pytest.mark.parametrize(
    "setting",
    [
        'client_secret = { file = "later" }',
        'token_request_headers = { X-Key = { file = "later" } }',
        'client_certificate = ["later", "later"]',
        'ca_file = "later"',
    ],
)
def test_a_file_that_appears_later_is_seen_soon(
    setting: str, keep: Keep, tmp_path: Path, bell: Bell, authorization_server: AuthorizationServer
) -> None:
    (tmp_path / "tls").mkdir()
    issue(tmp_path / "tls", "client")
    content = (
        authorization_server.client_secret
        if "secret" in setting or "headers" in setting
        else "".join((tmp_path / "tls" / name).read_text() for name in ("client.pem", "client-key.pem"))
    )
    agent = keep(BILLING.replace("[providers.billing]", f"[providers.billing]\n{setting}"))
    # Once the first try has failed.
    assert agent.settled.wait(20)
    (tmp_path / "new").write_text(content)
    (tmp_path / "new").rename(tmp_path / "later")
    bell.wait_for("billing")


def test_a_provider_that_cannot_be_made_is_tried_again_only_where_a_file_changed(
    keep: Keep, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    problem = Making.problem
    monkeypatch.setattr(Making, "problem", lambda making, name: looks.append(name) or problem(making, name))
    monkeypatch.setattr("conduit_oauth.agent.keeper.AGAIN", 0.01)
    agent = keep(BILLING.replace("[providers.billing]", '[providers.billing]\nca_file = "later"\n[providers.crm]'))
    assert agent.settled.wait(20)
    assert said.count("provider_not_made name=billing: providers.billing.ca_file") == 1
    first = agent.troubles["billing"]
    before = len(looks)
    until(lambda: len(looks) > before + 5)
    assert agent.troubles["billing"] == first
    assert said.count("provider_not_made") == 1
    (tmp_path / "later").write_text("no certificate")
    until(lambda: said.count("provider_not_made") == 2)


def test_two_agents_on_one_file_leave_no_reader_without_a_token(make_provider: MakeProvider, tmp_path: Path) -> None:
    output, provider = Output("*", file=tmp_path / "token"), make_provider()
    put(output, "any", provider, "a" * 50_000)
    over, faults = threading.Event(), []

    def write_on(letter: str) -> None:
        try:
            while not over.is_set():
                put(output, "any", provider, letter * 50_000)
        except OSError as error:
            faults.append(error)

    writers = [threading.Thread(target=write_on, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    found = {(tmp_path / "token").read_text() for _ in range(3000)}
    over.set()
    for writer in writers:
        writer.join()
    assert faults == []
    assert found <= {"a" * 50_000, "b" * 50_000}
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_second_agent_on_one_file_is_told(
    serve: Serve, write: Write, client_environment: dict[str, str], tmp_path: Path
) -> None:
    text = ONE + '[[agent.outputs]]\nprovider = "*"\nfile = "tokens/{provider}"\n'
    serve(text)
    before = (tmp_path / "tokens" / "billing").read_text()
    done = run(write(text), client_environment, "--once")
    assert done.returncode == 1
    assert "another agent has this output" in done.stderr
    assert (tmp_path / "tokens" / "billing").read_text() == before


def test_a_second_agent_with_the_same_command_is_told(
    serve: Serve, write: Write, client_environment: dict[str, str]
) -> None:
    text = ONE + '[[agent.outputs]]\nprovider = "*"\nrun = ["true"]\n'
    serve(text)
    done = run(write(text), client_environment, "--once")
    assert done.returncode == 1
    assert "true: [Errno 16] another agent has this output: 'billing: true'" in done.stderr


def test_the_ledger_holds_no_secret(keep: Keep, bell: Bell, tmp_path: Path) -> None:
    agent = keep(BILLING)
    bell.wait()
    file = agent._ledger._file
    assert file is not None
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [facts["name"] for facts in json.loads(text).values()] == ["billing"]
    assert agent.providers["billing"].get_token() not in text
