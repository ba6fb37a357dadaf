"""What a store can see of an entry: a name that tells nothing, and a value that only the credential opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from conduit_oauth.credentials import Credentials
from conduit_oauth.sealing import Seal, credential
from conduit_oauth.tls import ClientCertificate

SEAL = Seal(b"secret", b"identity", "token")


def test_what_was_sealed_is_opened_by_the_same_credential() -> None:
    sealed = SEAL.close(b"plain")
    assert Seal(b"secret", b"identity", "token").open(sealed) == b"plain"
    assert b"plain" not in sealed
    assert SEAL.close(b"plain") != sealed


@pytest.mark.parametrize(
    "other",
    [Seal(b"other", b"identity", "token"), Seal(b"secret", b"other", "token"), Seal(b"secret", b"identity", "x")],
)
def test_another_credential_identity_or_use_finds_nothing_and_opens_nothing(other: Seal) -> None:
    assert other.name != SEAL.name
    assert other.open(SEAL.close(b"plain")) is None


def test_what_was_changed_is_not_opened() -> None:
    sealed = SEAL.close(b"plain")
    for place in range(len(sealed)):
        assert SEAL.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]) is None
        assert SEAL.open(sealed[:place]) is None
    assert SEAL.open(sealed + b"x") is None


def test_a_name_has_128_bits_and_nothing_of_the_secret() -> None:
    assert len(bytes.fromhex(SEAL.name)) == 16
    assert Seal(b"secret", b"identity", "token").name == SEAL.name


def test_each_kind_of_credential_counts(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("key of the certificate")
    given = [
        Credentials(),
        Credentials("a"),
        Credentials("b"),
        Credentials(private_key="k"),
        Credentials(private_key={"kty": "EC", "d": "a"}),
        Credentials(client_assertion="c"),
        Credentials("a", assertion="d"),
        Credentials("a", subject_token="e"),
        Credentials(client_certificate=ClientCertificate(tmp_path / "cert.pem", tmp_path / "key.pem")),
    ]
    assert len({credential(each) for each in given}) == len(given)
    assert credential(Credentials(lambda: "a")) == credential(Credentials("a"))
    one, other = ({"kty": "EC", "d": "a"}, {"d": "a", "kty": "EC"})
    assert credential(Credentials(private_key=one)) == credential(Credentials(private_key=other))
