"""The key beside a store is ours: who knows it can guess secrets by the names in the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conduit_oauth.stores.sqlite_rows import KEY_LENGTH, key_file
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import MakeProvider

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a file to another user")
MALLORY = 65534


@pytest.mark.parametrize(
    ("mode", "how", "is_used"),
    [
        (0o1777, "a file", False),
        (0o1777, "a link", False),
        # What only we can put there is ours, whoever it belongs to: a volume of Kubernetes.
        (0o0770, "a file", True),
    ],
)
def test_a_key_that_another_user_planted_is_not_used(
    mode: int,
    how: str,
    is_used: bool,
    make_provider: MakeProvider,
    authorization_server: AuthorizationServer,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    store = folder / "tokens.db"
    planted = key_file(store) if how == "a file" else folder / "known"
    planted.write_bytes(b"k" * KEY_LENGTH)
    os.chown(planted, MALLORY, MALLORY)
    if how == "a link":
        key_file(store).symlink_to(planted)
        os.chown(key_file(store), MALLORY, MALLORY, follow_symlinks=False)
    for _ in range(2):
        with make_provider(store=f"sqlite:{store}", store_timeout=5.0) as provider:
            assert provider.get_token()
    assert len(authorization_server.token_requests) == (1 if is_used else 2)
