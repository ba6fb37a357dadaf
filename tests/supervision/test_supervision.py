"""Providers under supervision: warm though nobody calls, restarted when they break down, given up when that is vain."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from conduit_oauth import Event, Health, OAuthError
from conduit_oauth.client.requester import Requester
from conduit_oauth.settings import from_file
from conduit_oauth.supervision.settings_file import SettingsFile
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, Said
from tests.scripted_server import Asked, ScriptedServer
from tests.supervision.conftest import Make, toml

Settings = dict[str, Any]


def replace_text(file: Path, text: str) -> None:
    """Write it as a tool for secrets does: nobody reads half of it."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


def test_what_is_in_use_stays_warm_though_nobody_calls(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
) -> None:
    authorization_server.set(lifetime=2)
    with make_providers({"billing": settings, "unused": settings}) as providers:
        provider = providers["billing"]
        authorization_server.wait_for_token_requests(3)
        requests = provider.state().counts.token_requests
        provider.get_token()
        assert provider.state().counts.token_requests == requests
        assert providers.health()["unused"].state == "idle"


def test_a_token_that_was_invalidated_is_replaced_though_nobody_calls(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
) -> None:
    with make_providers({"billing": settings}) as providers:
        providers["billing"].get_token()
        providers["billing"].invalidate()
        authorization_server.wait_for_token_requests(2)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_group_keeps_them_warm_and_the_callers_exception_stays_what_it_is(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
    backend: str,
) -> None:
    authorization_server.set(lifetime=2)

    async def main() -> None:
        async with make_providers({"billing": settings}) as providers:
            assert await providers["billing"].get_token_async()
            await anyio.to_thread.run_sync(authorization_server.wait_for_token_requests, 3)
            raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        anyio.run(main, backend=backend)
    requests = len(authorization_server.token_requests)
    assert requests >= 3


def test_no_more_tokens_are_asked_for_at_once_than_allowed(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
) -> None:
    names = [str(number) for number in range(6)]
    authorization_server.hold()
    with make_providers(dict.fromkeys(names, settings), max_refreshes=2) as providers:
        held = [providers[name] for name in names]
        authorization_server.wait_for_token_requests(2)
        assert sum(health.state == "refreshing" for health in providers.health().values()) == 2
        authorization_server.release()
        authorization_server.wait_for_token_requests(6)
        assert all(provider.get_token() for provider in held)
    assert len(authorization_server.token_requests) == 6


def test_a_server_that_never_answers_keeps_no_token_of_another_from_its_refresh(
    make_providers: Make, settings: Settings, authorization_server: AuthorizationServer
) -> None:
    authorization_server.set(lifetime=2)
    came, over = threading.Semaphore(0), threading.Event()

    def hold(asked: Asked) -> None:
        came.release()
        over.wait(60)
        asked.answer({"access_token": "good-token", "token_type": "Bearer", "expires_in": 3600})

    with ScriptedServer(hold) as mute:
        names = [str(number) for number in range(12)]
        at_mute = {name: {**settings, "token_endpoint": f"{mute.url}/{name}", "timeout": 100} for name in names}
        with make_providers({**at_mute, "billing": settings}, max_refreshes=4) as providers:
            for name in names:
                providers[name]
            providers["billing"].get_token()
            authorization_server.wait_for_token_requests(4)
            assert len(mute.seen) == 4
            over.set()
            # Who waited for a turn has one.
            assert all(came.acquire(timeout=20) for _ in names)
            assert len({path for path, *_ in mute.seen}) == 12


