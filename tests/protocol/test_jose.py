"""The algorithm of a signature: the key's own, the one that the server lists, and no warning of the library beneath."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from conduit_oauth import ConfigurationError
from conduit_oauth.cli.inspection import read_jwt
from conduit_oauth.protocol.dpop import Dpop
from conduit_oauth.protocol.jose import load_key, sign_assertion

RSA = RSAKey.generate_key(2048)
ED25519 = OKPKey.generate_key("Ed25519")


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=True), **members}


def algorithm_of(token: str) -> str:
    read = read_jwt(token)
    assert read is not None
    return read.header["alg"]


def sign(key: Any, *, algorithm: str | None = None, supported: tuple[str, ...] | None = None) -> str:
    _, token = sign_assertion(load_key(key), {"a": 1}, key_id=None, algorithm=algorithm, supported=supported)
    return algorithm_of(token)


@pytest.mark.parametrize("algorithm", ["RS256", "PS512"])
def test_the_algorithm_of_a_jwk_is_the_only_one_used_with_it(algorithm: str) -> None:
    key = jwk(RSA, alg=algorithm)
    assert sign(key) == algorithm
    assert sign(key, algorithm=algorithm, supported=("RS256", "PS512")) == algorithm


@pytest.mark.parametrize(
    ("key", "settings", "field", "words"),
    [
        (jwk(RSA, alg="PS256"), {"algorithm": "RS256"}, "signing_algorithm", "is RS256, and the key can sign by PS256"),
        (jwk(RSA, alg="PS256"), {"supported": ("RS256",)}, "signing_algorithm", "the server lists RS256"),
        (jwk(RSA, alg="ES256"), {}, "private_key", "says alg ES256"),
        (jwk(RSA, alg="RSA-OAEP"), {}, "private_key", "says alg RSA-OAEP"),
        (jwk(ECKey.generate_key("secp256k1")), {}, "private_key", "signs by no algorithm known here"),
        (jwk(RSA, use="enc"), {}, "private_key", "not for signatures"),
        (jwk(RSA, key_ops=["decrypt"]), {}, "private_key", "not for signatures"),
        (jwk(RSA), {"supported": ("ES256",)}, "signing_algorithm", "or set signing_algorithm"),
    ],
)
def test_a_contradiction_is_an_error_of_the_configuration(
    key: Any, settings: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sign(key, **settings)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("supported", "expected"),
    [(None, "EdDSA"), (("Ed25519",), "Ed25519"), (("RS256", "EdDSA"), "EdDSA"), (("ES256", "Ed25519"), "Ed25519")],
)
def test_ed25519_goes_by_the_name_that_the_server_lists(supported: tuple[str, ...] | None, expected: str) -> None:
    assert sign(jwk(ED25519), supported=supported) == expected


def test_a_configured_algorithm_goes_before_what_the_server_lists() -> None:
    assert sign(jwk(RSA), algorithm="PS256", supported=("RS256",)) == "PS256"


def test_a_short_rsa_key_is_refused() -> None:
    # 1,020 bits by the length of its modulus; no such key is made here.
    short = {**jwk(RSA), "n": "A" * 170}
    with pytest.raises(ConfigurationError, match="shorter than 2048 bits"):
        load_key(short)


def test_no_warning_of_the_library_reaches_the_user() -> None:
    program = """
from conduit_oauth.cli.inspection import read_jwt
from conduit_oauth.protocol.dpop import Dpop
from conduit_oauth.protocol.jose import load_key, shared_key, sign_assertion
key = load_key(%r)
for key in (key, shared_key("short")):
    print(read_jwt(sign_assertion(key, {"a": 1}, key_id=None, algorithm=None, supported=None)[1]).header["alg"])
print(read_jwt(Dpop(%r).proof("POST", "https://as.example", wall_now=0)).header["alg"])
"""
    pem = ED25519.as_pem(private=True).decode()
    command = [sys.executable, "-W", "error", "-c", program % (pem, pem)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["EdDSA", "HS256", "EdDSA"], "")


def proof(dpop: Dpop, *, resource: bool = False) -> str:
    token = "a" if resource else None
    return algorithm_of(dpop.proof("GET", "https://x.example", wall_now=0.0, access_token=token))


@pytest.mark.parametrize(
    ("server", "resource", "expected"),
    [
        (None, None, ("ES256", "ES256")),
        (("ES384", "RS256"), None, ("ES384", "ES384")),
        (("EdDSA",), ("Ed25519", "EdDSA"), ("EdDSA", "EdDSA")),
        (("ES256", "RS256"), ("PS256", "RS256"), ("RS256", "RS256")),
        (None, ("ES512",), ("ES512", "ES512")),
    ],
)
def test_a_key_that_is_made_here_suits_the_server_and_the_resource(
    server: tuple[str, ...] | None, resource: tuple[str, ...] | None, expected: tuple[str, str]
) -> None:
    dpop = Dpop(None)
    dpop.obey(server, resource)
    assert (proof(dpop), proof(dpop, resource=True)) == expected


def test_each_side_gets_the_name_that_it_lists() -> None:
    dpop = Dpop(ED25519.as_pem(private=True).decode())
    dpop.obey(("EdDSA",), ("Ed25519",))
    assert (proof(dpop), proof(dpop, resource=True)) == ("EdDSA", "Ed25519")


def test_a_key_that_the_server_does_not_take_is_an_error_of_the_configuration() -> None:
    dpop = Dpop(ECKey.generate_key("P-256").as_pem(private=True).decode())
    dpop.obey(("RS256",), None)
    with pytest.raises(ConfigurationError, match="the server lists RS256") as caught:
        proof(dpop)
    assert caught.value.field == "dpop"
    dpop = Dpop(None)
    dpop.obey(("HS256",), None)
    with pytest.raises(ConfigurationError, match="no algorithm is known"):
        proof(dpop)
