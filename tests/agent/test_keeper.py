"""What the agent writes, when, and what a reader finds meanwhile."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError
from conduit_oauth.agent.config import Output
from conduit_oauth.agent.keeper import Agent
from conduit_oauth.agent.outputs import put, withdraw
from conduit_oauth.client.requester import Requester
from conduit_oauth.testing import AuthorizationServer
from tests.agent.conftest import Bell, Keep, Write
from tests.conftest import MakeProvider, Said

BILLING = """
[providers.billing]
scope = "mcp:read"

[[agent.outputs]]
provider = "billing"
file = "tokens/billing"
run = BELL
"""


def test_a_token_is_in_its_file_and_replaced_before_it_expires(
    keep: Keep, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)
    agent = keep(BILLING)
    bell.wait()
    file = tmp_path / "tokens" / "billing"
    first = file.read_text()
    assert first == agent.providers["billing"].get_token()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    bell.wait()
    assert file.read_text() == agent.providers["billing"].get_token() != first
    assert [each.name for each in file.parent.iterdir()] == ["billing"]


def test_a_token_that_is_over_is_taken_away_and_comes_back(
    keep: Keep, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)
    keep(BILLING)
    bell.wait()
    authorization_server.fail(503, count=1000)
    while bell.wait()[1]:
        pass
    assert not (tmp_path / "tokens" / "billing").exists()
    authorization_server.recover()
    assert bell.wait()[1]
    assert (tmp_path / "tokens" / "billing").exists()


def test_a_token_is_taken_away_when_it_is_over_though_nothing_happens(
    keep: Keep, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)
    agent = keep(BILLING)
    bell.wait()
    authorization_server.hold()
    while bell.wait()[1]:
        pass
    # The refresh has neither come nor failed yet.
    assert agent.providers["billing"].state().last_failure is None
    assert not (tmp_path / "tokens" / "billing").exists()
    authorization_server.release()


def test_a_new_agent_leaves_a_valid_token_where_it_is_though_the_server_is_away(
    keep: Keep, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    keep(BILLING)
    bell.wait()
    token = (tmp_path / "tokens" / "billing").read_text()
    authorization_server.fail(503, count=1000)
    again = keep(BILLING)
    bell.wait()
    assert (tmp_path / "tokens" / "billing").read_text() == token == again.providers["billing"].get_token()


def test_every_format_and_each_provider_of_a_pattern(keep: Keep, bell: Bell, tmp_path: Path) -> None:
    agent = keep(
        """
        [providers.one]
        resource = "http://127.0.0.1/servers/demo/mcp"
        [providers.two]
        [[agent.outputs]]
        provider = "two"
        file = "{provider}.json"
        format = "json"
        [[agent.outputs]]
        provider = "t*"
        file = "{provider}.curl"
        format = "curl-config"
        mode = "0440"
        [[agent.outputs]]
        provider = "*"
        file = "{provider}.env"
        format = "env"
        run = BELL
        """
    )
    bell.wait_for("two")
    token = agent.providers["two"].get_token()
    assert json.loads((tmp_path / "two.json").read_text())["access_token"] == token
    assert (tmp_path / "two.curl").read_text() == f'header = "Authorization: Bearer {token}"\n'
    assert stat.S_IMODE((tmp_path / "two.curl").stat().st_mode) == 0o440
    assert (tmp_path / "two.env").read_text() == f"CONDUIT_OAUTH_TOKEN={token}\n"
    assert not (tmp_path / "one.curl").exists()


def test_a_directory_has_the_shape_of_a_mounted_kubernetes_secret(
    keep: Keep, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)
    agent = keep(
        """
        [providers.billing]
        [[agent.outputs]]
        provider = "billing"
        directory = "secrets/{provider}"
        run = BELL
        """
    )
    folder = tmp_path / "secrets" / "billing"
    for count in (1, 2, 2):
        bell.wait()
        assert (folder / "token").read_text() == agent.providers["billing"].get_token()
        assert (folder / "token_type").read_text() == "Bearer"
        assert (folder / "token").readlink() == Path("..data/token")
        # The link, the folder that it leads to, and the one that a reader may be on its way through.
        hidden = [each.name for each in folder.iterdir() if each.name.startswith("..")]
        assert {"..data", (folder / "..data").readlink().name} <= set(hidden)
        assert len(hidden) == 1 + count
    authorization_server.fail(503, count=1000)
    while bell.wait()[1]:
        pass
    assert not (folder / "token").exists()


@pytest.mark.parametrize("shape", ["file", "directory"])
def test_a_reader_never_finds_half_a_token(shape: str, make_provider: MakeProvider, tmp_path: Path) -> None:
    provider = make_provider()
    output = Output("*", **{shape: tmp_path / "place"})
    tokens = ["a" * 20_000, "b" * 3, "c" * 70_000]
    put(output, "any", provider, tokens[0])
    place = tmp_path / "place" / "token" if shape == "directory" else tmp_path / "place"
    found: list[str] = []
    over, read_once = threading.Event(), threading.Condition()

    def read() -> None:
        while not over.is_set():
            text = place.read_text()
            with read_once:
                found.append(text)
                read_once.notify()

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        before = len(found)
        put(output, "any", provider, tokens[number % 3])
        # A token lives longer than it takes to read it.
        with read_once:
            assert read_once.wait_for(lambda before=before: len(found) > before, 20)
    over.set()
    reader.join()
    assert set(found) == set(tokens)
    withdraw(output, "any")
    assert not place.exists()


def test_a_file_in_the_place_of_a_link_is_replaced_not_followed(make_provider: MakeProvider, tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to(tmp_path / "elsewhere")
    put(Output("*", file=tmp_path / "place"), "any", make_provider(), "token")
    assert (tmp_path / "place").read_text() == "token"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("shape", ["file", "directory"])
def test_what_is_written_belongs_to_whom_it_should(shape: str, make_provider: MakeProvider, tmp_path: Path) -> None:
    # Only root can give a file away.
    uid, gid = (65534, 65534) if os.getuid() == 0 else (os.getuid(), os.getgid())
    put(Output("*", mode=0o640, uid=uid, gid=gid, **{shape: tmp_path / "place"}), "any", make_provider(), "token")
    place = tmp_path / "place" / "token" if shape == "directory" else tmp_path / "place"
    status = place.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, 0o640)
    if shape == "directory":
        # Who may read the file may come to it; the folder stays the agent's.
        for folder in (tmp_path / "place", place.resolve().parent):
            expected = (os.getuid(), gid, 0o751 if os.getuid() == 0 else 0o750)
            assert (folder.stat().st_uid, folder.stat().st_gid, stat.S_IMODE(folder.stat().st_mode)) == expected


def test_what_a_killed_agent_left_is_taken_away(keep: Keep, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    for name, age in ((".billing.0123abcd.new", 3600), (".billing.4567abcd.new", 0), (".others.new", 3600)):
        (folder / name).write_text("half a tok")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert keep(BILLING.replace("run = BELL", "")).settled.wait(20)
    # The second may be another agent's that writes it now, and the third is nobody's draft.
    assert {each.name for each in folder.iterdir()} == {"billing", ".billing.4567abcd.new", ".others.new"}


def test_what_cannot_be_written_is_told_and_the_rest_goes_on(keep: Keep, bell: Bell, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("no folder")
    agent = keep(
        """
        [providers.billing]
        [[agent.outputs]]
        provider = "billing"
        file = "blocked/billing"
        [[agent.outputs]]
        provider = "billing"
        file = "tokens/billing"
        run = BELL
        """
    )
    bell.wait()
    assert (tmp_path / "tokens" / "billing").exists()
    assert agent.settled.wait(20)
    assert "blocked" in agent.troubles["billing"][1]
    (tmp_path / "blocked").unlink()
    agent.providers.reload()
    agent.providers["billing"].invalidate()
    bell.wait_for("billing")
    assert (tmp_path / "blocked" / "billing").exists()


def test_a_command_that_fails_is_told(keep: Keep, write: Write, tmp_path: Path) -> None:
    agent = keep(
        """
        [providers.billing]
        [[agent.outputs]]
        provider = "billing"
        run = ["/bin/sh", "-c", "exit 3"]
        """
    )
    assert agent.settled.wait(20)
    agent._hooks.wait()
    assert agent.troubles["billing"][1] == "/bin/sh ended with status 3"
    # With its provider, its trouble goes, too.
    write("[providers.crm]")
    agent.providers.reload()
    looked_at(agent)
    agent._hooks.wait()
    assert agent.troubles == {}


def looked_at(agent: Agent) -> None:
    """Wait until the agent has done what it was told to before."""
    looked = threading.Event()
    agent._jobs.put(looked.set)
    assert looked.wait(20)


@pytest.mark.parametrize("harm", ["deleted", "changed"])
def test_an_output_that_somebody_harmed_is_written_again(harm: str, keep: Keep, tmp_path: Path) -> None:
    agent = keep(
        """
        [providers.billing]
        [[agent.outputs]]
        provider = "billing"
        file = "token"
        """
    )
    assert agent.settled.wait(20)
    token = (tmp_path / "token").read_text()
    if harm == "deleted":
        (tmp_path / "token").unlink()
    else:
        (tmp_path / "token").write_text("another")
    agent.providers.reload()
    looked_at(agent)
    assert (tmp_path / "token").read_text() == token


def test_a_changed_file_is_read_anew(
    keep: Keep, write: Write, bell: Bell, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    agent = keep(BILLING)
    bell.wait()
    token = agent.providers["billing"].get_token()
    write(BILLING + '[providers.crm]\n[[agent.outputs]]\nprovider = "crm"\nfile = "tokens/crm"\nrun = BELL\n')
    agent.providers.reload()
    bell.wait_for("crm")
    assert (tmp_path / "tokens" / "crm").exists()
    assert (tmp_path / "tokens" / "billing").read_text() == token
    write(BILLING.replace("billing", "crm"))
    agent.providers.reload()
    bell.wait_for("crm")
    write("[agent]\nlisten = 7")
    with pytest.raises(ConfigurationError):
        agent.providers.reload()
    agent.providers["crm"].invalidate()
    bell.wait_for("crm")
    assert [each.name for each in (tmp_path / "tokens").iterdir()] == ["crm"]


TWO_OUTPUTS = """
[[agent.outputs]]
provider = "{}"
file = "{}"
[[agent.outputs]]
provider = "{}"
file = "{}"
"""


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("[agent]\nlisten = 7", "agent.listen", "list of strings"),
        ('[agent]\nlisten = "nowhere"', "agent.listen", "no address"),
        ("[agent]\ncolour = 1", "agent.colour", "no setting"),
        ('[agent]\nexpose = "yes"', "agent.expose", "true or false"),
        ("[agent]\noutputs = 1", "agent.outputs", "no list"),
        ('[[agent.outputs]]\nfile = "x"', "agent.outputs[1].provider", "missing"),
        ('[[agent.outputs]]\nprovider = "a"', "agent.outputs[1]", "needs a file"),
        ('[[agent.outputs]]\nprovider = "a"\nfile = "x"\ndirectory = "y"', "agent.outputs[1]", "one of them"),
        ('[[agent.outputs]]\nprovider = "*"\nfile = "x"', "agent.outputs[1]", "{provider}"),
        ('[[agent.outputs]]\nprovider = "a"\nfile = "x"\nformat = "xml"', "agent.outputs[1].format", "netrc"),
        ('[[agent.outputs]]\nprovider = "a"\ndirectory = "x"\nformat = "env"', "agent.outputs[1].format", "for files"),
        ('[[agent.outputs]]\nprovider = "a"\nfile = "x"\nmode = "0644"', "agent.outputs[1].mode", "others get nothing"),
        (
            '[[agent.outputs]]\nprovider = "a"\nfile = "x"\nowner = "nobody-known"',
            "agent.outputs[1].owner",
            "not known",
        ),
        ('[[agent.outputs]]\nprovider = "a"\nrun = "reload"', "agent.outputs[1].run", "list of strings"),
        ('[agent]\nsocket_mode = "0666"', "agent.socket_mode", "others get nothing"),
        ('[agent]\nsocket_group = "nobody-known"', "agent.socket_group", "not known"),
        (TWO_OUTPUTS.format("a", "x", "b", "./x"), "agent.outputs[2]", "place of agent.outputs[1]"),
        (TWO_OUTPUTS.format("*", "t/{provider}", "b", "t/{provider}"), "agent.outputs[2]", "place of agent.outputs[1]"),
        (TWO_OUTPUTS.format("a", "t/billing", "b*", "t/{provider}"), "agent.outputs[2]", "place of agent.outputs[1]"),
    ],
)
def test_a_mistake_in_the_file_names_the_setting(text: str, field: str, problem: str, write: Write) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Agent(write(text))
    assert raised.value.field == field
    assert problem in str(raised.value)


def test_a_name_is_no_way_out_of_a_folder(tmp_path: Path) -> None:
    output = Output("*", file=tmp_path / "{provider}")
    for name in ("../passwd", ".hidden", "a/b"):
        with pytest.raises(ConfigurationError, match="no file name"):
            output.place(name)


def test_a_refusal_that_the_fleet_remembers_is_no_reason_to_wait(
    keep: Keep, tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    refused = '[providers.broken]\nclient_id = "nobody"\n'
    assert keep(refused).settled.wait(20)
    # Asks nobody: another process was refused a moment ago.
    assert keep(refused).settled.wait(20)
    # One attempt, by each of the two methods.
    assert len(authorization_server.token_requests) == 2


def test_a_provider_that_was_given_up_stays_so(keep: Keep, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(requester: Requester, seconds: float) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("conduit_oauth.supervision.supervisor.RESTART_BASE", 0.001)
    monkeypatch.setattr(Requester, "fetch", fetch)
    agent = keep("[providers.broken]")
    said.wait_for("provider_given_up name=broken")
    # Once it is told of that, and has looked at all for the last time.
    agent.close()
    assert said.count("provider_restarted name=broken") == 5
    assert said.count("provider_given_up name=broken") == 1


def test_a_fault_of_ours_with_one_output_is_told_and_ends_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(output: Output, *arguments: Any) -> None:
        if output.provider == "broken":
            raise LookupError
        put(output, *arguments)

    monkeypatch.setattr("conduit_oauth.agent.keeper.put", broken)
    outputs = "".join(
        f'[[agent.outputs]]\nprovider = "{name}"\nfile = "tokens/{{provider}}"\n' for name in ("broken", "sound")
    )
    agent = Agent(write(f"[providers.broken]\n[providers.sound]\n{outputs}"))
    assert agent.once() == {"broken": "broke down with LookupError"}
    assert (tmp_path / "tokens" / "sound").exists()


@pytest.mark.parametrize(
    ("output", "said"), [('file = "tokens/{provider}"', "is no file name"), ('run = ["true"]', "embedded null byte")]
)
def test_a_provider_that_no_file_and_no_variable_can_name_is_told(write: Write, output: str, said: str) -> None:
    agent = Agent(write(f'[providers."a\\u0000b"]\n[[agent.outputs]]\nprovider = "*"\n{output}\n'))
    assert said in agent.once()["a\0b"]


def test_a_folder_whose_name_is_no_utf8(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"odd-\xff")
    folder.mkdir()
    for file in (tmp_path / "secret", write(BILLING.replace("BELL", '["true"]'))):
        file.rename(folder / file.name)
    assert Agent(folder / "agent.toml").once() == {}
    assert (folder / "tokens" / "billing").exists()