def test_what_breaks_down_is_restarted_a_few_times_and_then_given_up(
    make_providers: Make,
    settings: Settings,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("conduit_oauth.supervision.supervisor.RESTART_BASE", 0.01)
    broken = [True]
    given = {"billing": {**settings, "audience": "broken"}, "crm": settings}
    request = Requester.fetch

    def fetch(requester: Requester, seconds: float) -> object:
        if requester.config.audience == "broken" and broken:
            raise ZeroDivisionError
        return request(requester, seconds)

    monkeypatch.setattr(Requester, "fetch", fetch)
    with make_providers(given, max_restarts=3) as providers:
        assert providers["crm"].get_token()
        providers["billing"]
        said.wait_for("provider_given_up name=billing")
        assert said.count("provider_restarted name=billing") == 3
        health: Health = providers.health()["billing"]
        assert (health.state, health.restarts, health.valid) == ("given up", 3, False)
        assert health.last_error is not None
        assert providers.health()["crm"].state == "fresh"
        broken.clear()
        assert providers["billing"].get_token()
        assert providers.health()["billing"].valid


def test_one_that_was_replaced_does_not_speak_for_its_successor(
    make_providers: Make, settings: Settings, file: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_providers(file) as providers:
        old = providers["billing"]
        token = old.get_token()
        file.write_text(toml(settings["token_endpoint"], billing="timeout = 5"), encoding="utf-8")
        providers.reload()

        def fetch(requester: Requester, seconds: float) -> object:
            raise ZeroDivisionError

        monkeypatch.setattr(Requester, "fetch", fetch)
        old.invalidate()
        with pytest.raises(OAuthError, match="ZeroDivisionError"):
            old.get_token()
        while old.state().refreshing:
            pass
        assert providers["billing"].get_token() == token
        assert providers.health()["billing"].restarts == 0
        assert said.count("provider_restarted") == 0


def test_a_refusal_is_forgotten_when_its_file_changes(
    make_providers: Make, settings: Settings, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    changed = threading.Event()
    given = {"billing": {**settings, "client_secret": secret}}
    with make_providers(given, on_change=lambda _: changed.set()) as providers:
        provider = providers["billing"]
        for text in ("wrong", authorization_server.client_secret):
            # First it is missing, then it is wrong.
            assert changed.wait(20)
            assert provider.state().last_error is not None
            changed.clear()
            replace_text(secret, text)
        assert changed.wait(20)
        assert provider.control.held() is not None


def test_a_secret_that_changes_while_the_one_before_is_refused_is_used_at_once(
    make_providers: Make, settings: Settings, authorization_server: AuthorizationServer, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    received = threading.Event()

    def observer(event: Event) -> None:
        if event.name == "token_request_failed":
            # The refusal is here, and nobody has looked at the file since.
            replace_text(secret, authorization_server.client_secret)
        elif event.name == "token_received":
            received.set()

    with make_providers({"billing": {**settings, "client_secret": secret, "observer": observer}}) as providers:
        provider = providers["billing"]
        # Without a look at the file, it is asked for again after 30 seconds.
        assert received.wait(20)
        assert provider.control.held() is not None


def test_a_refusal_is_forgotten_when_the_file_is_read_anew(
    make_providers: Make, settings: Settings, authorization_server: AuthorizationServer, file: Path
) -> None:
    changed = threading.Event()
    authorization_server.fail(401, count=2, body='{"error": "invalid_client"}')
    with make_providers(file, on_change=lambda _: changed.set()) as providers:
        provider = providers["billing"]
        assert changed.wait(20)
        assert provider.control.held() is None
        changed.clear()
        providers.reload()
        assert changed.wait(20)
        assert provider.control.held() is not None


def test_what_a_callback_raises_is_logged_and_goes_no_further(
    make_providers: Make, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("not ours")

    caplog.set_level(logging.INFO, "conduit_oauth")
    with make_providers(file, on_change=broken, on_reload=broken) as providers:
        provider = providers["billing"]
        token = provider.get_token()
        provider.invalidate(token)
        assert provider.get_token() != token
        providers.reload()
    said = [record.getMessage().partition("\n")[0] for record in caplog.records]
    assert {"observer_failed event=on_change", "observer_failed event=on_reload"} <= {*said}
    assert any(line.startswith("providers_reloaded") for line in said)


# With the first, a second refresh has failed by then, at the memory of the first.
@pytest.mark.parametrize("jitter", [0.001, 0.9])
def test_a_refresh_that_failed_is_tried_at_once_when_the_file_is_read_anew(
    jitter: float,
    make_providers: Make,
    authorization_server: AuthorizationServer,
    file: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("conduit_oauth.lifecycle.flight.jitter", lambda: jitter)
    changed = threading.Event()

    def on_change(name: str) -> None:
        if name == "billing":
            changed.set()

    with make_providers(file, clock=clock, on_change=on_change) as providers:
        provider = providers["billing"]
        assert changed.wait(20)
        token = provider.get_token()
        authorization_server.fail(503, count=100)
        changed.clear()
        clock.step(3570)
        provider.get_token()
        assert changed.wait(20)
        assert provider.state().last_error is not None
        authorization_server.recover()
        # The clock stands still from now on: no pause ends by itself.
        clock.step(0.01)
        providers.reload()
        # A refresh that was due before the reload may have ended meanwhile, without a token.
        while provider.get_token() == token:
            assert changed.wait(20)
            changed.clear()


def test_a_wrong_secret_is_not_asked_for_again_and_again(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
    said: Said,
) -> None:
    with make_providers({"billing": {**settings, "client_secret": "wrong"}}) as providers:
        provider = providers["billing"]
        said.wait_for("token_request_failed name=billing")
        while provider.state().refreshing:
            pass
        health = providers.health()["billing"]
        assert health.state == "failing"
        assert "invalid_client" in str(health.last_error)
        assert health.next_refresh is not None
        assert health.last_error_at is not None
        assert (health.next_refresh - health.last_error_at).total_seconds() >= 25
    assert len(authorization_server.token_requests) == 2


def test_a_failing_refresh_is_tried_again_while_the_token_is_served(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
    said: Said,
) -> None:
    authorization_server.set(lifetime=3)
    with make_providers({"billing": settings}) as providers:
        token = providers["billing"].get_token()
        authorization_server.fail(503, count=1)
        said.wait_for("token_request_failed name=billing")
        assert providers["billing"].get_token() == token
        assert providers.health()["billing"].valid
        authorization_server.wait_for_token_requests(3)
    assert said.count("token_request_failed") == 1


def test_a_changed_file_is_read_by_the_supervision(
    make_providers: Make,
    settings: Settings,
    file: Path,
    said: Said,
) -> None:
    with make_providers(file) as providers:
        token = providers["billing"].get_token()
        draft = file.with_suffix(".new")
        draft.write_text("[", encoding="utf-8")
        os.replace(draft, file)  # noqa: PTH105 - as an editor does
        said.wait_for("providers_not_reloaded")
        draft.write_text(toml(settings["token_endpoint"], billing="", new=""), encoding="utf-8")
        os.replace(draft, file)  # noqa: PTH105
        said.wait_for("providers_reloaded")
        assert list(providers) == ["billing", "new"]
        assert providers["billing"].get_token() == token
        assert said.count("providers_not_reloaded") == 1


def test_of_two_readings_the_one_that_began_later_counts(
    make_providers: Make, settings: Settings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_read, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        monkeypatch.undo()
        found = from_file(*arguments)
        has_read.set()
        assert go_on.wait(20)
        return found

    providers = make_providers(file)
    monkeypatch.setattr("conduit_oauth.supervision.settings_file.from_file", slowly)
    slow = threading.Thread(target=providers.reload)
    slow.start()
    assert has_read.wait(20)
    replace_text(file, toml(settings["token_endpoint"], new=""))
    providers.reload()
    go_on.set()
    slow.join()
    assert [*providers] == ["new"]


def test_a_web_application_starts_and_stops_the_supervision(
    make_providers: Make,
    settings: Settings,
    authorization_server: AuthorizationServer,
) -> None:
    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.state.token_providers["billing"].get_token_async())

    providers = make_providers({"billing": settings})
    with TestClient(Starlette(routes=[Route("/", show)], lifespan=providers.lifespan)) as client:
        assert client.get("/").text == client.get("/").text == providers["billing"].get_token()
    assert providers.health()["billing"].valid is False
    assert len(authorization_server.token_requests) == 1


def test_a_file_in_the_home_of_the_user_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "providers.toml").write_text('[providers.one]\nclient_id = "one"\n')
    file = SettingsFile(Path("~/providers.toml"), {}, {})
    file.read()
    assert not file.has_changed()
    replace_text(tmp_path / "providers.toml", '[providers.two]\nclient_id = "two"\n')
    assert file.has_changed()
