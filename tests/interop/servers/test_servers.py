"""Each capability at each authorization server: it works, or the user gets the server's answer in the right words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from conduit_oauth import OAuthError
from tests.interop.servers.attempts import CAPABILITIES, Attempt, ShortfallError
from tests.interop.servers.page import PAGE, page
from tests.interop.servers.running import STARTERS, Server, make_keys, running
from tests.interop.servers.table import FACTS
from tests.leaks import lasting


class Fleet:
    """The servers, each started when it is first asked for."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._servers: dict[str, Server] = {}
        self._keys = folder / "keys"
        self._keys.mkdir()
        make_keys(self._keys)
        self.authority = self._keys / "ca.pem"

    def __getitem__(self, name: str) -> Server:
        if name not in self._servers:
            folder = self._folder / str(len(self._servers))
            folder.mkdir()
            with lasting():
                self._servers[name] = self._stack.enter_context(running(name, folder, self._keys))
        return self._servers[name]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack, tmp_path_factory.mktemp("servers"))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", STARTERS)
def test_a_capability_of_a_server(name: str, capability: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(fleet.authority))
    facts = FACTS[name]
    said = "works"
    try:
        CAPABILITIES[capability](Attempt(fleet[name], facts))
    except (OAuthError, ShortfallError) as error:
        said = str(error)
    assert facts.answers.get(capability, "works") in said


def test_the_page_says_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make servers`"
