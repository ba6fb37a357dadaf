"""Profiles by command: what is asked, what is written where, and that no secret is among it."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from conduit_oauth.testing import AuthorizationServer
from tests.cli.conftest import Run
from tests.conftest import COMMAND

CLEAN = dict.fromkeys(("CONDUIT_OAUTH_CLIENT_ID", "CONDUIT_OAUTH_CLIENT_SECRET", "CONDUIT_OAUTH_MCP_URL"))
# Machines without a keyring, and one with a keyring in a file.
NONE = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", **CLEAN}
FILE = {"PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring", **CLEAN}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / ".config" / "conduit-oauth" / "config.toml"


def add(run: Run, server: AuthorizationServer, name: str = "default", **environment: str | None) -> str:
    done = run(
        "profile", "add", name, "--client-id", server.client_id, "--mcp-url", server.mcp_url(),
        stdin=server.client_secret + "\n", **environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert server.client_secret not in done.stdout + done.stderr
    return done.stderr


def test_without_a_keyring_the_secret_goes_into_a_file_of_its_own(
    run: Run, authorization_server: AuthorizationServer, config: Path
) -> None:
    add(run, authorization_server, **NONE)
    assert authorization_server.client_secret not in config.read_text()
    secret = config.parent / "secrets" / "default"
    assert secret.read_text() == authorization_server.client_secret
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert run("token", **NONE).stdout.count(".") == 2
    assert run("profile", "remove", "default", "--yes", **NONE).returncode == 0
    assert not secret.exists()
    assert tomllib.loads(config.read_text()).get("profiles", {}) == {}


def test_with_a_keyring_the_secret_goes_there(
    run: Run, authorization_server: AuthorizationServer, config: Path, tmp_path: Path
) -> None:
    said = add(run, authorization_server, "billing", **FILE)
    # This one does not encrypt, and people should know that.
    told = "its secret in a file that is not encrypted, by the keyring keyrings.alt.file.PlaintextKeyring."
    assert told in said
    assert not (config.parent / "secrets").exists()
    assert run("token", "--profile", "billing", **FILE).stdout.count(".") == 2
    shown = run("profile", "show", "billing", **FILE)
    assert "keyring conduit-oauth" in shown.stdout
    assert authorization_server.client_secret not in shown.stdout + config.read_text()
    run("profile", "remove", "billing", "--yes", **FILE)
    (kept,) = tmp_path.rglob("keyring_pass.cfg")
    assert "billing" not in kept.read_text()


def test_a_keyring_that_is_broken_is_done_without(
    run: Run, authorization_server: AuthorizationServer, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken_keyring.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        "class NoBus(Exception): pass\n"
        "class Broken(KeyringBackend):\n"
        "    priority = 9\n"
        "    def get_password(self, *_): raise NoBus\n"
        "    set_password = delete_password = get_password\n"
    )
    broken = {"PYTHON_KEYRING_BACKEND": "broken_keyring.Broken", "PYTHONPATH": str(tmp_path), **CLEAN}
    add(run, authorization_server, **broken)
    assert (config.parent / "secrets" / "default").read_text() == authorization_server.client_secret
    # Where the secret was put when the keyring worked.
    add(run, authorization_server, "billing", **FILE)
    for command in (("token", "--profile", "billing"), ("profile", "remove", "billing", "--yes")):
        done = run(*command, **broken)
        assert (done.returncode, "(NoBus)" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_file_that_cannot_be_written_costs_no_secret(
    run: Run, environment: dict[str, str], authorization_server: AuthorizationServer, config: Path
) -> None:
    add(run, authorization_server, **NONE)
    before = config.read_text()
    command = ["prlimit", "--fsize=0", COMMAND, "profile", "add", "--replace", "--client-id", "a"]
    done = subprocess.run(
        [*command, "--issuer", authorization_server.issuer()],
        env={name: value for name, value in {**environment, **NONE}.items() if value is not None},
        input="another",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert config.read_text() == before
    assert run("token", **NONE).returncode == 0


def test_what_else_is_in_the_file_stays(run: Run, authorization_server: AuthorizationServer, config: Path) -> None:
    config.parent.mkdir(parents=True)
    mine = '# by hand\n[profiles.other]  # mine\nclient_id = "other"\nclient_secret = { file = "mine" }\n'
    config.write_text(mine)
    (config.parent / "mine").write_text("x")
    add(run, authorization_server, **NONE)
    assert config.read_text().startswith(mine)
    listed = run("profile", "list", **NONE).stdout
    assert "other" in listed
    assert authorization_server.mcp_url() in listed
    # A secret that somebody else put there is left alone.
    run("profile", "remove", "other", "--yes", **NONE)
    assert (config.parent / "mine").exists()
    assert "# by hand" in config.read_text()


def test_a_profile_is_not_replaced_unasked(run: Run, authorization_server: AuthorizationServer, config: Path) -> None:
    add(run, authorization_server, **NONE)
    arguments = ["profile", "add", "--client-id", "another", "--issuer", authorization_server.issuer()]
    refused = run(*arguments, stdin="s", **NONE)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    assert run(*arguments, "--replace", stdin="s", **NONE).returncode == 0
    assert tomllib.loads(config.read_text())["profiles"]["default"] == {
        "client_id": "another",
        "issuer": authorization_server.issuer(),
        "client_secret": {"file": "secrets/default"},
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--client-id", "x"], "token_endpoint"),
        (["--client-id", "x", "--mcp-url", "ftp://x/mcp"], "--mcp-url: "),
        (["--mcp-url", "https://x.example/mcp"], "client_id"),
        (["../x", "--client-id", "x", "--mcp-url", "https://x.example/mcp"], "name"),
        (["--client-id", "x", "--mcp-url", "https://x.example/mcp", "--scope", "a\x01b"], "scope"),
        (["--client-id", "x", "--mcp-url", "https://x.example/mcp", "--private-key", "nowhere"], "--private-key"),
    ],
)
def test_what_will_not_do_is_told_and_nothing_is_written(
    arguments: list[str], said: str, run: Run, config: Path
) -> None:
    done = run("profile", "add", *arguments, stdin="secret-text", **NONE)
    assert done.returncode == 2
    assert said in done.stderr
    assert not config.exists()
    assert not (config.parent / "secrets").exists()


def test_a_person_is_asked_for_what_no_option_says(
    environment: dict[str, str], authorization_server: AuthorizationServer, config: Path
) -> None:
    main, side = pty.openpty()
    env = {name: value for name, value in {**environment, **NONE}.items() if value is not None}
    process = subprocess.Popen([COMMAND, "profile", "add"], env=env, stdin=side, stdout=side, stderr=side)
    os.close(side)
    said = b""
    metadata = f"{authorization_server.issuer()}/.well-known/openid-configuration"
    answers = (
        (b"Client identifier: ", ""),
        (b"Client identifier: ", authorization_server.client_id),
        (b"MCP endpoint (URL; empty if there is none): ", "gateway/mcp"),
        (b"MCP endpoint (URL; empty if there is none): ", ""),
        # What a person has in the address bar.
        (b"Issuer (URL; empty if it publishes no metadata): ", metadata),
        (b"Issuer (URL; empty if it publishes no metadata): ", authorization_server.issuer()),
        (b"Scope (optional): ", "mcp:read  mcp:write"),
        (b"Scope (optional): ", "mcp:read"),
        (b"Client secret: ", ""),
        (b"Client secret: ", authorization_server.client_secret),
    )
    for question, answer in answers:
        read = b""
        while not read.endswith(question):
            read += os.read(main, 1024)
        said += read
        os.write(main, answer.encode() + b"\n")
    while b"doctor --profile" not in said:
        said += os.read(main, 1024)
    assert process.wait(20) == 0
    os.close(main)
    # Each answer is judged when it is given.
    problems = "is not an absolute http or https URL", "is the URL of a metadata document", "is malformed"
    for problem in problems:
        assert f"This {problem}.".encode() in said
    assert said.count(b"This is empty.") == 2
    # It is not even echoed.
    assert authorization_server.client_secret.encode() not in said
    assert tomllib.loads(config.read_text())["profiles"]["default"]["scope"] == "mcp:read"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--scope", "a  b"], b"--scope: is malformed"),
        (["--issuer", "https://as.example/.well-known/openid-configuration"], b"--issuer: is the URL of a metadata"),
        (["--client-secret-file", "/nowhere/secret"], b"--client-secret-file: [Errno 2]"),
        (["--config", "/dev/null/config.toml"], b"/dev/null/config.toml: /dev/null cannot be written"),
    ],
)
def test_a_person_is_asked_nothing_where_it_would_be_lost(
    arguments: list[str], problem: bytes, environment: dict[str, str]
) -> None:
    main, side = pty.openpty()
    env = {name: value for name, value in {**environment, **NONE}.items() if value is not None}
    command = [COMMAND, "profile", "add", *arguments]
    done = subprocess.run(command, env=env, stdin=side, capture_output=True, check=False, timeout=30)
    os.close(main)
    os.close(side)
    assert done.returncode == 2
    assert (
        problem.replace(b"scope:", b"--scope").replace(b"issuer:", b"--issuer") in done.stderr or problem in done.stderr
    )
    assert b"Client identifier" not in done.stdout + done.stderr


def test_a_file_keeps_its_readers_and_a_password_of_a_store_is_not_shown(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[profiles.old]\nclient_id = "x"\nclient_secret = { file = "s" }\ntoken_endpoint = "https://as.example/t"\n'
        'store = "rediss://app:REDIS-PASSWORD@cache:6379/0?sentinel_password=SENTINEL-PASSWORD"\n'
    )
    config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(config, 65534, 65534)
    before = config.stat()
    shown = run("profile", "show", "old", "--config", config).stdout
    assert "rediss://app:***@cache:6379/0?sentinel_password=***" in shown
    assert "-PASSWORD" not in shown
    options = ("--config", config, "--client-id", "n", "--token-endpoint", "https://as.example/t")
    assert run("profile", "add", "new", *options, stdin="s3cret\n").returncode == 0
    after = config.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert [path.name for path in tmp_path.glob(".config.toml*")] == []


def test_a_path_that_looks_like_markup_is_shown_as_it_is(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "[" / "x]"
    folder.mkdir(parents=True)
    options = ("--config", folder / "c.toml", "--client-id", "n", "--token-endpoint", "https://as.example/t")
    assert f"Profile new is in {folder}/c.toml" in run("profile", "add", "new", *options, stdin="s3cret\n").stderr
    assert f"The cache in {folder}" in run("cache", "clear", HOME=str(folder)).stderr
    (folder / "none.toml").write_text("")
    assert f"There are none in {folder}" in run("profile", "list", "--config", folder / "none.toml").stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[profiles.old]\nclient_id = "x"\nclient_id = "y"\n', "Cannot overwrite a value (at line 3"),
        ("[profiles]\nold = 1\n[[profiles.old]]\n", "Cannot overwrite a value"),
        ('profiles = { old = { client_id = "x" } }\n', "profiles is an inline table"),
    ],
)
def test_a_file_that_cannot_be_edited_stays_as_it_is(text: str, said: str, run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    options = ("--config", config, "--client-id", "n", "--token-endpoint", "https://as.example/t")
    done = run("profile", "add", "new", *options, stdin="s3cret\n")
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert config.read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]


def test_a_new_file_is_its_owners_and_a_link_stays_one(run: Run, tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "config.toml", tmp_path / "config.toml"
    real.parent.mkdir()
    link.symlink_to(real)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    # Where the draft was once, for anybody to know.
    (real.parent / ".config.toml.new").symlink_to(victim)
    options = ("--config", link, "--client-id", "n", "--token-endpoint", "https://as.example/t")
    assert run("profile", "add", "new", *options, stdin="s3cret\n").returncode == 0
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert victim.read_text() == "precious"


def test_profiles_are_listed_and_shown_to_a_program(
    run: Run, authorization_server: AuthorizationServer, config: Path
) -> None:
    add(run, authorization_server, "billing", **NONE)
    (listed,) = json.loads(run("profile", "list", "--json").stdout)
    assert (listed["profile"], listed["client_id"]) == ("billing", authorization_server.client_id)
    assert listed["url"] == authorization_server.mcp_url()
    shown = run("profile", "show", "billing", "--json").stdout
    assert json.loads(shown)["client_secret"] == {"file": "secrets/billing"}
    assert authorization_server.client_secret not in shown


@pytest.mark.parametrize("line", ['client_id = "demo"', 'issuer = "https://a.example"', 'private_key = { file = "k" }'])
def test_a_profile_in_the_wrong_table_is_named(line: str, run: Run, config: Path) -> None:
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"[default]\n{line}\n")
    done = run("token")
    assert done.returncode == 2
    assert "Write [profiles.default]." in done.stderr


@pytest.mark.parametrize("way", [[], ["--json"]])
def test_a_secret_that_stands_in_the_file_is_not_shown(way: list[str], run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[profiles.default]\nclient_id = "demo"\nclient_secret = ["hunter2", { environment = "OTHER" }]\n'
        'token_request_headers = { X-Key = "hunter2", X-Other = { file = "key" } }\nprivate_key_password = "hunter2"\n'
    )
    done = run("profile", "show", "--config", config, *way)
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    assert "OTHER" in done.stdout
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    "way", [["add", "p", "--replace", "--client-id", "a", "--issuer", "https://a.example"], ["remove", "p", "-y"]]
)
@pytest.mark.parametrize("text", ["profiles = 5", 'profiles = "p"', "[profiles]\np = 5", "[[profiles]]\np = 5"])
def test_a_file_of_another_shape_is_not_edited(text: str, way: list[str], run: Run, config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(text)
    done = run("profile", *way, stdin="secret", **NONE)
    assert done.returncode == 2
    assert "is not a table" in done.stderr
    assert config.read_text() == text


def test_paths_that_no_file_of_settings_can_have(run: Run, config: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"key-\xff.pem")
    odd.write_text("x")
    asked = ["profile", "add", "--client-id", "a", "--issuer", "https://a.example"]
    done = run(*asked, "--private-key", odd, **NONE)
    assert (done.returncode, "--private-key: is not UTF-8" in done.stderr) == (2, True), done.stderr
    config.parent.mkdir(parents=True)
    config.symlink_to(config)
    done = run(*asked, stdin="secret", **NONE)
    assert (done.returncode, "is a loop of links" in done.stderr) == (2, True), done.stderr


def test_a_secret_that_cannot_be_removed_is_named(run: Run, config: Path) -> None:
    (config.parent / "secrets" / "default").mkdir(parents=True)
    config.write_text('[profiles.default]\nclient_secret = { file = "secrets/default" }\n')
    done = run("profile", "remove", "default", "-y", **NONE)
    assert (done.returncode, "Remove it by hand" in done.stderr) == (2, True), done.stderr
