"""Many named providers: made at first use, bounded, on one pool of connections, read from a file."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError, TokenProviders
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock
from tests.test_concurrency import in_child

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


def test_a_provider_is_made_when_it_is_asked_for_and_stays(make_providers: Make, settings: dict[str, Any]) -> None:
    providers = make_providers({"billing": settings, "crm": {**settings, "scope": "mcp:read"}})
    assert list(providers) == ["billing", "crm"]
    assert "billing" in providers
    assert providers["billing"] is providers["billing"]
    assert providers["billing"].name == "billing"
    assert providers["billing"].get_token() != providers["crm"].get_token()
    assert {name: health.state for name, health in providers.health().items()} == {"billing": "fresh", "crm": "fresh"}
    with pytest.raises(KeyError, match=r"nobody.*billing, crm"):
        providers["nobody"]


def test_nothing_is_made_or_asked_before(
    make_providers: Make, settings: dict[str, Any], authorization_server: AuthorizationServer
) -> None:
    with make_providers({"billing": settings}) as providers:
        assert providers.health()["billing"].state == "idle"
    assert authorization_server.token_requests == []


def test_a_file_says_where_the_secrets_are(make_providers: Make, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = make_providers(file)
    assert providers["billing"].get_token()
    assert providers["crm"].state().scope == "mcp:read"
    monkeypatch.setenv("CRM_SECRET", "demo-secret")
    lines = file.read_text(encoding="utf-8") + '\n[providers.other]\nclient_secret = [{ environment = "CRM_SECRET" }, '
    file.write_text(lines + '{ keyring = "conduit-oauth", username = "demo" }]\n', encoding="utf-8")
    assert make_providers(str(file))["other"].get_token()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[providers.a\n", "providers.toml"),
        ("[provider.a]\n", r"provider.*\[providers.NAME\]"),
        ("[providers]\na = 1\n", "providers.a: is not a table"),
        ('[providers.a]\nclient_idd = "x"\n', "providers.a.client_idd: is no setting"),
        ('[providers.a]\nclient_secret = "hunter2"\n', "providers.a.client_secret: is not the place"),
        ('[defaults]\nclient_secret = { path = "hunter2" }\n', "defaults.client_secret"),
        ('[providers.a]\nhttp_client = "x"\n', "providers.a.http_client"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_name(
    make_providers: Make, tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        make_providers(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"scope": " "}, "providers.billing.scope"),
        ({"client_id": ""}, "providers.billing.client_id"),
        ({"timeout": -1}, "providers.billing.timeout"),
    ],
)
def test_what_is_wrong_with_one_provider_is_said_when_it_is_asked_for(
    make_providers: Make, settings: dict[str, Any], wrong: dict[str, Any], complaint: str
) -> None:
    providers = make_providers({"billing": {**settings, **wrong}, "crm": settings})
    with pytest.raises(ConfigurationError, match=complaint):
        providers["billing"]
    assert providers["crm"].get_token()


def test_the_least_recently_used_go_first_and_none_that_is_held(make_providers: Make, settings: dict[str, Any]) -> None:
    providers = make_providers(dict.fromkeys("abcd", settings), limit=2)
    held = providers["a"]
    token = held.get_token()
    forgotten = providers["b"].get_token()
    providers["c"], providers["d"]
    gc.collect()
    assert {name for name, health in providers.health().items() if health.state == "idle"} >= {"a", "b"}
    assert providers["a"] is held
    assert held.get_token() == token
    assert providers["b"].get_token() != forgotten


def test_all_providers_of_an_origin_use_one_pool_of_connections(
    make_providers: Make, settings: dict[str, Any], authorization_server: AuthorizationServer
) -> None:
    providers = make_providers({str(number): settings for number in range(8)})
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    for name in providers:
        providers[name].get_token()
    assert len(authorization_server.token_requests) == 8
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208
    providers["0"].close()
    assert providers["1"].control is not None
    providers["1"].invalidate()
    assert providers["1"].get_token()


def test_a_provider_that_was_closed_is_made_anew(make_providers: Make, settings: dict[str, Any]) -> None:
    providers = make_providers({"billing": settings})
    with providers["billing"] as provider:
        provider.get_token()
    assert providers["billing"].get_token()
    providers.close()
    with pytest.raises(ConfigurationError, match="closed"):
        providers["billing"]


def test_a_changed_file_drops_no_token_that_it_still_asks_for(
    make_providers: Make, file: Path, settings: dict[str, Any], authorization_server: AuthorizationServer
) -> None:
    providers = make_providers(file)
    tokens = {name: providers[name].get_token() for name in providers}
    billing, endpoint = providers["billing"], settings["token_endpoint"]
    file.write_text(toml(endpoint, billing="timeout = 5", crm='scope = "mcp:write"', new=""), encoding="utf-8")
    providers.reload()
    assert providers["billing"] is not billing
    assert providers["billing"].get_token() == tokens["billing"]
    assert len(authorization_server.token_requests) == 2
    assert providers["crm"].get_token() != tokens["crm"]
    assert providers["new"].get_token()


def test_a_file_that_will_not_do_changes_nothing(make_providers: Make, file: Path) -> None:
    providers = make_providers(file)
    billing = providers["billing"]
    for broken in ("[", '[providers.billing]\nclient_secret = "x"\n', ""):
        file.write_text(broken, encoding="utf-8")
        if broken:
            with pytest.raises(ConfigurationError):
                providers.reload()
            assert providers["billing"] is billing
    providers.reload()
    assert list(providers) == []


def test_a_provider_goes_on_where_its_new_settings_will_not_do(
    make_providers: Make, file: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    providers = make_providers(file)
    token = providers["billing"].get_token()
    file.write_text(toml(settings["token_endpoint"], billing="timeout = -1", crm="timeout = -1"), encoding="utf-8")
    providers.reload()
    assert "provider_not_replaced name=billing: providers.billing.timeout" in caplog.text
    assert providers["billing"].get_token() == token
    with pytest.raises(ConfigurationError, match=r"providers\.crm\.timeout"):
        providers["crm"]


def test_a_forked_child_has_providers_of_its_own(
    make_providers: Make, settings: dict[str, Any], authorization_server: AuthorizationServer
) -> None:
    with make_providers({"billing": settings, "crm": settings}) as providers:
        token = providers["billing"].get_token()

        def work() -> list[str]:
            return [providers["billing"].get_token(), providers["crm"].get_token()]

        kept, other = in_child(work)  # type: ignore[misc]
        assert kept == token
        assert other not in (token, providers["crm"].get_token())


def test_moments_of_health_are_told(make_providers: Make, settings: dict[str, Any], clock: FakeClock) -> None:
    providers = make_providers({"billing": settings}, clock=clock)
    providers["billing"].get_token()
    health = providers.health()["billing"]
    assert health.last_success is not None
    assert health.next_refresh is not None
    assert (health.next_refresh - health.last_success).total_seconds() == pytest.approx(3540, abs=1)
    assert health.valid
    assert "demo-secret" not in repr(health)


@pytest.mark.parametrize(
    "limits", [{"limit": 0}, {"max_refreshes": True}, {"max_restarts": 1.5}, {"restart_period": 0}]
)
def test_limits_are_numbers(make_providers: Make, settings: dict[str, Any], limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        make_providers({"billing": settings}, **limits)
