"""The development server speaks the protocol as a strict server does, and misbehaves when told to."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from conduit_oauth import InvalidTokenResponse, TokenRequestError, TransportError
from conduit_oauth.devserver.control import MALFORMED
from conduit_oauth.testing import AuthorizationServer
from tests.cli.broken import BrokenServer
from tests.conftest import MakeProvider

FORM = {"grant_type": "client_credentials", "client_id": "demo", "client_secret": "demo-secret"}


def basic(pair: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


@pytest.mark.parametrize(
    ("form", "headers", "status", "error"),
    [
        ({**FORM, "grant_type": "password"}, {}, 400, "unsupported_grant_type"),
        ({**FORM, "client_secret": "x"}, {}, 401, "invalid_client"),
        ({**FORM, "client_id": "x"}, {}, 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, {}, 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, basic("demo:wrong"), 401, "invalid_client"),
        ({"grant_type": "client_credentials"}, {"Authorization": "Basic ?"}, 401, "invalid_client"),
        (FORM, basic("demo:demo-secret"), 400, "invalid_request"),
        ({**FORM, "scope": "admin"}, {}, 400, "invalid_scope"),
        ({**FORM, "resource": "https://elsewhere.example"}, {}, 400, "invalid_target"),
        ({**FORM, "scope": ["mcp:read", "mcp:write"]}, {}, 400, "invalid_request"),
    ],
)
def test_refusals(
    form: dict[str, Any], headers: dict[str, str], status: int, error: str, authorization_server: AuthorizationServer
) -> None:
    response = httpx2.post(authorization_server.token_endpoint(), data=form, headers=headers)
    assert (response.status_code, response.json()["error"]) == (status, error)
    assert ("www-authenticate" in response.headers) == (status == 401)


def test_it_stands_before_resource_servers_of_the_users_own(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    with BrokenServer() as one, BrokenServer() as other:
        for server, scopes in ((one, ("tools:read", "tools:call")), (other, ("files",))):
            authorization_server.add_resource(f"{server.url}/mcp", *scopes)
            server.pages["/.well-known/oauth-protected-resource/mcp"] = {
                "resource": f"{server.url}/mcp",
                "authorization_servers": [authorization_server.issuer()],
            }
            provider = make_provider(mcp_url=f"{server.url}/mcp")
            claims = provider.introspect(provider.get_token())
            assert (claims["active"], claims["aud"], claims["scope"]) == (True, f"{server.url}/mcp", " ".join(scopes))
        published = httpx2.get(f"{authorization_server.url}/.well-known/oauth-authorization-server/servers/demo").json()
        assert {"mcp:read", "tools:read", "tools:call", "files"} <= set(published["scopes_supported"])
        wrong = make_provider(mcp_url=f"{one.url}/mcp", scope="files")
        with pytest.raises(TokenRequestError, match="invalid_scope"):
            wrong.get_token()


def test_a_request_that_is_no_form_is_refused(authorization_server: AuthorizationServer) -> None:
    assert httpx2.post(authorization_server.token_endpoint(), json=FORM).json()["error"] == "invalid_request"
    assert httpx2.get(authorization_server.token_endpoint()).status_code == 405


def test_tokens_verify_against_the_published_keys(
    authorization_server: AuthorizationServer, make_provider: MakeProvider
) -> None:
    issuer = authorization_server.issuer("42")
    metadata = httpx2.get(f"{authorization_server.url}/.well-known/oauth-authorization-server/servers/42").json()
    assert metadata["issuer"] == issuer
    keys = KeySet.import_key_set(httpx2.get(metadata["jwks_uri"]).json())
    token = make_provider(mcp_url=authorization_server.mcp_url("42"), scope="mcp:read").get_token()
    claims = jwt.decode(token, keys, algorithms=["ES256"]).claims
    assert claims["iss"] == issuer
    assert claims["aud"] == authorization_server.mcp_url("42")
    assert (claims["client_id"], claims["scope"]) == ("demo", "mcp:read")
    assert "d" not in httpx2.get(metadata["jwks_uri"]).json()["keys"][0]


def test_resource_metadata_leads_to_the_issuer(authorization_server: AuthorizationServer) -> None:
    url = f"{authorization_server.url}/.well-known/oauth-protected-resource/servers/42/mcp"
    metadata = httpx2.get(url).json()
    assert metadata["resource"] == authorization_server.mcp_url("42")
    assert metadata["authorization_servers"] == [authorization_server.issuer("42")]


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_bodies(kind: str, authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    authorization_server.malform(kind)
    with pytest.raises(InvalidTokenResponse):
        make_provider().get_token()


def test_dropped_connections(authorization_server: AuthorizationServer, make_provider: MakeProvider) -> None:
    authorization_server.drop(count=100)
    with pytest.raises(TransportError):
        make_provider(timeout=0.3).get_token()
    authorization_server.recover()
    assert make_provider().get_token()


def test_faults_are_counted_down_in_order(authorization_server: AuthorizationServer) -> None:
    authorization_server.fail(503, count=2, retry_after=1.5)
    answers = [httpx2.post(authorization_server.token_endpoint(), data=FORM) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["retry-after"] == "1.5"


@pytest.mark.parametrize(
    "order",
    [
        "[]",
        "{",
        '{"latencies": 1}',
        '{"latency": "x"}',
        '{"latency": 1e400}',
        '{"lifetime": -1}',
        '{"clients": {"a": 5}}',
        '{"resources": []}',
        '{"resources": {"https://a.example/": [5]}}',
        '{"revoke": 5}',
        '{"faults": [{"count": 1}]}',
        '{"faults": [{"malformed": "x"}]}',
        '{"faults": [{"status": "x"}]}',
        '{"faults": [{"status": 503, "count": "x"}]}',
    ],
)
def test_senseless_orders_are_refused(order: str, authorization_server: AuthorizationServer) -> None:
    assert httpx2.post(f"{authorization_server.url}/admin", content=order).status_code == 400
    assert httpx2.post(authorization_server.token_endpoint(), data=FORM).status_code == 200


def test_of_an_order_that_makes_no_sense_nothing_is_carried_out(authorization_server: AuthorizationServer) -> None:
    order = {"lifetime": 5, "clients": {"other": "secret"}, "faults": [{"status": 503}], "resources": 5}
    assert httpx2.post(f"{authorization_server.url}/admin", json=order).status_code == 400
    assert httpx2.post(authorization_server.token_endpoint(), data=FORM).json()["expires_in"] == 3600


def test_bytes_that_are_no_utf8_are_refused(authorization_server: AuthorizationServer) -> None:
    for name in ("token", "introspect", "revoke"):
        url = f"{authorization_server.issuer()}/oauth/{name}"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert httpx2.post(url, content=b"client_id=\xff", headers=form).status_code == 401
        alone = {"grant_type": "client_credentials"}
        assert httpx2.post(url, data=alone, headers={"Authorization": b"Basic \xff"}).status_code == 401


def test_the_admin_endpoint_is_not_for_web_pages(authorization_server: AuthorizationServer) -> None:
    response = httpx2.post(
        f"{authorization_server.url}/admin", content="{}", headers={"Origin": "https://evil.example"}
    )
    assert response.status_code == 403
    rebound = httpx2.get(f"{authorization_server.url}/admin", headers={"Host": "evil.example"})
    assert rebound.status_code == 400


@pytest.mark.parametrize("path", ["admin", "servers/demo/oauth/token", "servers/demo/oauth/revoke"])
def test_a_request_that_is_too_long_is_refused(authorization_server: AuthorizationServer, path: str) -> None:
    response = httpx2.post(f"{authorization_server.url}/{path}", content=b"a" * (1 << 21))
    assert response.status_code == 413


def test_a_killed_server_comes_back_on_its_port() -> None:
    with AuthorizationServer() as server:
        url, pid = server.url, server.pid
        server.kill()
        server.start()
        assert server.url == url
        assert server.pid != pid
        assert httpx2.post(server.token_endpoint(), data=FORM).status_code == 200


def test_ctrl_c_is_for_the_program_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        process = begin(*arguments, **options)
        process.send_signal(signal.SIGINT)
        return process

    monkeypatch.setattr("conduit_oauth.testing.authorization_server.subprocess.Popen", interrupted)
    with AuthorizationServer() as server:
        assert httpx2.post(server.token_endpoint(), data=FORM).status_code == 200


def test_a_start_that_is_interrupted_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Interrupted] = []

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            assert self.stdout is not None
            monkeypatch.setattr(self.stdout, "readline", self.interrupt)

        def interrupt(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("conduit_oauth.testing.authorization_server.subprocess.Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        AuthorizationServer().start()
    assert [each.returncode for each in started] == [-signal.SIGTERM]


def test_the_fixture_works_in_the_tests_of_others(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from conduit_oauth import TokenProvider

        def test_mine(authorization_server):
            server = authorization_server
            with TokenProvider(server.client_id, server.client_secret, mcp_url=server.mcp_url()) as provider:
                assert provider.get_token() == provider.get_token()
            assert len(server.token_requests) == 1
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_plugin_costs_a_test_run_no_heavy_import() -> None:
    code = "import sys, conduit_oauth.testing; print([m for m in ('mcp', 'httpx2', 'starlette') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
