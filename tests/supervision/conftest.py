from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import TokenProviders
from conduit_oauth.testing import AuthorizationServer

Make = Callable[..., TokenProviders]


@pytest.fixture
def settings(authorization_server: AuthorizationServer) -> dict[str, Any]:
    return {
        "client_id": "demo",
        "client_secret": "demo-secret",
        "token_endpoint": authorization_server.token_endpoint(),
    }


@pytest.fixture
def make_providers() -> Iterator[Make]:
    made: list[TokenProviders] = []

    def make(*args: Any, **options: Any) -> TokenProviders:
        made.append(TokenProviders(*args, **options))
        return made[-1]

    yield make
    for providers in made:
        providers.close()


@pytest.fixture
def file(tmp_path: Path, settings: dict[str, Any]) -> Path:
    (tmp_path / "secret").write_text("demo-secret\n", encoding="utf-8")
    path = tmp_path / "providers.toml"
    path.write_text(toml(settings["token_endpoint"], billing="", crm='scope = "mcp:read"'), encoding="utf-8")
    return path


def toml(token_endpoint: str, **providers: str) -> str:
    """A file of providers, each with some lines of its own."""
    tables = "".join(f"\n[providers.{name}]\n{lines}\n" for name, lines in providers.items())
    secret = 'client_secret = { file = "secret" }'
    return f'[defaults]\nclient_id = "demo"\n{secret}\ntoken_endpoint = "{token_endpoint}"\n{tables}'
