"""A credential that changes, wherever it is kept, is in the next request; of two secrets the other is tried once."""

from __future__ import annotations

from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyrings.alt.file import PlaintextKeyring

from conduit_oauth import ConfigurationError, TokenRequestError, from_environment, from_keyring
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider


@pytest.fixture
def machine_keyring(tmp_path: Path) -> KeyringBackend:
    """A keyring in a file, in place of the operating system's."""
    before = keyring.get_keyring()
    ours = PlaintextKeyring()
    ours.file_path = str(tmp_path / "keyring")
    keyring.set_keyring(ours)
    yield ours
    keyring.set_keyring(before)


def rotate(server: AuthorizationServer, secret: str) -> None:
    server.add_client("demo", secret)


def test_an_environment_variable_is_read_for_each_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make_provider(client_secret=from_environment("SERVICE_SECRET"))
    with pytest.raises(ConfigurationError, match="SERVICE_SECRET"):
        provider.get_token()
    monkeypatch.setenv("SERVICE_SECRET", "demo-secret")
    provider = make_provider(client_secret=from_environment("SERVICE_SECRET"))
    first = provider.get_token()
    rotate(authorization_server, "newer")
    monkeypatch.setenv("SERVICE_SECRET", "newer")
    provider.invalidate()
    assert provider.get_token() != first


def test_the_keyring_is_asked_for_each_request(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, machine_keyring: KeyringBackend
) -> None:
    machine_keyring.set_password("conduit-oauth", "demo", "demo-secret")
    provider = make_provider(client_secret=from_keyring("conduit-oauth", "demo"))
    first = provider.get_token()
    rotate(authorization_server, "newer")
    machine_keyring.set_password("conduit-oauth", "demo", "newer")
    provider.invalidate()
    assert provider.get_token() != first


def test_an_entry_that_the_keyring_lacks_is_named(make_provider: MakeProvider, machine_keyring: KeyringBackend) -> None:
    with pytest.raises(ConfigurationError, match="conduit-oauth/nobody"):
        make_provider(client_secret=from_keyring("conduit-oauth", "nobody")).get_token()


def test_of_two_secrets_the_one_that_the_server_takes_is_found_and_kept(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(client_secret=("demo-secret", "newer"))
    provider.get_token()
    assert len(authorization_server.token_requests) == 1
    rotate(authorization_server, "newer")
    provider.invalidate()
    provider.get_token()
    # The first was refused, the other taken; from now on that one goes first.
    assert len(authorization_server.token_requests) == 3
    provider.invalidate()
    provider.get_token()
    assert len(authorization_server.token_requests) == 4


def test_two_wrong_secrets_are_tried_once_by_each_method_and_neither_is_told(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(client_secret=("not-this", "nor-that"))
    for _ in range(2):
        with pytest.raises(TokenRequestError) as caught:
            provider.get_token()
        assert caught.value.error == "invalid_client"
        assert "not-this" not in str(caught.value)
        assert "nor-that" not in str(caught.value)
    methods = [request["method"] for request in authorization_server.token_requests]
    assert methods == ["client_secret_basic", "client_secret_post"] * 2
    # All of them were one attempt.
    assert provider.state().counts.token_requests == 1


def test_another_refusal_is_no_reason_to_try_the_other_secret(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    provider = make_provider(client_secret=("demo-secret", "newer"), scope="unknown")
    with pytest.raises(TokenRequestError, match="invalid_scope"):
        provider.get_token()
    assert len(authorization_server.token_requests) == 1


@pytest.mark.parametrize("secrets", [("a",), ("a", "b", "c"), ("a", "")])
def test_two_secrets_are_two(make_provider: MakeProvider, secrets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="client_secret"):
        make_provider(client_secret=secrets)


def test_what_the_other_secret_got_is_not_sealed_with_the_retired_one(
    authorization_server: AuthorizationServer, make_provider: MakeProvider, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/tokens.sqlite3"
    rotate(authorization_server, "newer")
    both = make_provider(client_secret=("demo-secret", "newer"), store=store, store_timeout=5.0)
    token = both.get_token()
    both.close()
    assert make_provider(client_secret="newer", store=store, store_timeout=5.0).get_token() == token
    with pytest.raises(TokenRequestError):
        make_provider(client_secret="demo-secret", store=store, store_timeout=5.0).get_token()


def test_what_editors_and_shells_add_is_no_part_of_a_secret(
    make_provider: MakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfdemo-secret\r\n")
    assert make_provider(client_secret=file).get_token()
    monkeypatch.setenv("SERVICE_SECRET", "demo-secret\n")
    assert make_provider(client_secret=from_environment("SERVICE_SECRET")).get_token()
