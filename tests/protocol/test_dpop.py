from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

import httpx2
import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, JWKRegistry, OctKey, RSAKey

from conduit_oauth import ConfigurationError, InvalidTokenResponse, TokenProvider
from conduit_oauth.protocol.dpop import Dpop

URL = "https://api.example/tools?b=1#c"


def opened(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a proof that verifies by the key in its own header."""
    header = jws.extract_compact(proof.encode()).headers()
    key = JWKRegistry.import_key(header["jwk"])
    assert not key.is_private
    return header, jwt.decode(proof, key, algorithms=[header["alg"]]).claims


def test_a_proof_is_bound_to_the_request_and_to_the_token() -> None:
    dpop = Dpop(None)
    header, claims = opened(dpop.proof("POST", URL, wall_now=1000.7, access_token="abc"))
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert claims.pop("jti")
    ath = base64.urlsafe_b64encode(hashlib.sha256(b"abc").digest()).rstrip(b"=").decode()
    assert claims == {"htm": "POST", "htu": "https://api.example/tools", "iat": 999, "ath": ath}
    assert "ath" not in opened(dpop.proof("POST", URL, wall_now=1000))[1]


def test_each_proof_is_fresh_and_all_are_by_one_key() -> None:
    dpop = Dpop(None)
    first, second = (opened(dpop.proof("GET", URL, wall_now=0)) for _ in range(2))
    assert first[1]["jti"] != second[1]["jti"]
    assert first[0]["jwk"] == second[0]["jwk"]


def test_a_configured_key_signs() -> None:
    key = ECKey.generate_key("P-384")
    header, _ = opened(Dpop(key.as_pem(private=True).decode()).proof("GET", URL, wall_now=0))
    assert header["jwk"]["x"] == key.as_dict(private=False)["x"]
    with pytest.raises(ConfigurationError):
        Dpop(dict(OctKey.generate_key(256).as_dict(private=True))).proof("GET", URL, wall_now=0)


def test_nonces_are_kept_apart_by_role_and_origin() -> None:
    dpop = Dpop(None)
    other = "https://other.example/"
    assert dpop.remember(URL, "as-nonce", resource=False)
    assert dpop.remember(URL, "rs-nonce", resource=True)

    def nonce(url: str, access_token: str | None) -> str | None:
        return opened(dpop.proof("GET", url, wall_now=0, access_token=access_token))[1].get("nonce")

    assert (nonce(URL, None), nonce(URL, "t")) == ("as-nonce", "rs-nonce")
    assert (nonce(other, None), nonce(other, "t")) == (None, None)


def test_the_nonces_of_256_origins_are_kept() -> None:
    dpop = Dpop(None)

    def nonce() -> str | None:
        return opened(dpop.proof("GET", "https://api0.example", wall_now=0, access_token="t"))[1].get("nonce")

    for number in range(256):
        dpop.remember(f"https://api{number}.example", "nonce", resource=True)
    assert nonce() == "nonce"
    dpop.remember("https://api256.example", "nonce", resource=True)
    assert nonce() is None


@pytest.mark.parametrize(
    ("server", "resource", "expected"),
    [
        (None, None, ("RS256", "RS256")),
        (("PS256",), None, ("PS256", "PS256")),
        (("RS384",), ("PS256",), ("RS384", "PS256")),
        (None, ("PS256",), ("RS256", "PS256")),
    ],
)
def test_each_side_gets_proofs_by_an_algorithm_that_it_publishes(
    server: tuple[str, ...] | None, resource: tuple[str, ...] | None, expected: tuple[str, str]
) -> None:
    dpop = Dpop(RSAKey.generate_key(2048).as_pem(private=True).decode())
    dpop.obey(server, resource)
    heads = (dpop.proof("GET", URL, wall_now=0, access_token=token).partition(".")[0] for token in (None, "t"))
    assert tuple(json.loads(base64.urlsafe_b64decode(head + "=="))["alg"] for head in heads) == expected


def test_tokens_of_another_key_are_told_from_ours() -> None:
    key = ECKey.generate_key("P-256").as_pem(private=True).decode()
    configured, again, made, other = Dpop(key), Dpop(key), Dpop(None), Dpop(None)
    assert configured.configured
    assert configured.identity() == again.identity() == configured.thumbprint()
    assert not made.configured
    assert made.identity() != other.identity()
    # The type of a key that is made here is known after discovery only.
    before = made.identity()
    made.obey(("ES384",), None)
    assert opened(made.proof("GET", URL, wall_now=0))[0]["alg"] == "ES384"
    assert made.identity() == before != made.thumbprint()


@pytest.mark.parametrize("nonce", [None, "", "a b", "a\r\nX: 1", 'a"b', "é", "x" * 513])
def test_what_is_no_nonce_is_not_taken_in(nonce: str | None) -> None:
    assert not Dpop(None).remember(URL, nonce, resource=True)


class Peer:
    """An authorization server and an API that verify every proof; each demands its own nonce, and changes it."""

    def __init__(self) -> None:
        self.nonces: dict[str, str | None] = {"as.example": "as-1", "api.example": "rs-1"}
        self.seen: list[tuple[str, str]] = []
        self.jtis: set[str] = set()
        self.token_type = "DPoP"
        self.issued_to: dict[str, Any] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        header, claims = opened(request.headers["DPoP"])
        assert claims["jti"] not in self.jtis
        self.jtis.add(claims["jti"])
        assert (claims["htm"], claims["htu"]) == (request.method, str(request.url.copy_with(query=None)))
        if (wanted := self.nonces[host]) is not None and claims.get("nonce") != wanted:
            self.seen.append((host, "no nonce"))
            return httpx2.Response(
                400 if host == "as.example" else 401,
                headers={"DPoP-Nonce": wanted, "WWW-Authenticate": 'DPoP error="use_dpop_nonce"'},
                json={"error": "use_dpop_nonce"},
            )
        self.seen.append((host, "nonce"))
        if host == "as.example":
            self.issued_to = header["jwk"]
            token = {"access_token": f"token-{len(self.seen)}", "token_type": self.token_type, "expires_in": 3600}
            return httpx2.Response(200, json=token, headers={"DPoP-Nonce": "as-2"})
        assert header["jwk"] == self.issued_to
        assert request.headers["Authorization"].startswith("DPoP ")
        assert claims["ath"]
        self.nonces[host] = "rs-2"
        return httpx2.Response(200, headers={"DPoP-Nonce": "rs-2"})

    def provider(self, **options: Any) -> TokenProvider:
        settings: dict[str, Any] = {"dpop": True, "token_endpoint": "https://as.example/token", **options}
        return TokenProvider("me", "secret", transport=httpx2.MockTransport(self), **settings)


def test_nonces_are_answered_at_the_token_endpoint_and_at_the_api() -> None:
    peer = Peer()
    with (
        peer.provider() as provider,
        httpx2.Client(auth=provider.auth(), transport=httpx2.MockTransport(peer)) as client,
    ):
        for _ in range(2):
            assert client.post("https://api.example/tools?x=1", content=b"hello").status_code == 200
        assert provider.state().counts.token_requests == 1
    # The second request carries the nonce that came with the first one's success.
    assert peer.seen == [
        ("as.example", "no nonce"),
        ("as.example", "nonce"),
        ("api.example", "no nonce"),
        ("api.example", "nonce"),
        ("api.example", "nonce"),
    ]


def test_a_server_that_hands_out_a_bearer_token_instead_is_refused() -> None:
    peer = Peer()
    peer.token_type = "Bearer"
    with peer.provider() as provider, pytest.raises(InvalidTokenResponse, match="does not bind tokens for this client"):
        provider.get_token()


def test_a_bound_token_where_a_bearer_token_was_asked_for_is_refused() -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"access_token": "a", "token_type": "DPoP"})

    transport = httpx2.MockTransport(answer)
    with (
        TokenProvider("me", "secret", token_endpoint="https://as.example/token", transport=transport) as provider,
        pytest.raises(InvalidTokenResponse, match="Set dpop=True"),
    ):
        provider.get_token()


def test_a_server_that_always_wants_another_nonce_is_asked_twice_only() -> None:
    asked = 0

    def never(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        if request.url.host == "as.example":
            return httpx2.Response(200, json={"access_token": f"t{asked}", "token_type": "DPoP", "expires_in": 60})
        asked += 1
        headers = {"DPoP-Nonce": f"n{asked}", "WWW-Authenticate": 'DPoP error="use_dpop_nonce"'}
        return httpx2.Response(401, headers=headers)

    transport = httpx2.MockTransport(never)
    with (
        TokenProvider(
            "me", "secret", dpop=True, token_endpoint="https://as.example/token", transport=transport
        ) as provider,
        httpx2.Client(auth=provider.auth(), transport=transport) as client,
    ):
        assert client.get("https://api.example/").status_code == 401
    # A complaint about the nonce says nothing against the token: it is not replaced, and nothing loops.
    assert asked == 2


def test_requests_that_have_the_nonce_at_the_same_time_leave_the_token_alone() -> None:
    peer = Peer()
    peer.nonces["as.example"] = None
    together = asyncio.Barrier(20)

    async def api(request: httpx2.Request) -> httpx2.Response:
        if "nonce" in opened(request.headers["DPoP"])[1]:
            return httpx2.Response(200)
        await together.wait()
        headers = {"DPoP-Nonce": "n", "WWW-Authenticate": 'DPoP error="use_dpop_nonce"'}
        return httpx2.Response(401, headers=headers)

    async def main(provider: TokenProvider) -> set[int]:
        async with httpx2.AsyncClient(auth=provider.auth(), transport=httpx2.MockTransport(api)) as client:
            answers = await asyncio.gather(*(client.get("https://api.example/") for _ in range(20)))
            return {answer.status_code for answer in answers}

    with peer.provider() as provider:
        assert asyncio.run(main(provider)) == {200}
        assert provider.state().counts.token_requests == 1


def test_a_key_is_not_in_a_repr() -> None:
    key = dict(ECKey.generate_key("P-256").as_dict(private=True))
    provider = TokenProvider("me", "secret", dpop=key, token_endpoint="https://as.example/token")
    assert json.dumps(key["d"]) not in f"{provider!r} {provider.state()} {provider.dpop!r}"
