"""Many named providers: made at first use, bounded, on one pool of connections, read from a file."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from conduit_oauth import ConfigurationError, ProviderClosedError, TokenProviders
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock
from tests.lifecycle.test_concurrency import in_child
from tests.supervision.conftest import Make, toml


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


def test_a_path_in_a_file_may_name_a_variable(
    make_providers: Make, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text().replace('"secret"', '"${CREDENTIALS_DIRECTORY}/secret"'))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigurationError, match="names the variable CREDENTIALS_DIRECTORY, which is not set"):
        make_providers(file)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "secret").rename(tmp_path / "credentials" / "secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert make_providers(file)["billing"].get_token()


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
        ('[providers.a]\ndiscovery = "no"\n', "providers.a.discovery: is of the wrong type"),
        ("[providers.a]\ntoken_endpoint = 5\n", "providers.a.token_endpoint: is of the wrong type"),
        ("[defaults]\nstore = 5\n", "defaults.store: is of the wrong type"),
        ('[providers.a]\nextra_parameters = "x"\n', "providers.a.extra_parameters: is of the wrong type"),
        ('[providers.a]\nclient_certificate = "hunter2"\n', "providers.a.client_certificate: is not two files"),
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
    ("providers", "defaults", "complaint"),
    [
        ({"a": {"client_idd": "x"}}, {}, r"providers\.a\.client_idd"),
        ({"a": 1}, {}, r"providers\.a: is not a table"),
        ({"a": {}}, {"client_idd": "x"}, r"defaults\.client_idd"),
        ({"a": {"name": "b"}}, {}, r"providers\.a\.name"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said_by_name(
    make_providers: Make, providers: dict[str, Any], defaults: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make_providers(providers, defaults=defaults)


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


def test_closing_reaches_what_only_somebody_else_still_holds(make_providers: Make, settings: dict[str, Any]) -> None:
    providers = make_providers(dict.fromkeys("ab", settings), limit=1)
    held = providers["a"]
    held.get_token()
    providers["b"].get_token()
    providers.close()
    with pytest.raises(ProviderClosedError):
        held.get_token()


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
        # An empty one may be one that is just being written.
        file.write_text(broken, encoding="utf-8")
        with pytest.raises(ConfigurationError):
            providers.reload()
        assert providers["billing"] is billing


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


def test_a_file_may_name_several_resources(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(
        '[providers.billing]\nclient_id = "demo"\nclient_secret = { environment = "NOWHERE" }\n'
        'token_endpoint = "https://as.example/token"\nresource = ["https://one.example", "https://two.example"]\n'
        'step_up = "read"\nassertion_audience = "endpoint"\nintrospection_endpoint = "https://as.example/introspect"\n'
    )
    with TokenProviders(file) as providers:
        assert providers["billing"].origins == ("https://one.example", "https://two.example")


def test_the_end_closes_also_what_was_replaced_and_what_the_file_names_no_more(
    make_providers: Make, settings: dict[str, Any], file: Path
) -> None:
    providers = make_providers(file)
    before = [providers["billing"], providers["crm"]]
    file.write_text(toml(settings["token_endpoint"], billing="timeout = 5"), encoding="utf-8")
    providers.reload()
    assert providers["billing"] is not before[0]
    assert "crm" not in providers
    providers.close()
    for provider in before:
        with pytest.raises(ProviderClosedError):
            provider.get_token()
