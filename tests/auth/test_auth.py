"""The adapters, one behaviour at a time, each against every client."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp
import httpx
import httpx2
import pytest
import requests
import requests.adapters

import conduit_oauth.auth.aiohttp
import conduit_oauth.auth.httpx
import conduit_oauth.auth.requests
from conduit_oauth import ConfigurationError, ProviderClosedError, TokenProvider, TokenRequestError
from conduit_oauth.cli.inspection import read_jwt
from conduit_oauth.provider import MAX_STEPS
from conduit_oauth.testing import AuthorizationServer
from tests.conftest import FakeClock, MakeProvider
from tests.resource_server import ResourceServer
from tests.scripted_server import Asked, ScriptedServer

CLAIMS = '{"access_token": {"nbf": {"value": "1604106651"}}}'
DEMANDS_CLAIMS = f'error="insufficient_claims", claims="{base64.b64encode(CLAIMS.encode()).decode()}"'


class Answer(NamedTuple):
    status: int
    text: str


Send = Callable[..., Answer]


def chunks(content: bytes) -> Iterator[bytes]:
    yield content


async def async_chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def with_httpx_client(module: Any, auth: Callable[[TokenProvider], Any]) -> Send:
    def send(provider: TokenProvider, method: str, url: str, content: bytes = b"", stream: bool = False) -> Answer:
        with module.Client(auth=auth(provider), follow_redirects=True) as client:
            response = client.request(method, url, content=chunks(content) if stream else content)
            return Answer(response.status_code, response.text)

    return send


def with_httpx_async_client(module: Any, auth: Callable[[TokenProvider], Any]) -> Send:
    def send(provider: TokenProvider, method: str, url: str, content: bytes = b"", stream: bool = False) -> Answer:
        async def main() -> Answer:
            async with module.AsyncClient(auth=auth(provider), follow_redirects=True) as client:
                response = await client.request(method, url, content=async_chunks(content) if stream else content)
                return Answer(response.status_code, response.text)

        return asyncio.run(main())

    return send


def with_requests(provider: TokenProvider, method: str, url: str, content: bytes = b"", stream: bool = False) -> Answer:
    with requests.Session() as session:
        session.auth = conduit_oauth.auth.requests.TokenAuth(provider)
        response = session.request(method, url, data=chunks(content) if stream else content)
        return Answer(response.status_code, response.text)


def with_aiohttp(provider: TokenProvider, method: str, url: str, content: bytes = b"", stream: bool = False) -> Answer:
    async def main() -> Answer:
        auth = conduit_oauth.auth.aiohttp.TokenAuth(provider)
        async with (
            aiohttp.ClientSession(middlewares=(auth,)) as session,
            session.request(method, url, data=async_chunks(content) if stream else content) as response,
        ):
            return Answer(response.status, await response.text())

    return asyncio.run(main())


SENDERS = {
    "httpx2": with_httpx_client(httpx2, TokenProvider.auth),
    "httpx2-async": with_httpx_async_client(httpx2, TokenProvider.auth),
    "httpx": with_httpx_client(httpx, conduit_oauth.auth.httpx.TokenAuth),
    "httpx-async": with_httpx_async_client(httpx, conduit_oauth.auth.httpx.TokenAuth),
    "requests": with_requests,
    "aiohttp": with_aiohttp,
}


@pytest.fixture(params=SENDERS)
def send(request: pytest.FixtureRequest) -> Send:
    return SENDERS[request.param]


def test_the_request_carries_the_token(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    provider = make_provider()
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello").status == 200
    (request,) = resource_server.requests
    assert request["authorization"] == f"Bearer {provider.get_token()}"
    assert request["body"] == "hello"


def test_a_401_replaces_that_token_and_replays_the_request_once(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    provider = make_provider()
    old = provider.get_token()
    resource_server.refused.add(old)
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello").status == 200
    assert resource_server.tokens == [f"Bearer {old}", f"Bearer {provider.get_token()}"]
    assert [request["body"] for request in resource_server.requests] == ["hello", "hello"]
    assert len(authorization_server.token_requests) == 2


def test_a_403_that_calls_the_token_invalid_is_as_good_as_a_401(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    provider = make_provider()
    old = provider.get_token()
    resource_server.refused.add(old)
    resource_server.refusal = (403, 'error="invalid_token"')
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello").status == 200
    assert resource_server.tokens == [f"Bearer {old}", f"Bearer {provider.get_token()}"]


def test_claims_that_a_resource_demands_are_in_the_next_token_request(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    provider = make_provider()
    resource_server.refused.add(provider.get_token())
    resource_server.refusal = (401, DEMANDS_CLAIMS)
    assert send(provider, "GET", f"{resource_server.url}/echo").status == 200
    provider.invalidate()
    provider.get_token()
    sent = [request["form"].get("claims") for request in authorization_server.token_requests]
    assert sent == [None, CLAIMS, None]


def test_a_second_401_is_the_callers(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    resource_server.refuse_all = True
    assert send(make_provider(), "GET", f"{resource_server.url}/echo").status == 401
    assert len(resource_server.requests) == 2
    assert len(authorization_server.token_requests) == 2


def test_a_late_401_for_an_old_token_throws_no_new_one_away(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    provider = make_provider()
    old = provider.get_token()
    provider.invalidate()
    new = provider.get_token()
    resource_server.refused.add(old)

    class Late(TokenProvider):
        """Hands the old token out first, as if it had been taken before the other one came."""

        __slots__ = ("given",)

        def get_token(self) -> str:
            first, self.given = not getattr(self, "given", False), True
            return old if first else provider.get_token()

        async def get_token_async(self) -> str:
            return self.get_token()

        def invalidate(self, token: str | None = None, *, claims: str | None = None) -> None:
            provider.invalidate(token, claims=claims)

    late = Late("demo", "x", token_endpoint=authorization_server.token_endpoint())
    assert send(late, "GET", f"{resource_server.url}/echo").status == 200
    assert resource_server.tokens == [f"Bearer {old}", f"Bearer {new}"]
    assert provider.get_token() == new
    assert len(authorization_server.token_requests) == 2


def test_a_streamed_body_is_not_replayed_but_the_token_is_replaced(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    provider = make_provider()
    old = provider.get_token()
    resource_server.refused.add(old)
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello", stream=True).status == 401
    assert len(resource_server.requests) == 1
    assert provider.get_token() != old


def test_a_redirect_within_the_origin_keeps_the_token(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    assert send(make_provider(), "GET", f"{resource_server.url}/redirect?to=/echo").status == 200


def test_a_redirect_after_a_refusal_has_the_token_that_was_taken(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    provider = make_provider()
    resource_server.refused.add(provider.get_token())
    assert send(provider, "GET", f"{resource_server.url}/redirect?to=/echo").status == 200
    assert len(resource_server.requests) == 3


def test_a_redirect_to_another_origin_loses_the_token(
    send: Send,
    make_provider: MakeProvider,
    resource_server: ResourceServer,
    other_origin: ResourceServer,
    authorization_server: AuthorizationServer,
) -> None:
    provider = make_provider()
    token = provider.get_token()
    answer = send(provider, "GET", f"{resource_server.url}/redirect?to={other_origin.url}/echo%23top")
    assert answer.status == 401
    assert other_origin.tokens == [None]
    # A stranger's 401 says nothing of our token.
    assert provider.get_token() == token
    assert len(authorization_server.token_requests) == 1


def test_the_token_does_not_come_back_along_a_chain_of_redirects(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    hop = f"{other_origin.url}/redirect?to={other_origin.url}/echo"
    send(make_provider(), "GET", f"{resource_server.url}/redirect?to={requests.utils.quote(hop, safe='')}")
    assert other_origin.tokens == [None, None]


def rerouted(targets: dict[str, str], url: str) -> str:
    parts = urlsplit(url)
    return urljoin(targets[f"{parts.scheme}://{parts.netloc}"], f"{parts.path}?{parts.query}")


class Rerouted(requests.adapters.HTTPAdapter):
    def __init__(self, targets: dict[str, str]) -> None:
        super().__init__()
        self.targets = targets

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *rest: Any, **more: Any) -> Any:
        there = request.copy()
        there.url = rerouted(self.targets, request.url or "")
        return super().get_connection_with_tls_context(there, *rest, **more)


def httpx_get(module: Any, auth: Any, targets: dict[str, str], url: str) -> int:
    class Transport(module.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            there = rerouted(targets, str(request.url))
            return super().handle_request(module.Request(request.method, there, headers=request.headers.raw))

    with module.Client(auth=auth, transport=Transport(), follow_redirects=True) as client:
        return client.get(url).status_code


def requests_get(auth: Any, targets: dict[str, str], url: str) -> int:
    with requests.Session() as session:
        for prefix in ("http://", "https://"):
            session.mount(prefix, Rerouted(targets))
        return session.get(url, auth=auth).status_code


STANDARD_PORTS = {
    "httpx2": lambda provider, *rest: httpx_get(httpx2, provider.auth(), *rest),
    "httpx": lambda provider, *rest: httpx_get(httpx, conduit_oauth.auth.httpx.TokenAuth(provider), *rest),
    "requests": lambda provider, *rest: requests_get(conduit_oauth.auth.requests.TokenAuth(provider), *rest),
}


@pytest.mark.parametrize("get", STANDARD_PORTS.values(), ids=STANDARD_PORTS)
@pytest.mark.parametrize(("target", "tokens_there"), [("https://localhost", [None]), ("http://localhost", [])])
def test_https_is_another_origin_also_on_the_standard_ports(
    get: Callable[..., int],
    target: str,
    tokens_there: list[str | None],
    make_provider: MakeProvider,
    resource_server: ResourceServer,
    other_origin: ResourceServer,
) -> None:
    # The clients take https://localhost for http://localhost. No test can count on these ports, so their connections
    # go to others.
    targets = {"http://localhost": resource_server.url, "https://localhost": other_origin.url}
    status = get(make_provider(), targets, f"http://localhost/redirect?to={target}/echo")
    assert other_origin.tokens == tokens_there
    assert status == (200 if target.startswith("http:") else 401)


def test_without_a_token_nothing_is_sent(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    with pytest.raises(TokenRequestError):
        send(make_provider(client_secret="wrong"), "GET", f"{resource_server.url}/echo")
    assert resource_server.requests == []


def test_when_the_replay_finds_no_token_the_caller_gets_the_typed_error(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    provider = make_provider()
    resource_server.refused.add(provider.get_token())
    authorization_server.fail(400, body='{"error": "unauthorized_client"}')
    with pytest.raises(TokenRequestError):
        send(provider, "GET", f"{resource_server.url}/echo")
    assert len(resource_server.requests) == 1


def test_the_token_goes_to_its_own_origin_only(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    provider = make_provider(mcp_url=authorization_server.mcp_url())
    with pytest.raises(ConfigurationError, match="was obtained for"):
        send(provider, "GET", f"{resource_server.url}/echo")
    assert resource_server.requests == []


def test_the_token_does_not_travel_in_plain_text(send: Send, make_provider: MakeProvider) -> None:
    with pytest.raises(ConfigurationError, match="plain http"):
        send(make_provider(), "GET", "http://api.example.invalid/echo")


def test_a_bound_token_is_presented_with_a_fresh_proof_in_each_attempt(
    send: Send, resource_server: ResourceServer
) -> None:
    serial = itertools.count()

    def grant(_: httpx2.Request) -> httpx2.Response:
        token = {"access_token": f"token-{next(serial)}", "token_type": "DPoP", "expires_in": 3600}
        return httpx2.Response(200, json=token)

    transport = httpx2.MockTransport(grant)
    resource_server.refused.add("token-0")
    with TokenProvider(
        "me", "secret", dpop=True, token_endpoint="https://as.example/token", transport=transport
    ) as provider:
        assert send(provider, "POST", f"{resource_server.url}/echo?a=1", b"hello").status == 200
    assert resource_server.tokens == ["DPoP token-0", "DPoP token-1"]
    claims = [read_jwt(request["dpop"]).claims for request in resource_server.requests]
    assert [claim["htm"] for claim in claims] == ["POST", "POST"]
    assert {claim["htu"] for claim in claims} == {f"{resource_server.url}/echo"}
    assert len({claim["jti"] for claim in claims}) == len({claim["ath"] for claim in claims}) == 2


@pytest.fixture
def bound() -> Iterator[TokenProvider]:
    """Has a token that is bound to its key."""
    token = {"access_token": "token", "token_type": "DPoP", "expires_in": 3600}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=token))
    with TokenProvider("me", "secret", dpop=True, token_endpoint="https://as.example/token", transport=transport) as it:
        yield it


def test_a_redirect_to_another_origin_loses_the_proof(
    send: Send, bound: TokenProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    send(bound, "GET", f"{resource_server.url}/redirect?to={other_origin.url}/echo")
    assert [(request["authorization"], request["dpop"]) for request in other_origin.requests] == [(None, None)]


def test_a_redirect_within_the_origin_has_a_proof_of_its_own(
    send: Send, bound: TokenProvider, resource_server: ResourceServer
) -> None:
    hop = requests.utils.quote(f"{resource_server.url}/redirect?to=/echo", safe="")
    assert send(bound, "POST", f"{resource_server.url}/redirect?to={hop}", b"hello").status == 200
    last = resource_server.requests[-1]
    assert last["body"] == "hello"
    assert read_jwt(last["dpop"]).claims["htu"] == f"{resource_server.url}/echo"
    proofs = [request["dpop"] for request in resource_server.requests if request["dpop"]]
    assert len(proofs) == len(set(proofs))


def test_no_proof_comes_back_along_a_chain_of_redirects(
    send: Send, bound: TokenProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    hop = requests.utils.quote(f"{other_origin.url}/redirect?to={resource_server.url}/echo", safe="")
    assert send(bound, "GET", f"{resource_server.url}/redirect?to={hop}").status == 401
    assert [request["dpop"] for request in (*other_origin.requests, *resource_server.requests[1:])] == [None, None]


def test_what_presents_a_bound_token_can_be_seen_in_the_request(bound: TokenProvider) -> None:
    """By hooks, and by transports of whatever kind."""

    def look(request: httpx2.Request) -> httpx2.Response:
        headers = request.headers
        proof = headers["dpop"]
        assert "DPoP" in headers
        assert headers["authorization"] == headers.get("Authorization") == "DPoP token"
        assert ("dpop", proof) in headers.items()
        assert ("dpop", proof) in headers.multi_items()
        assert (b"DPoP", proof.encode()) in headers.raw
        assert proof in headers.values()
        assert {"dpop", "host", "x-mine"} <= {*headers}
        return httpx2.Response(200)

    with httpx2.Client(auth=bound.auth(), transport=httpx2.MockTransport(look)) as client:
        sent = {"X-Mine": "1", "Authorization": "mine", "DPoP": "mine"}
        assert client.get("https://api.example/", headers=sent).status_code == 200


def test_a_403_for_want_of_scope_steps_up_to_the_union_and_stays_there(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    resource_server.needs = "mcp:write"
    provider = make_provider(scope="mcp:read")
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello").status == 200
    assert [request["body"] for request in resource_server.requests] == ["hello", "hello"]
    assert [request["form"]["scope"] for request in authorization_server.token_requests] == [
        "mcp:read",
        "mcp:read mcp:write",
    ]
    # The narrow token is as good as before.
    assert provider.state().granted_scope == "mcp:read"


def test_a_403_that_does_not_say_which_scope_steps_up_to_what_the_resource_publishes(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    resource_server.needs, resource_server.tells_scope = "mcp:write", False
    provider = make_provider(scope="mcp:read")
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello").status == 200
    assert [request["form"]["scope"] for request in authorization_server.token_requests] == [
        "mcp:read",
        "mcp:read mcp:write",
    ]
    assert provider.state().granted_scope == "mcp:read"


def test_what_a_resource_publishes_without_end_is_not_asked_for(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    resource_server.needs, resource_server.tells_scope = " ".join(f"scope-{number}" for number in range(20_000)), False
    assert send(make_provider(scope="mcp:read"), "GET", f"{resource_server.url}/echo").status == 403
    assert {request["form"]["scope"] for request in authorization_server.token_requests} == {"mcp:read"}


def test_a_403_of_a_resource_that_publishes_no_scope_is_the_callers(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer
) -> None:
    resource_server.needs, resource_server.tells_scope, resource_server.publishes_scope = "mcp:write", False, False
    provider = make_provider(scope="mcp:read")
    assert send(provider, "GET", f"{resource_server.url}/echo").status == 403
    assert len(resource_server.requests) == 2


def test_a_server_that_always_wants_more_scope_is_asked_once_more_only(
    send: Send, make_provider: MakeProvider, resource_server: ResourceServer, authorization_server: AuthorizationServer
) -> None:
    resource_server.needs = "mcp:write admin"
    provider = make_provider(scope="mcp:read")
    with pytest.raises(TokenRequestError) as caught:
        send(provider, "GET", f"{resource_server.url}/echo")
    assert caught.value.error == "invalid_scope"
    assert len(resource_server.requests) == 1
    assert provider.get_token()


def test_a_wider_scope_that_is_not_granted_any_more_costs_the_other_requests_nothing() -> None:
    granted = ["read"]
    requests = []

    def grant(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        scope = "write" if b"write" in request.content else "read"
        if scope not in granted:
            return httpx2.Response(400, json={"error": "invalid_scope"})
        return httpx2.Response(200, json={"access_token": scope, "token_type": "Bearer", "expires_in": 3600})

    def answer(asked: Asked) -> None:
        if asked.path == "/write" and asked.headers["authorization"] != "Bearer write":
            asked.answer(status=403, WWW_Authenticate='Bearer error="insufficient_scope", scope="write"')
        else:
            asked.answer({})

    server = {"token_endpoint": "https://as.example/token", "transport": httpx2.MockTransport(grant)}
    with (
        ScriptedServer(answer) as resource,
        TokenProvider("me", "secret", scope="read", **server) as provider,
        httpx2.Client(auth=provider.auth(), base_url=resource.url) as client,
    ):
        for _ in range(2):
            with pytest.raises(TokenRequestError):
                client.get("/write")
            assert client.get("/read").status_code == 200
        # The refusal is remembered.
        assert len(requests) == 2
        wider = provider.stepped_up("write")
        assert wider is not None
        granted.append("write")
        wider.control.forgive()
        assert client.get("/write").status_code == 200
        assert client.get("/read").status_code == 200
        granted.remove("write")
        wider.invalidate()
        for _ in range(2):
            assert client.get("/read").status_code == 200
            with pytest.raises(TokenRequestError):
                client.get("/write")
        assert [asked[1]["authorization"] for asked in resource.seen][-4:] == ["Bearer read"] * 4


def test_a_server_that_is_not_content_with_the_wider_scope_either_is_not_asked_a_third_time(
    send: Send, resource_server: ResourceServer
) -> None:
    def grant(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"access_token": "any", "token_type": "Bearer", "expires_in": 3600})

    transport = httpx2.MockTransport(grant)
    resource_server.needs = "write"
    resource_server.never_content = True
    with TokenProvider(
        "me", "secret", scope="read", token_endpoint="https://as.example/token", transport=transport
    ) as provider:
        assert send(provider, "GET", f"{resource_server.url}/echo").status == 403
    assert len(resource_server.requests) == 2


def test_wider_tokens_are_invalidated_with_the_narrow_one(make_provider: MakeProvider) -> None:
    provider = make_provider(scope="mcp:read")
    wider = provider.stepped_up("mcp:write")
    assert wider is not None
    narrow_token, wide_token = provider.get_token(), wider.get_token()
    provider.invalidate(wide_token)
    assert provider.get_token() == narrow_token
    assert wider.get_token() != wide_token
    wide_token = wider.get_token()
    provider.invalidate()
    assert provider.get_token() != narrow_token
    assert wider.get_token() != wide_token


def test_scopes_are_not_widened_for_ever(make_provider: MakeProvider) -> None:
    provider = make_provider(scope="a")
    wider = [provider.stepped_up(f"s{number}") for number in range(20)]
    assert sum(one is not None for one in wider) == MAX_STEPS
    assert provider.stepped_up("s0") is wider[0]
    assert provider.stepped_up("a") is None
    assert provider.stepped_up('bad"scope') is None


def test_a_resource_that_always_wants_another_scope_is_not_followed_for_ever() -> None:
    requests: list[httpx2.Request] = []

    def grant(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        if request.url.path == "/revoke":
            return httpx2.Response(200)
        return httpx2.Response(200, json={"access_token": f"t{len(requests)}", "token_type": "Bearer"})

    def answer(asked: Asked) -> None:
        challenge = f'Bearer error="insufficient_scope", scope="s{len(resource.seen)}"'
        asked.answer(status=403, WWW_Authenticate=challenge)

    provider = TokenProvider(
        "me",
        "secret",
        scope="a",
        token_endpoint="https://as.example/token",
        revocation_endpoint="https://as.example/revoke",
        revoke_on_close=True,
        transport=httpx2.MockTransport(grant),
    )
    with ScriptedServer(answer) as resource, provider, httpx2.Client(auth=provider.auth()) as client:
        for _ in range(3 * MAX_STEPS):
            assert client.get(resource.url).status_code == 403
        assert len(requests) == 1 + MAX_STEPS
        wider = provider.stepped_up("s1")
    # All of them go with it.
    assert sum(request.url.path == "/revoke" for request in requests) == 1 + MAX_STEPS
    assert wider is not None
    with pytest.raises(ProviderClosedError):
        wider.get_token()
    assert provider.stepped_up("s1") is None


def test_requests_do_not_wait_for_each_other(make_provider: MakeProvider) -> None:
    """Twenty requests are all on their way before the first is answered."""
    arrived = 0
    everybody = asyncio.Event()

    async def meet(_: httpx2.Request) -> httpx2.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            everybody.set()
        await everybody.wait()
        return httpx2.Response(200)

    async def main() -> None:
        auth = make_provider().auth()
        async with httpx2.AsyncClient(auth=auth, transport=httpx2.MockTransport(meet)) as client, asyncio.timeout(30):
            await asyncio.gather(*(client.get("https://api.example/") for _ in range(20)))

    asyncio.run(main())
    assert arrived == 20


def test_aiohttp_authorizes_a_request_that_merely_follows_another_to_a_new_origin(
    make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    async def main() -> None:
        auth = conduit_oauth.auth.aiohttp.TokenAuth(make_provider())
        async with aiohttp.ClientSession(middlewares=(auth,)) as session:
            for url in (f"{resource_server.url}/redirect?to={other_origin.url}/echo", f"{other_origin.url}/echo"):
                async with session.get(url) as response:
                    await response.read()

    asyncio.run(main())
    stripped, deliberate = other_origin.tokens
    assert stripped is None
    assert deliberate is not None


@pytest.mark.parametrize("total", [None, 60])
def test_aiohttp_takes_the_target_of_a_redirect_for_one_also_in_a_task_of_its_own(
    total: int | None, make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    """As `asyncio.wait_for` makes one on Python 3.11."""

    async def outer(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        return await asyncio.create_task(handler(request))

    async def main() -> None:
        auth = conduit_oauth.auth.aiohttp.TokenAuth(make_provider())
        timeout = aiohttp.ClientTimeout(total=total)
        async with (
            aiohttp.ClientSession(middlewares=(outer, auth), timeout=timeout) as session,
            session.get(f"{resource_server.url}/redirect?to={other_origin.url}/echo") as response,
        ):
            await response.read()

    asyncio.run(main())
    assert other_origin.tokens == [None]


@pytest.mark.parametrize("location", ["{other}/echo", "http://[/"], ids=["another origin", "no URL"])
def test_aiohttp_authorizes_the_request_after_a_redirect_that_was_not_followed(
    location: str, make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    target = requests.utils.quote(location.format(other=other_origin.url), safe="")

    async def main() -> None:
        auth = conduit_oauth.auth.aiohttp.TokenAuth(make_provider())
        async with aiohttp.ClientSession(middlewares=(auth,)) as session:
            for url in (f"{resource_server.url}/redirect?to={target}", f"{other_origin.url}/echo"):
                async with session.get(url, allow_redirects=False) as response:
                    await response.read()

    asyncio.run(main())
    assert other_origin.tokens != [None]


def test_aiohttp_asks_the_target_of_a_redirect_again_without_the_token(
    make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    """It repeats a request whose connection was closed, and the middleware is called anew."""
    failures = [aiohttp.ServerDisconnectedError()]

    async def fail(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if failures and str(request.url).startswith(other_origin.url):
            raise failures.pop()
        return await handler(request)

    async def main() -> None:
        auth = conduit_oauth.auth.aiohttp.TokenAuth(make_provider())
        async with (
            aiohttp.ClientSession(middlewares=(auth, fail)) as session,
            session.get(f"{resource_server.url}/redirect?to={other_origin.url}/echo") as response,
        ):
            await response.read()

    asyncio.run(main())
    assert failures == []
    assert other_origin.tokens == [None]


@pytest.mark.parametrize(
    "location",
    [
        "{scheme}://u:p@{host}/echo",
        "//u@{host}/echo",
        "{scheme}://{host}/%65cho",
        "{upper}://LOCALHOST:{port}/echo",
        "{scheme}://{host}/a/../echo",
        "{scheme}://{host}/echo?",
        "{scheme}://{host}/echo#part",
        "  {scheme}://{host}/echo",
        "{scheme}://{host}",
    ],
)
@pytest.mark.parametrize("requote", [True, False])
def test_aiohttp_takes_no_spelling_of_another_origin_for_the_providers(
    location: str, requote: bool, make_provider: MakeProvider, other_origin: ResourceServer
) -> None:
    scheme, _, host = other_origin.url.partition("://")
    target = location.format(scheme=scheme, upper=scheme.upper(), host=host, port=host.partition(":")[2])
    head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head.encode())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        auth = conduit_oauth.auth.aiohttp.TokenAuth(make_provider())
        async with (
            server,
            aiohttp.ClientSession(middlewares=(auth,), requote_redirect_url=requote) as session,
            session.get(f"http://127.0.0.1:{port}/start") as response,
        ):
            await response.read()

    asyncio.run(main())
    # aiohttp makes a header of its own of the user information.
    assert not any("Bearer" in (sent or "") for sent in other_origin.tokens)


@pytest.mark.parametrize("refusal", [(401, 'error="invalid_token"'), (401, DEMANDS_CLAIMS)])
def test_a_resource_that_refuses_every_token_causes_few_token_requests(
    refusal: tuple[int, str],
    make_provider: MakeProvider,
    resource_server: ResourceServer,
    other_origin: ResourceServer,
    authorization_server: AuthorizationServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.auth._doubts.elapsed", clock)
    resource_server.refuse_all, resource_server.refusal = True, refusal
    provider = make_provider()

    def ask(url: str, times: int) -> set[int]:
        # However many adapters there are.
        answers: set[int] = set()
        for _ in range(times):
            with httpx2.Client(auth=provider.auth()) as client:
                answers.add(client.get(url).status_code)
        return answers

    assert ask(f"{resource_server.url}/echo", 20) == {401}
    # The first one, and two more in its place: a single one may be bad.
    assert len(authorization_server.token_requests) == 3
    # Another resource takes that token, so it was not thrown away.
    assert ask(f"{other_origin.url}/echo", 1) == {200}
    assert len(authorization_server.token_requests) == 3
    # It is given another chance, and the next one later.
    for seconds, requests_so_far in ((1.1, 4), (1.1, 4), (1.0, 5), (3.0, 5), (1.1, 6)):
        clock.step(seconds)
        ask(f"{resource_server.url}/echo", 5)
        assert len(authorization_server.token_requests) == requests_so_far
    clock.step(3600)
    resource_server.refuse_all = False
    assert ask(f"{resource_server.url}/echo", 2) == {200}
    # Forgiven: from now on a refusal is acted upon at once.
    resource_server.refused.add(provider.get_token())
    assert ask(f"{resource_server.url}/echo", 1) == {200}
    assert len(authorization_server.token_requests) == 7


def test_more_resources_than_are_remembered_cause_few_token_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.auth._doubts.elapsed", clock)
    monkeypatch.setattr("conduit_oauth.auth._doubts.MOST_ORIGINS", 3)
    asked = 0

    def grant(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(200, json={"access_token": f"token-{asked}", "token_type": "Bearer"})

    server = {"token_endpoint": "https://as.example/token", "transport": httpx2.MockTransport(grant)}
    refuses = httpx2.MockTransport(lambda _: httpx2.Response(401))
    with (
        TokenProvider("me", "secret", **server) as provider,
        httpx2.Client(auth=provider.auth(), transport=refuses) as client,
    ):

        def ask_all(times: int) -> None:
            for _ in range(times):
                for number in range(6):
                    assert client.get(f"https://{number}.example/").status_code == 401

        ask_all(10)
        # The first one, and two for each of those that are remembered.
        assert asked == 1 + 2 * 3
        # What is forgotten makes room.
        clock.step(3600)
        client.get("https://5.example/")
        assert asked == 1 + 2 * 3 + 1


def test_a_resource_that_refuses_every_streamed_request_causes_few_token_requests(
    send: Send,
    make_provider: MakeProvider,
    resource_server: ResourceServer,
    authorization_server: AuthorizationServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.auth._doubts.elapsed", clock)
    resource_server.refuse_all = True
    provider = make_provider()

    def ask(times: int) -> None:
        for _ in range(times):
            assert send(provider, "POST", f"{resource_server.url}/echo", b"hello", stream=True).status == 401

    ask(6)
    assert len(resource_server.requests) == 6
    assert len(authorization_server.token_requests) == 3
    clock.step(1.1)
    ask(6)
    assert len(authorization_server.token_requests) == 4
    resource_server.refuse_all = False
    assert send(provider, "POST", f"{resource_server.url}/echo", b"hello", stream=True).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_gives_the_refused_token_again_is_asked_as_rarely(
    stream: bool, resource_server: ResourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.auth._doubts.elapsed", clock)
    asked = 0

    def grant(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(200, json={"access_token": "same", "token_type": "Bearer", "expires_in": 3600})

    resource_server.refuse_all = True
    server = {"token_endpoint": "https://as.example/token", "transport": httpx2.MockTransport(grant)}
    with TokenProvider("me", "secret", **server) as provider, httpx2.Client(auth=provider.auth()) as client:
        for seconds, requests_so_far in ((0.0, 3), (1.1, 4), (1.1, 4), (1.0, 5)):
            clock.step(seconds)
            for _ in range(6):
                content = chunks(b"hello") if stream else b"hello"
                assert client.post(f"{resource_server.url}/echo", content=content).status_code == 401
            assert asked == requests_so_far


def test_a_resource_that_refuses_some_requests_causes_few_token_requests(
    make_provider: MakeProvider, authorization_server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr("conduit_oauth.auth._doubts.elapsed", clock)

    def answer(asked: Asked) -> None:
        asked.answer(status=401 if asked.path == "/admin" else 200)

    with ScriptedServer(answer) as resource, httpx2.Client(auth=make_provider().auth()) as client:
        for seconds, requests_so_far in ((0.0, 3), (1.1, 4), (1.1, 4), (1.0, 5), (3600, 7)):
            clock.step(seconds)
            for _ in range(5):
                assert client.get(f"{resource.url}/read").status_code == 200
                assert client.get(f"{resource.url}/admin").status_code == 401
            assert len(authorization_server.token_requests) == requests_so_far


def test_a_wider_token_goes_only_to_the_origin_that_asked_for_it(
    make_provider: MakeProvider, resource_server: ResourceServer, other_origin: ResourceServer
) -> None:
    resource_server.needs = "mcp:write"
    provider = make_provider(scope="mcp:read")
    auth = provider.auth()
    with httpx2.Client(auth=auth) as client:
        for url in (resource_server.url, other_origin.url, resource_server.url):
            assert client.get(f"{url}/echo").status_code == 200
    assert other_origin.tokens == [f"Bearer {provider.get_token()}"]
    # Which it keeps for there.
    assert len(resource_server.requests) == 3
    assert resource_server.tokens[1] == resource_server.tokens[2] != other_origin.tokens[0]


@pytest.mark.parametrize(
    ("step_up", "needs", "asked"),
    [
        (False, "mcp:write", ["mcp:read"]),
        ("mcp:write", "mcp:write", ["mcp:read", "mcp:read mcp:write"]),
        ("mcp:write", "mcp:write admin", ["mcp:read", "mcp:read mcp:write"]),
    ],
)
@pytest.mark.parametrize("tells_scope", [True, False])
def test_what_a_resource_can_add_is_bounded_by_a_setting(
    step_up: bool | str,
    needs: str,
    asked: list[str],
    tells_scope: bool,
    make_provider: MakeProvider,
    resource_server: ResourceServer,
    authorization_server: AuthorizationServer,
) -> None:
    resource_server.needs, resource_server.tells_scope = needs, tells_scope
    provider = make_provider(scope="mcp:read", step_up=step_up)
    with httpx2.Client(auth=provider.auth()) as client:
        client.get(f"{resource_server.url}/echo")
    assert [request["form"]["scope"] for request in authorization_server.token_requests] == asked


@pytest.mark.parametrize("step_up", ["", 'bad"scope', 5, None])
def test_what_may_be_added_is_a_scope(step_up: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("me", "secret", token_endpoint="https://as.example/token", step_up=step_up)
    assert caught.value.field == "step_up"
